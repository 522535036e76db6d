//! The routed experts as an operation by itself.

use moeflux::Error;
use moeflux::backend::{ExpertStage, Step};
use moeflux::graph::{BufferPool, Op};
use moeflux::weights::Weights;

use super::super::prompt::{self, ExpertForms, Run};
use super::super::{GpuBackend, wrong_op};
use super::{Chosen, DeviceExperts, Layer, Together};
use crate::ops::{self, CombineViews, ExpertExtras, ExpertSlots, Pairs};
use crate::{GpuError, Recorder, View};

impl Layer {
    /// Computes what the experts give that the table on the device knows.
    pub(super) fn compute(&self, r: &mut Recorder, v: &ExpertViews<'_>) -> Result<(), GpuError> {
        let n = v.n * v.top_k;
        let experts = ExpertSlots {
            slots: (&self.slots).into(),
            slot_bytes: self.slot_bytes,
            table: (&self.table).into(),
            ids: v.ids,
            n,
        };
        if v.prompts != [(0, v.n)] {
            self.one_by_one(r, &experts, v)?;
        }
        let act_bytes = (n * self.gate.0.rows * 4) as u64;
        let forms = ExpertForms {
            gate: &self.gate,
            up: &self.up,
            down: &self.down,
            extras: v.extras,
            count: self.slot_of.len(),
        };
        for &run in &v.prompts {
            let act = r.scratch("experts: activations", act_bytes)?;
            let act = View::first(&act, act_bytes);
            let views = (v.x, act, v.results);
            prompt::experts(r, (&experts, &forms), views, run, v.top_k)?;
        }
        Ok(())
    }

    fn one_by_one(
        &self,
        r: &mut Recorder,
        experts: &ExpertSlots<'_>,
        v: &ExpertViews<'_>,
    ) -> Result<(), GpuError> {
        let ((gate, gate_place), (up, up_place)) = (self.gate, self.up);
        let act_bytes = (experts.n * gate.rows * 4) as u64;
        let act = r.scratch("experts: activations", act_bytes)?;
        let act = View::first(&act, act_bytes);
        if v.is_rounded {
            let places = (&gate, gate_place, up_place);
            ops::expert_exact_swiglu(r, experts, places, (v.x, v.top_k), act)?;
            let down = (&self.down.0, self.down.1);
            return ops::expert_exact(r, experts, down, (act, 1), v.results);
        }
        if gate == up && v.extras.is_plain() {
            let places = (&gate, gate_place, up_place);
            ops::expert_swiglu(r, experts, places, (v.x, v.top_k), act)?;
        } else {
            let gated = r.scratch("experts: gates", act_bytes)?;
            let upped = r.scratch("experts: ups", act_bytes)?;
            let [gated, upped] = [&gated, &upped].map(|buffer| View::first(buffer, act_bytes));
            let x = (v.x, v.top_k);
            ops::expert_matvec(r, experts, (&gate, gate_place), x, gated)?;
            ops::expert_matvec(r, experts, (&up, up_place), x, upped)?;
            v.extras
                .activate(r, (gated, upped), v.pairs(), act, gate.rows)?;
        }
        let down = (&self.down.0, self.down.1);
        ops::expert_matvec(r, experts, down, (act, 1), v.results)
    }
}

/// What a layer's experts work on.
pub(super) struct ExpertViews<'a> {
    pub x: View<'a>,
    pub ids: View<'a>,
    /// `[n, top_k, hidden]`.
    pub results: View<'a>,
    pub n: usize,
    pub top_k: usize,
    /// Whether rows that are not of prompts are rounded to 8 bits, as the processor does.
    is_rounded: bool,
    extras: ExpertExtras<'a>,
    /// Rows that are of prompts.
    prompts: Vec<Run>,
}

impl ExpertViews<'_> {
    /// All pairs.
    fn pairs(&self) -> Pairs<'_> {
        Pairs {
            ids: self.ids,
            first: 0,
            len: self.n * self.top_k,
        }
    }
}

