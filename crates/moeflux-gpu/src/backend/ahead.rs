//! Answers whose next token is the most likely one: the step of that token begins on the device
//! while its step before is still running, before the host knows which token it is.
//!
//! All of the step is recorded but its logits, so those of the step before stay where they are. It
//! reads states as the step before leaves them and writes them elsewhere; keys and values go behind
//! the session's end. If the answer goes on otherwise, or the step before fails, nothing needs to be
//! undone: what was written counts for nothing.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use moeflux::backend::{Step, StepSpan};
use moeflux::graph::StateId;
use moeflux::{Error, Session};

use super::GpuBackend;
use super::decode::Work;
use super::plan::{Item, Plan};
use crate::ops;
use crate::recorder::Reading;
use crate::state::{DeviceKv, DeviceRecurrent, Marked};
use crate::{DeviceBuffer, View};

/// An answer that a step was of.
pub(super) struct Answer {
    /// What its states are marked with.
    mark: u64,
    /// Where it goes on.
    position: usize,
    /// The token that the step after it has begun with, if it has.
    begun: Option<u32>,
}

impl GpuBackend {
    /// A step of which only the most likely tokens are wanted.
    pub(super) fn best_step(&mut self, w: &mut Work<'_, '_>) -> Result<Option<Vec<u32>>, Error> {
        let before = self.answers.0.take();
        let Some(position) = position_of(w.step) else {
            self.any(w, None)?;
            return match self.begin_best(w)? {
                Some((reading, _)) => self.end_best(reading),
                None => Ok(None),
            };
        };
        let goes_on = before
            .as_ref()
            .is_some_and(|answer| answer.goes_on(w, position));
        let begun = before.and_then(|answer| answer.begun);
        match goes_on && begun == w.step.tokens.first().copied() {
            true => self.take_over(w)?,
            false => self.any(w, None)?,
        }
        let Some((reading, out)) = self.begin_best(w)? else {
            return Ok(None);
        };
        // Whoever asks for one token after another will ask for the next.
        let is_begun = goes_on && self.begin_next(w, position + 1, &out)?;
        let best = self.end_best(reading)?;
        self.marks += 1;
        let answer = Answer {
            mark: self.marks,
            position: position + 1,
            begun: best
                .as_ref()
                .filter(|_| is_begun)
                .and_then(|b| b.first().copied()),
        };
        let is_marked = each_state(w, |state| *state.mark() = answer.mark);
        self.answers.1 = Some(answer).filter(|_| is_marked);
        Ok(best)
    }

    /// Finds the most likely tokens and begins to read them.
    fn begin_best(
        &mut self,
        w: &Work<'_, '_>,
    ) -> Result<Option<(Reading, Arc<DeviceBuffer>)>, Error> {
        let logits = w.graph.logits;
        let rows = w.pool.rows(logits);
        if rows == 0 || !self.buffers.is_held(logits) {
            return Ok(None);
        }
        let width = w.pool.len(logits) / rows;
        let bytes = rows as u64 * 4;
        let out = self.recorder.scratch("best tokens", bytes)?;
        let view = View::first(&out, bytes);
        let logits = self.buffers.view(w.pool, logits)?;
        ops::argmax(&mut self.recorder, logits, view, rows, width)?;
        let reading = self.recorder.begin_read(&[view])?;
        Ok(Some((reading, out)))
    }

    fn end_best(&mut self, reading: Reading) -> Result<Option<Vec<u32>>, Error> {
        let mut best = vec![0u32; reading.bytes() as usize / 4];
        let bytes = bytemuck::cast_slice_mut(&mut best);
        self.recorder.end_read(reading, bytes)?;
        Ok((!best.contains(&ops::NOT_FINITE)).then_some(best))
    }

