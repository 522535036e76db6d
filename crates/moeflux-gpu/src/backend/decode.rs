//! Steps of few tokens: runs the items of a [`Plan`].
//!
//! Where experts are missing on the device there are two ways. A careful step brings each such layer's
//! choices to the host and their experts to the device before it goes on. A hopeful one goes through to
//! the end and reads whether a choice was missing, in which case it is run again carefully from the
//! first such layer on: what came before it lies in memory of its own, and sessions' state is only
//! taken over when a step has ended.

mod sources;

use std::collections::BTreeSet;

use moeflux::Error;
use moeflux::backend::{ExpertStage, Inputs, Record, Step};
use moeflux::graph::{BufferPool, Graph, Op};
use moeflux::weights::Weights;

use super::plan::{Delta, Heads, Item, Plan, Products, Source};
use super::state_ops::state_of;
use super::{GpuBackend, wrong_op};
use crate::ops::decode;
use crate::ops::{RopeShape, RouterShape, SpanRows};
use crate::state::{DeviceKv, DeviceRecurrent};
use sources::batches;
pub(super) use sources::input;

/// What a step works on.
pub(super) struct Work<'a, 'b> {
    pub graph: &'a Graph,
    pub step: &'a mut Step<'b>,
    pub weights: &'a Weights,
    pub pool: &'a mut BufferPool,
    pub stage: &'a mut ExpertStage,
}

impl GpuBackend {
    pub(super) fn decode(
        &mut self,
        w: &mut Work<'_, '_>,
        record: Option<Record<'_>>,
    ) -> Result<(), Error> {
        self.make_plan(w)?;
        let Some(plan) = self.plan.take() else {
            return Ok(());
        };
        let result = self.planned_step(&plan, w);
        self.plan = Some(plan);
        result?;
        let Some(record) = record else {
            return Ok(());
        };
        for recurrence in w.graph.recurrences() {
            self.buffers
                .fetch(&mut self.recorder, &recurrence.inputs, w.pool)?;
            record(&recurrence, w.pool);
        }
        Ok(())
    }

    /// Runs the recurrences alone.
    pub(super) fn replay(&mut self, w: &mut Work<'_, '_>, inputs: Inputs<'_>) -> Result<(), Error> {
        self.make_plan(w)?;
        let Some(plan) = self.plan.take() else {
            return Ok(());
        };
        let result = self.replayed(&plan, w, inputs);
        self.plan = Some(plan);
        result
    }

    fn replayed(
        &mut self,
        plan: &Plan,
        w: &mut Work<'_, '_>,
        inputs: Inputs<'_>,
    ) -> Result<(), Error> {
        let rows = w.step.spans.iter().map(|span| span.len).sum();
        self.buffers.place(&self.gpu, w.graph, &plan.sets, rows)?;
        let mut deltas = plan.items.iter().filter_map(|item| match item {
            Item::Delta(delta) => Some(delta),
            _ => None,
        });
        let mut next = deltas.next();
        for recurrence in w.graph.recurrences() {
            inputs(&recurrence, w.pool)?;
            for id in &recurrence.inputs {
                self.buffers.bring(&mut self.recorder, w.pool, *id)?;
            }
            match next {
                Some(delta) if delta.conv == recurrence.op => {}
                Some(delta) if delta.rule == recurrence.op => {
                    self.delta(delta, w)?;
                    next = deltas.next();
                }
                _ => {
                    let op = &w.graph.ops[recurrence.op];
                    self.one(op, w.step, w.weights, w.pool, w.stage)?;
                }
            }
        }
        Ok(())
    }

    /// Makes the plan where there is none yet, and uploads the weights that it wants side by side:
    /// before any other step has them uploaded one by one.
    pub(super) fn make_plan(&mut self, w: &Work<'_, '_>) -> Result<(), Error> {
        if self.plan.is_some() {
            return Ok(());
        }
        let mut apart = BTreeSet::new();
        for op in &w.graph.ops {
            if let Op::Experts { layer, form, .. } = op
                && self
                    .together
                    .takes_part(&self.gpu, w.stage, (*layer, form))?
            {
                apart.insert(*layer);
            }
        }
        let plan = Plan::new(w.graph, w.weights, w.stage, &apart)?;
        let (gpu, held) = (&self.gpu, &mut self.weights);
        for item in &plan.items {
            match item {
                Item::Products(p) => {
                    held.together(gpu, w.weights, p.outputs.iter().map(|&(id, _)| id))?;
                }
                Item::Heads(h) => {
                    if let Some((q, k, _)) = h.norms {
                        held.pair(gpu, w.weights, (q, k))?;
                    }
                }
                Item::Delta(d) => {
                    if let Op::GatedDelta { a_log, dt_bias, .. } = &w.graph.ops[d.rule] {
                        held.pair(gpu, w.weights, (*a_log, *dt_bias))?;
                    }
                }
                Item::Op(_) | Item::Choice(_) | Item::Experts(_) => {}
            }
        }
        self.plan = Some(plan);
        Ok(())
    }

