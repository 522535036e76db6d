//! Steps on trial: run several tokens at once, then keep as many of them as turn out right.

use super::budget::Room;
use super::{Engine, Executor, Logits, Span, Want, Watch};
use crate::Error;
use crate::backend::{Step, StepSpan};
use crate::graph::{BufferPool, Recurrence};
use crate::session::Session;

impl Engine {
    /// The most tokens that [`Engine::forward_trial`] takes.
    pub fn trial_tokens(&self) -> usize {
        self.plan.chunk_tokens.min(self.plan.chunk_outputs)
    }

    /// Runs `tokens` in one step and gives the logits of all of them. Until the session's next step
    /// or rewind, [`Engine::retract`] can take the last of them back.
    ///
    /// # Errors
    /// As [`Engine::forward`]; the session is then as it was before the call.
    pub fn forward_trial(&self, session: &mut Session, tokens: &[u32]) -> Result<Logits, Error> {
        let recurrences = self.graph.recurrences();
        let widths = recurrences.iter().flat_map(|r| &r.inputs);
        let width: usize = widths.map(|b| self.graph.buffers[b.index()].width).sum();
        let limit = self.trial_tokens();
        if tokens.len() > limit {
            let tokens = tokens.len();
            return Err(Error::StepSize { tokens, limit });
        }
        session.announce_trial((width * tokens.len() * size_of::<f32>()) as u64);
        let mut record = Vec::with_capacity(width * tokens.len());
        let mut keep = |recurrence: &Recurrence, buffers: &BufferPool| {
            for buffer in &recurrence.inputs {
                record.extend_from_slice(buffers.get(*buffer));
            }
        };
        let span = Span {
            session: &mut *session,
            tokens,
            want: Want::All,
            is_prompt: false,
        };
        let result = self.step(&mut [span], false, Watch::Recurrences(&mut keep));
        match &result {
            Ok(_) => session.begin_trial(tokens, record),
            Err(_) => session.end_trial(),
        }
        Ok(result?.pop().unwrap_or_default())
    }

    /// Takes tokens of the session's last step back, which must have been one on trial, so that the
    /// session holds the first `len`: bit for bit as if it had never held more. It can be called
    /// again for fewer.
    ///
    /// # Errors
    /// [`Error::Rewind`] if the last step was not on trial or began after `len`; the session is
    /// then unchanged. Any other error is a defect; the session then ends where the step began.
    pub fn retract(&self, session: &mut Session, len: usize) -> Result<(), Error> {
        if len == session.len() {
            return Ok(());
        }
        if !session.belongs_to(&self.shape) {
            return Err(Error::ForeignSession);
        }
        let trial = session.undo_trial(len)?;
        let (all, kept) = (trial.tokens.len(), len - trial.start);
        if kept > 0 {
            self.replay(session, &trial.record, all, kept)?;
            session.redo_trial(trial, kept);
        }
        Ok(())
    }

    /// Runs the recurrences of a step of `all` tokens for its first `kept` ones, from the session's
    /// current state and the step's record.
    fn replay(
        &self,
        session: &mut Session,
        record: &[f32],
        all: usize,
        kept: usize,
    ) -> Result<(), Error> {
        let mut executor = self.lock();
        let need = Room {
            tokens: kept,
            outputs: 0,
        };
        self.make_scratch(&mut executor, need)?;
        let Executor {
            backend,
            buffers,
            stage,
            ..
        } = &mut *executor;
        let _settled = backend.settle();
        buffers.begin(kept, 0);
        let mut step = Step {
            spans: vec![StepSpan {
                start: session.len(),
                session,
                first_row: 0,
                len: kept,
                is_prompt: false,
            }],
            tokens: &[],
            positions: &[],
            outputs: &[],
        };
        backend.begin_step();
        let short = || Error::Internal("the record of a step on trial is too short".to_owned());
        let mut rest = record;
        let mut inputs = |recurrence: &Recurrence, buffers: &mut BufferPool| {
            for &buffer in &recurrence.inputs {
                let width = self.graph.buffers[buffer.index()].width;
                let (rows, behind) = rest.split_at_checked(all * width).ok_or_else(short)?;
                rest = behind;
                buffers.upload(buffer, &rows[..kept * width])?;
            }
            Ok(())
        };
        let (graph, weights) = (&self.graph, &self.weights);
        backend.run_recurrences(graph, &mut step, weights, buffers, stage, &mut inputs)?;
        backend.end_step()
    }
}
