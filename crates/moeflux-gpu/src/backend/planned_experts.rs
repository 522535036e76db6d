//! The routed experts of a step of few tokens.

use std::collections::BTreeSet;
use std::ops::Range;

use moeflux::Error;
use moeflux::graph::{BufferId, Op};

use super::decode::{Work, input};
use super::experts::choices;
use super::plan::Experts;
use super::{GpuBackend, wrong_op};
use crate::ops::decode::{self, Choose, ExpertAct, ExpertSum, SharedExpert};
use crate::ops::{ExpertSlots, RouterShape};
use crate::{Gpu, GpuError, View};

/// Tokens that are computed together, and the experts that they need.
type Turn = (Range<usize>, Vec<u32>);

impl GpuBackend {
    pub(super) fn planned_experts(
        &mut self,
        item: &Experts,
        w: &mut Work<'_, '_>,
        hopeful: bool,
    ) -> Result<(), Error> {
        let op = &w.graph.ops[item.op];
        let &Op::Experts {
            ids,
            weights,
            top_k,
            layer,
            ..
        } = op
        else {
            return Err(wrong_op(op));
        };
        let tokens = w.pool.len(ids) / top_k.max(1);
        self.buffers.make(&self.gpu, w.pool, item.out)?;
        self.prepare_source(&item.source, w.weights)?;
        if let Some(shared) = &item.shared {
            self.weights.matrix(&self.gpu, w.weights, shared.down)?;
        }
        let slots = self.experts.open(&self.gpu, w.stage, (layer, top_k))?;
        let (room, is_complete) = (slots.slots(), slots.is_complete());
        // What waits for choices begins when they have slots.
        let is_known = self.waiting.as_ref().is_some_and(|w| w.layer == layer);
        if hopeful || is_complete || is_known {
            let chooser = item.router.filter(|_| hopeful);
            return self.turn(item, w, 0..tokens, (hopeful && !is_complete, chooser));
        }
        let chosen = match self.experts.take_chosen(layer) {
            Some(chosen) => chosen,
            None => {
                let ids = self.buffers.view(w.pool, ids)?;
                let weights = self.buffers.view(w.pool, weights)?;
                choices(&mut self.recorder, layer, ids, weights)?
            }
        };
        self.recorder.submit();
        w.stage
            .residency
            .note(layer, &chosen.ids, &chosen.weights)?;
        for (tokens, experts) in turns(&chosen.ids, top_k, room) {
            let r = &mut self.recorder;
            self.experts.ensure(r, w.stage, layer, &experts)?;
            self.experts.tell(r, layer, None);
            self.turn(item, w, tokens, (false, None))?;
        }
        Ok(())
    }