impl GpuBackend {
    /// Asks for the experts that are not on the device, so that they are read while other
    /// operations run.
    pub(in crate::backend) fn request_experts(
        &mut self,
        op: &Op,
        pool: &BufferPool,
        stage: &mut ExpertStage,
    ) -> Result<(), Error> {
        let &Op::RequestExperts {
            ids,
            weights,
            top_k,
            layer,
        } = op
        else {
            return Err(wrong_op(op));
        };
        let slots = self.experts.open(&self.gpu, stage, (layer, top_k))?;
        if slots.is_complete() {
            return Ok(());
        }
        let (ids, weights) = (
            self.buffers.view(pool, ids)?,
            self.buffers.view(pool, weights)?,
        );
        let chosen = choices(&mut self.recorder, layer, ids, weights)?;
        let (missing, counts) = chosen.missing(slots);
        if !missing.is_empty() {
            stage.residency.request(layer, &missing, &counts)?;
        }
        self.experts.chosen = Some(chosen);
        Ok(())
    }

    pub(in crate::backend) fn routed_experts(
        &mut self,
        op: &Op,
        step: &Step<'_>,
        (resident, pool): (&Weights, &BufferPool),
        stage: &mut ExpertStage,
    ) -> Result<(), Error> {
        let &Op::Experts {
            x,
            ids,
            weights,
            top_k,
            layer,
            form,
            out,
        } = op
        else {
            return Err(wrong_op(op));
        };
        let mut biases = None;
        if let Some(ids) = form.biases {
            for id in ids {
                self.weights.vector(&self.gpu, resident, id)?;
            }
            let [gate, up, down] = ids.map(|id| self.weights.known_vector(id));
            biases = Some([gate?, up?, down?]);
        }
        let is_rounded = self.together.takes_part(&self.gpu, stage, (layer, &form))?;
        self.experts.open(&self.gpu, stage, (layer, top_k))?;
        let n = pool.len(ids) / top_k;
        let width = pool.len(x) / n;
        let result_bytes = (n * top_k * width * 4) as u64;
        let results = self.recorder.scratch("experts: results", result_bytes)?;
        let views = ExpertViews {
            x: self.buffers.view(pool, x)?,
            ids: self.buffers.view(pool, ids)?,
            results: View::first(&results, result_bytes),
            n,
            top_k,
            is_rounded,
            extras: ExpertExtras {
                glu: form.glu,
                biases,
            },
            prompts: prompt::prompt_rows(step),
        };
        let (weights, out) = (
            self.buffers.view(pool, weights)?,
            self.buffers.view(pool, out)?,
        );
        let (r, together) = (&mut self.recorder, &mut self.together);
        let work = (layer, &views);
        self.experts.run(r, together, work, weights, stage)?;
        let (r, pairs) = (&mut self.recorder, views.pairs());
        views.extras.finish(r, views.results, pairs, width)?;
        let sums = CombineViews {
            rows: views.results,
            places: None,
            ids: views.ids,
            weights,
            out,
        };
        Ok(ops::combine(&mut self.recorder, &sums, width, top_k, n)?)
    }
}

impl DeviceExperts {
    fn run(
        &mut self,
        r: &mut Recorder,
        together: &mut Together,
        (layer, views): (usize, &ExpertViews<'_>),
        weights: View<'_>,
        stage: &mut ExpertStage,
    ) -> Result<(), Error> {
        let slots = self.layer(layer)?;
        if slots.is_complete() {
            return Ok(slots.compute(r, views)?);
        }
        if views.is_rounded && views.prompts.is_empty() {
            return self.run_together(together, r, (layer, views), weights, stage);
        }
        let room = slots.slots();
        let chosen = match self.take_chosen(layer) {
            Some(chosen) => chosen,
            None => choices(r, layer, views.ids, weights)?,
        };
        r.submit();
        stage.residency.note(layer, &chosen.ids, &chosen.weights)?;
        // More experts than slots take turns.
        let takes_turns = chosen.experts.len() > room;
        for turn in chosen.experts.chunks(room) {
            self.ensure(r, stage, layer, turn)?;
            self.tell(r, layer, takes_turns.then_some(turn));
            self.layer(layer)?.compute(r, views)?;
        }
        self.tell(r, layer, None);
        Ok(())
    }
}

/// Brings the tokens' choices to the host.
pub(in crate::backend) fn choices(
    r: &mut Recorder,
    layer: usize,
    ids: View<'_>,
    weights: View<'_>,
) -> Result<Chosen, Error> {
    let bytes = r.read(&[ids, weights])?;
    let (ids, weights) = bytes.split_at(bytes.len() / 2);
    Ok(Chosen::new(
        layer,
        bytemuck::pod_collect_to_vec(ids),
        bytemuck::pod_collect_to_vec(weights),
    ))
}