    fn planned_step(&mut self, plan: &Plan, w: &mut Work<'_, '_>) -> Result<(), Error> {
        let rows = w.step.tokens.len();
        self.buffers.place(&self.gpu, w.graph, &plan.sets, rows)?;
        // Before anything is recorded, so that nothing has to be submitted for it.
        self.inputs.tokens(&mut self.recorder, w.step)?;
        if !w.step.outputs.is_empty() {
            self.inputs.outputs(&mut self.recorder, w.step)?;
        }
        self.recorder.hasten();
        if !self.experts.is_hopeful(&mut self.recorder)? {
            return self.careful(plan, &plan.items, w);
        }
        self.items(&plan.items, w, true)?;
        match self.experts.first_missed(&mut self.recorder)? {
            Some(layer) => {
                self.recorder.hasten();
                self.careful(plan, plan.rest_with_experts(w.graph, layer), w)
            }
            None => Ok(()),
        }
    }

    /// Finds out layer by layer which experts are missing.
    fn careful(&mut self, plan: &Plan, items: &[Item], w: &mut Work<'_, '_>) -> Result<(), Error> {
        self.may_wait = plan.can_wait;
        let mut result = self.items(items, w, false);
        self.may_wait = false;
        if result.is_ok() {
            result = self.end_choices(w);
        }
        if result.is_err() {
            self.forget_choices();
        }
        result
    }

    pub(super) fn items(
        &mut self,
        items: &[Item],
        w: &mut Work<'_, '_>,
        hopeful: bool,
    ) -> Result<(), Error> {
        for item in items {
            match item {
                Item::Op(at) => {
                    let op = &w.graph.ops[*at];
                    match op {
                        Op::RequestExperts { .. } if hopeful => {}
                        Op::RequestExperts { .. } if self.may_wait => {
                            if !self.begin_choices(op, w)? {
                                self.end_choices(w)?;
                                self.one(op, w.step, w.weights, w.pool, w.stage)?;
                            }
                        }
                        Op::Router { .. } => self.choice(op, w.pool, true)?,
                        _ => self.one(op, w.step, w.weights, w.pool, w.stage)?,
                    }
                }
                Item::Choice(at) => self.choice(&w.graph.ops[*at], w.pool, !hopeful)?,
                Item::Products(item) => self.products(item, w)?,
                Item::Heads(item) => self.heads(item, w)?,
                Item::Delta(item) => self.delta(item, w)?,
                Item::Experts(item) => self.planned_experts(item, w, hopeful)?,
            }
        }
        Ok(())
    }

    /// Uploads the vector that a source needs.
    pub(super) fn prepare_source(
        &mut self,
        source: &Source,
        weights: &Weights,
    ) -> Result<(), Error> {
        if let Source::Norm { weight, .. } | Source::GatedNorm { weight, .. } = source {
            self.weights.vector(&self.gpu, weights, *weight)?;
        }
        Ok(())
    }

    fn products(&mut self, item: &Products, w: &Work<'_, '_>) -> Result<(), Error> {
        let Some(&(_, first)) = item.outputs.first() else {
            return Ok(());
        };
        let rows = w.pool.len(first) / w.graph.buffers[first.index()].width.max(1);
        if rows == 0 {
            return Ok(());
        }
        for (weight, out) in &item.outputs {
            self.weights.matrix(&self.gpu, w.weights, *weight)?;
            self.buffers.make(&self.gpu, w.pool, *out)?;
        }
        self.prepare_source(&item.source, w.weights)?;
        let (r, buffers, held) = (&mut self.recorder, &self.buffers, &self.weights);
        let input = input(&item.source, buffers, (held, w.weights), w.pool)?;
        let added = item.added.map(|id| buffers.view(w.pool, id)).transpose()?;
        let batches = batches(&item.outputs, buffers, held)?;
        let (out, _) = buffers.set_view(first)?;
        for (buffer, segments) in &batches {
            decode::products(r, ((*buffer).into(), segments), &input, added, out, rows)?;
        }
        Ok(())
    }