    /// Computes some tokens, all of whose experts have slots unless that is noted, after choosing
    /// them as a router would.
    fn turn(
        &mut self,
        item: &Experts,
        w: &Work<'_, '_>,
        tokens: Range<usize>,
        (is_noted, chooser): (bool, Option<usize>),
    ) -> Result<(), Error> {
        let op = &w.graph.ops[item.op];
        let &Op::Experts {
            ids,
            weights,
            top_k,
            layer,
            ..
        } = op
        else {
            return Err(wrong_op(op));
        };
        let (r, buffers) = (&mut self.recorder, &self.buffers);
        let slots = self.experts.layer(layer)?;
        let n = w.pool.len(ids);
        let ((memory, first), (_, second)) = (buffers.set_view(ids)?, buffers.set_view(weights)?);
        let choices = View {
            offset: first as u64 * 4,
            bytes: memory.bytes - first as u64 * 4,
            ..memory
        };
        let experts = ExpertSlots {
            slots: (&slots.slots).into(),
            slot_bytes: slots.slot_bytes,
            table: (&slots.table).into(),
            ids: choices,
            n,
        };
        let act_bytes = (n * slots.gate.0.rows * 4) as u64;
        let act = r.scratch("experts: activations", act_bytes)?;
        let held = (&self.weights, w.weights);
        let choose = match chooser.map(|router| &w.graph.ops[router]) {
            None => None,
            Some(router) => chosen_by(&self.gpu, router, |id| buffers.view(w.pool, id))?,
        };
        let act = View::first(&act, act_bytes);
        decode::expert_act(
            r,
            &ExpertAct {
                experts,
                matrices: (&slots.gate.0, slots.gate.1, slots.up.1),
                input: input(&item.source, buffers, held, w.pool)?,
                top_k,
                choices: tokens.start * top_k..tokens.end * top_k,
                notes: self.experts.notes(layer).filter(|_| is_noted),
                choose,
                out: act,
            },
        )?;
        let shared = match &item.shared {
            None => None,
            Some(shared) => {
                let (inputs, gates) = buffers.set_view(shared.gate)?;
                let band = match &self.weights.known_matrix(shared.down)?.bands[..] {
                    [band] => band,
                    _ => return Err(large().into()),
                };
                let scale = shared.scale.map(|id| buffers.set_view(id)).transpose()?;
                Some(SharedExpert {
                    down: (
                        &band.form,
                        band.form.place(band.start),
                        (&band.buffer).into(),
                    ),
                    inputs,
                    gates,
                    ups: buffers.set_view(shared.up)?.1,
                    scales: scale.map(|(_, start)| start),
                })
            }
        };
        let sum = ExpertSum {
            experts,
            weights: second - first,
            down: (&slots.down.0, slots.down.1),
            act,
            top_k,
            tokens,
            shared,
            added: item.added.map(|id| buffers.view(w.pool, id)).transpose()?,
            out: buffers.view(w.pool, item.out)?,
        };
        Ok(decode::expert_sum(r, &sum)?)
    }
}

/// What a router chooses by, if experts can make its choice on this device.
fn chosen_by<'a>(
    gpu: &Gpu,
    router: &Op,
    view: impl Fn(BufferId) -> Result<View<'a>, Error>,
) -> Result<Option<Choose<'a>>, Error> {
    let &Op::Router {
        logits,
        experts,
        top_k,
        renormalize,
        weights,
        ..
    } = router
    else {
        return Err(wrong_op(router));
    };
    let shape = RouterShape {
        experts,
        top_k,
        renormalize,
    };
    if !decode::can_choose(gpu, shape) {
        return Ok(None);
    }
    let (logits, weights) = (view(logits)?, view(weights)?);
    Ok(Some(Choose {
        logits,
        weights,
        shape,
    }))
}

fn large() -> GpuError {
    GpuError::Unsupported {
        op: "expert_sum",
        problem: "the shared expert is larger than the device binds at once".to_owned(),
    }
}

/// Tokens in a row whose experts fit into the slots; a token's always do.
fn turns(ids: &[u32], top_k: usize, room: usize) -> Vec<Turn> {
    let mut turns: Vec<(Range<usize>, BTreeSet<u32>)> = Vec::new();
    for (token, own) in ids.chunks(top_k.max(1)).enumerate() {
        let own: BTreeSet<u32> = own.iter().copied().collect();
        match turns.last_mut() {
            Some((tokens, experts)) if experts.union(&own).count() <= room => {
                tokens.end = token + 1;
                experts.extend(own);
            }
            _ => turns.push((token..token + 1, own)),
        }
    }
    let turns = turns.into_iter();
    turns
        .map(|(tokens, experts)| (tokens, experts.into_iter().collect()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_take_turns_by_their_experts() {
        let ids = [3, 1, 1, 2, 7, 8, 7, 3];
        assert_eq!(
            turns(&ids, 2, 3),
            [(0..2, vec![1, 2, 3]), (2..4, vec![3, 7, 8])]
        );
        assert_eq!(turns(&ids, 2, 2).len(), 4);
        assert_eq!(turns(&ids, 2, 8), [(0..4, vec![1, 2, 3, 7, 8])]);
    }
}
