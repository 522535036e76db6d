//! Steps with tokens that may follow, while one answer runs alone: what they cost others who wait
//! would be more than they save.

use std::time::Instant;

use super::super::JobError;
use super::Worker;

impl Worker {
    /// Runs a step of the only answer with a draft behind its last token; false where there is
    /// nothing to guess, or where a single step has to do.
    pub(super) fn step_with_draft(&mut self) -> bool {
        let [sequence] = &mut self.running[..] else {
            return false;
        };
        // The last token of a prompt is not one of an answer: a device has other kernels for it.
        if !sequence.is_decoding() || sequence.is_prompt(1) {
            return false;
        }
        let start = Instant::now();
        // One row is for the last token, which gives one more than is drafted.
        let rows = self.engine.trial_tokens().min(sequence.room());
        let (held, last) = (sequence.session.tokens(), sequence.last());
        self.speculation.start(held);
        let draft = self.speculation.draft(held, last, rows.saturating_sub(1));
        let Some(draft) = draft else {
            return false;
        };
        let before = held.len();
        let rows = [&[last], &draft.tokens[..]].concat();
        let Ok(logits) = self.engine.forward_trial(&mut sequence.session, &rows) else {
            self.speculation.failed_step();
            return false;
        };
        let Some(mut sequence) = self.running.pop() else {
            return false;
        };
        let (mut taken, mut goes_on) = (0_usize, true);
        while goes_on && taken < rows.len() && rows[taken] == sequence.last() {
            goes_on = self.advance(&mut sequence, logits.row(taken));
            taken += 1;
        }
        self.engine.recycle(logits);
        if let Err(error) = self.engine.retract(&mut sequence.session, before + taken) {
            sequence.fail(JobError::Engine(error.to_string()));
            goes_on = false;
        }
        let (time, right) = (start.elapsed(), taken.saturating_sub(1));
        self.speculation.drafted_step(&draft, right, time);
        self.turns.note(time, false, true);
        let metrics = &self.shared.metrics;
        metrics.drafted_tokens.add(draft.tokens.len() as u64);
        metrics.drafted_right.add(right as u64);
        metrics.steps.add(1);
        metrics.step_seconds.note(time);
        self.put_back(sequence, goes_on);
        self.keep_prompts();
        true
    }
}
