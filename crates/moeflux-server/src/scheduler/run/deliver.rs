//! What becomes of a step's logits: the next token of each sequence.

use std::time::Instant;

use super::super::JobError;
use super::super::sequence::Sequence;
use super::{Outcome, Worker};

impl Worker {
    /// Gives each sequence its logits, and takes those away that have ended.
    pub(super) fn deliver(&mut self, outcome: Outcome) {
        let mut rows = outcome.into_iter();
        let all = std::mem::take(&mut self.running);
        let mut forks = Vec::new();
        for mut sequence in all {
            let Some(logits) = rows.next().flatten() else {
                self.running.push(sequence);
                continue;
            };
            for number in 1..=std::mem::take(&mut sequence.forks) {
                if let Some(mut fork) = self.fork(&sequence, number)
                    && self.advance(&mut fork, logits.last())
                {
                    forks.push(fork);
                }
            }
            let goes_on = self.advance(&mut sequence, logits.last());
            self.put_back(sequence, goes_on);
            self.engine.recycle(logits);
        }
        self.paused.extend(forks);
    }

    /// Goes on with a sequence, or keeps what it leaves behind and makes its place free.
    pub(super) fn put_back(&mut self, sequence: Sequence, goes_on: bool) {
        match goes_on {
            true => self.running.push(sequence),
            false => {
                self.keep(&sequence);
                self.places = self.limits.parallel;
            }
        }
    }

    /// Picks a sequence's next token; whether it goes on.
    pub(super) fn advance(&mut self, sequence: &mut Sequence, logits: &[f32]) -> bool {
        let metrics = &self.shared.metrics;
        let first = sequence.generated() == 0;
        let result = sequence.advance(logits, &mut self.scratch);
        let now = Instant::now();
        if first {
            metrics.first_token_seconds.note(now - sequence.arrived());
        } else if let Some(last) = sequence.last_token {
            metrics.token_seconds.note(now - last);
        }
        sequence.last_token = Some(now);
        metrics.generated_tokens.add(1);
        match result {
            Ok(true) => true,
            Ok(false) => {
                metrics.completed.add(1);
                metrics.request_seconds.note(now - sequence.arrived());
                false
            }
            Err(error) => {
                metrics.failed.add(1);
                sequence.fail(error);
                false
            }
        }
    }

    /// Another answer to the prompt that `sequence` has just computed. Where memory does not hold
    /// a second session now, it computes the prompt again later.
    fn fork(&self, sequence: &Sequence, number: usize) -> Option<Sequence> {
        let session = self.engine.fork(&sequence.session);
        let session = session.unwrap_or_else(|_| self.engine.session());
        match sequence.fork(number, session) {
            Ok(fork) => Some(fork),
            Err(error) => {
                sequence.fail(JobError::Engine(error.to_string()));
                None
            }
        }
    }
}
