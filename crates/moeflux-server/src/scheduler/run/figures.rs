//! What the scheduler tells of itself.

use std::time::Instant;

use super::super::sequence::Sequence;
use super::super::{Phase, Progress};
use super::Worker;

impl Worker {
    /// Publishes how far each request is.
    pub(super) fn list(&self) {
        let running = self.running.iter().map(Sequence::progress);
        let paused = self.paused.iter().map(|sequence| Progress {
            phase: Phase::Waiting,
            ..sequence.progress()
        });
        let queued = self.queue.iter().map(|submitted| Progress {
            phase: Phase::Waiting,
            prompt_tokens: submitted.job.prompt.len(),
            prompt_done: 0,
            answer_tokens: 0,
        });
        let all = running.chain(paused).chain(queued);
        self.shared.metrics.overview.publish(all);
    }

    /// Publishes the engine's figures: asking for them elsewhere would wait for a step's end.
    pub(super) fn publish(&mut self) {
        self.published = Some(Instant::now());
        let metrics = &self.shared.metrics;
        metrics.running.set(self.running.len() as u64);
        metrics
            .waiting
            .set((self.queue.len() + self.paused.len()) as u64);
        metrics.set_engine(self.engine.stats());
    }
}