    /// Begins with the step of the token at `position`, which `token` holds; whether it has.
    fn begin_next(
        &mut self,
        w: &mut Work<'_, '_>,
        position: usize,
        token: &Arc<DeviceBuffer>,
    ) -> Result<bool, Error> {
        if !self.experts.is_complete() || self.recorder.is_timing() {
            return Ok(false);
        }
        let Some(plan) = self.plan.take() else {
            return Ok(false);
        };
        // Room is made last: it is memory.
        let mut is_wide = true;
        let count = plan
            .before_logits(w.graph)
            .filter(|_| each_state(w, |state| is_wide &= state.has_room(position + 1)) && is_wide);
        let Some(count) = count else {
            self.plan = Some(plan);
            return Ok(false);
        };
        each_state(w, |state| state.go_ahead(true));
        self.inputs.go_ahead(Some(Arc::clone(token)));
        let result = self.items_at(&plan.items[..count], w, position);
        self.inputs.go_ahead(None);
        each_state(w, |state| state.go_ahead(false));
        self.plan = Some(plan);
        result.map(|()| true)
    }

    /// Runs items of a step of one token at `position`.
    fn items_at(
        &mut self,
        items: &[Item],
        w: &mut Work<'_, '_>,
        position: usize,
    ) -> Result<(), Error> {
        let Some(span) = w.step.spans.first_mut() else {
            return Ok(());
        };
        let mut step = Step {
            spans: vec![StepSpan {
                session: &mut *span.session,
                start: position,
                first_row: 0,
                len: 1,
                is_prompt: false,
            }],
            tokens: &[0],
            positions: &[position as u32],
            outputs: &[0],
        };
        let mut work = Work {
            graph: w.graph,
            step: &mut step,
            weights: w.weights,
            pool: &mut *w.pool,
            stage: &mut *w.stage,
        };
        self.items(items, &mut work, true)
    }

    /// The rest of a step that has begun already.
    fn take_over(&mut self, w: &mut Work<'_, '_>) -> Result<(), Error> {
        let Some(plan) = self.plan.take() else {
            return Ok(());
        };
        let result = self.rest(&plan, w);
        self.plan = Some(plan);
        result
    }

    fn rest(&mut self, plan: &Plan, w: &mut Work<'_, '_>) -> Result<(), Error> {
        self.gpu.steps_ahead.fetch_add(1, Ordering::Relaxed);
        each_state(w, |state| state.take_over());
        self.buffers.place(&self.gpu, w.graph, &plan.sets, 1)?;
        let writes = w.graph.ops.iter().flat_map(|op| op.writes());
        self.buffers.take_over(writes);
        self.inputs.outputs(&mut self.recorder, w.step)?;
        let count = plan.before_logits(w.graph).unwrap_or(0);
        self.items(&plan.items[count..], w, true)
    }
}

impl Answer {
    /// Whether a step at `position` goes on from the step before it.
    fn goes_on(&self, w: &mut Work<'_, '_>, position: usize) -> bool {
        let mut all = position == self.position && !w.graph.states.is_empty();
        each_state(w, |state| all &= *state.mark() == self.mark) && all
    }
}

/// The position of a step's only token, whose logits are wanted.
fn position_of(step: &Step<'_>) -> Option<usize> {
    match &step.spans[..] {
        [span] if span.len == 1 && !span.is_prompt && step.outputs == [0] => Some(span.start),
        _ => None,
    }
}

/// Shows all states of a step's only session; whether each was of a kind that can be shown.
fn each_state(w: &mut Work<'_, '_>, mut see: impl FnMut(&mut dyn Marked)) -> bool {
    let Some(span) = w.step.spans.first_mut() else {
        return false;
    };
    let session: &mut Session = span.session;
    (0..w.graph.states.len()).all(|index| {
        let state = session.remote_state(StateId::new(index));
        let shown = state.and_then(|state| marked(state.as_any())).map(&mut see);
        shown.is_some()
    })
}

fn marked(state: &mut dyn Any) -> Option<&mut dyn Marked> {
    if state.is::<DeviceKv>() {
        return state.downcast_mut::<DeviceKv>().map(|kv| kv as _);
    }
    state
        .downcast_mut::<DeviceRecurrent>()
        .map(|state| state as _)
}