    /// The choices of a router, unless nobody wants them before its experts, which can make them.
    fn choice(&mut self, op: &Op, pool: &BufferPool, wanted: bool) -> Result<(), Error> {
        let &Op::Router {
            logits,
            experts,
            top_k,
            renormalize,
            ids,
            weights,
        } = op
        else {
            return Err(wrong_op(op));
        };
        self.buffers.make(&self.gpu, pool, ids)?;
        self.buffers.make(&self.gpu, pool, weights)?;
        let view = |id| self.buffers.view(pool, id);
        let views = (view(logits)?, view(ids)?, view(weights)?);
        let shape = RouterShape {
            experts,
            top_k,
            renormalize,
        };
        if !wanted && decode::can_choose(&self.gpu, shape) {
            return Ok(());
        }
        let tokens = pool.rows(logits);
        Ok(decode::choice(&mut self.recorder, views, shape, tokens)?)
    }

    fn heads(&mut self, item: &Heads, w: &mut Work<'_, '_>) -> Result<(), Error> {
        let (rope, append) = (&w.graph.ops[item.rope], &w.graph.ops[item.append]);
        let (
            Op::Rope {
                heads,
                head_dim,
                inv_freq,
                attention_scale,
                style,
                ..
            },
            Op::KvAppend { state, .. },
        ) = (rope, append)
        else {
            return Err(wrong_op(rope));
        };
        self.buffers.make(&self.gpu, w.pool, item.out)?;
        self.inputs.freqs(&self.gpu, inv_freq)?;
        let norms = match item.norms {
            Some((q, k, eps)) => Some((self.weights.known_pair((q, k))?, eps)),
            None => None,
        };
        let (x, q) = self.buffers.set_view(item.q)?;
        let heads = decode::Heads {
            x,
            q,
            is_paired: item.is_paired,
            k: self.buffers.set_view(item.k)?.1,
            v: self.buffers.set_view(item.v)?.1,
            norms,
            inv_freq: self.inputs.known_freqs(inv_freq)?,
            shape: RopeShape {
                heads: *heads,
                head_dim: *head_dim,
                pairs: inv_freq.len(),
                style: *style,
                attention_scale: *attention_scale,
            },
            out: self.buffers.view(w.pool, item.out)?,
        };
        for span in &mut w.step.spans {
            let rows = SpanRows::from(&*span);
            let kv = state_of::<DeviceKv>(span.session, *state)?;
            decode::heads(&mut self.recorder, &heads, kv, rows)?;
        }
        Ok(())
    }

    fn delta(&mut self, item: &Delta, w: &mut Work<'_, '_>) -> Result<(), Error> {
        let (conv, rule) = (&w.graph.ops[item.conv], &w.graph.ops[item.rule]);
        let (
            Op::Conv1dSilu {
                x,
                weight,
                state: history,
                channels,
                ..
            },
            Op::GatedDelta {
                a,
                b,
                a_log,
                dt_bias,
                state,
                shape,
                out,
                ..
            },
        ) = (conv, rule)
        else {
            return Err(wrong_op(rule));
        };
        self.buffers.make(&self.gpu, w.pool, *out)?;
        let (_, len) = self.weights.vector(&self.gpu, w.weights, *weight)?;
        let (memory, qkv) = self.buffers.set_view(*x)?;
        let step = decode::DeltaStep {
            x: memory,
            qkv,
            a: self.buffers.set_view(*a)?.1,
            b: self.buffers.set_view(*b)?.1,
            taps: self.weights.known_vector(*weight)?,
            tap_count: len / (*channels).max(1),
            decays: self.weights.known_pair((*a_log, *dt_bias))?,
            out: self.buffers.view(w.pool, *out)?,
            shape: *shape,
        };
        for span in &mut w.step.spans {
            let rows = SpanRows::from(&*span);
            let (was, becomes) = state_of::<DeviceRecurrent>(span.session, *history)?.step()?;
            let (current, next) = state_of::<DeviceRecurrent>(span.session, *state)?.step()?;
            let r = &mut self.recorder;
            decode::delta_step(r, &step, (&was, &becomes), (&current, &next), rows)?;
        }
        Ok(())
    }
}
