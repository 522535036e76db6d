//! A step on trial: its last tokens can be taken back.
//!
//! Keys and values behind a position are simply no longer counted. A recurrent state cannot be
//! taken back, but the one before the step is still there, in the copy that the next step will
//! write; from it the recurrences are run again for the tokens that stay. All they need is what
//! they read in the step: some kilobytes a token and layer, where a state for each token would be
//! megabytes, and computing the step again would cost as much as the step.

use super::{LayerState, Session};
use crate::Error;

/// What a step kept for taking tokens back.
#[derive(Debug, Default)]
pub(crate) struct Trial {
    /// Tokens that the session held before the step.
    pub start: usize,
    /// Tokens of the step.
    pub tokens: Vec<u32>,
    /// The inputs of the recurrences: for each in order, for each of its inputs, `[tokens, width]`.
    pub record: Vec<f32>,
    /// Bytes that `record` has or will have.
    record_bytes: u64,
}

impl Trial {
    pub(super) fn bytes(&self) -> u64 {
        self.record_bytes
    }
}

impl Session {
    /// Counts the memory that a step on trial will need for its record; to be called before it.
    pub(crate) fn announce_trial(&mut self, record_bytes: u64) {
        let trial = Trial {
            record_bytes,
            ..Trial::default()
        };
        self.trial = Some(trial);
        self.recount();
    }

    /// Keeps the record of the step that was just committed with `tokens`.
    pub(crate) fn begin_trial(&mut self, tokens: &[u32], record: Vec<f32>) {
        self.trial = Some(Trial {
            start: self.len() - tokens.len(),
            tokens: tokens.to_vec(),
            record_bytes: record.capacity() as u64 * 4,
            record,
        });
        self.recount();
    }

    /// Makes the last step final and frees its record.
    pub(crate) fn end_trial(&mut self) {
        if self.trial.take().is_some() {
            self.recount();
        }
    }

    /// Takes the step on trial back as a whole, so that the session ends where it began; `position`
    /// is where the caller wants it to end, at or after that place: keys and values are kept so far.
    ///
    /// # Errors
    /// [`Error::Rewind`] if the last step was not on trial or does not reach back to `position`;
    /// the session is then unchanged.
    pub(crate) fn undo_trial(&mut self, position: usize) -> Result<Trial, Error> {
        let reachable = |trial: &mut Trial| (trial.start..=self.tokens.len()).contains(&position);
        let Some(trial) = self.trial.take_if(reachable) else {
            return Err(Error::Rewind {
                position,
                len: self.len(),
                nearest: self.checkpoint_positions().filter(|&p| p < position).max(),
            });
        };
        let undo = |state: &mut LayerState| state.undo(position);
        self.states.iter_mut().for_each(undo);
        self.tokens.truncate(trial.start);
        self.checkpoints.retain(|c| c.position <= position);
        self.recount();
        Ok(trial)
    }

    /// Makes the first of the tokens of `trial` part of the session again, after their recurrences
    /// were run; more of them can be taken back later.
    pub(crate) fn redo_trial(&mut self, trial: Trial, tokens: usize) {
        self.commit(&trial.tokens[..tokens]);
        self.trial = Some(trial);
        self.recount();
    }
}
