//! What the scheduler keeps of prompts and answers for later requests, and takes from there.

use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use moeflux::{Engine, Session};

use super::super::Command;
use super::super::sequence::Sequence;
use super::Worker;
use crate::prefix::PrefixCache;

/// How long writing what is kept may take when the server stops.
const FLUSH: Duration = Duration::from_secs(10);

/// Keeps the state of `sequence`, if it is what computing its tokens as a prompt would give.
pub(super) fn keep(prefix: &mut Option<PrefixCache>, engine: &Engine, sequence: &Sequence) {
    let exact = engine.decodes_as_it_prefills() || sequence.is_within_prompt();
    if let Some(prefix) = prefix.as_mut().filter(|_| exact) {
        prefix.keep(&sequence.session);
    }
}

impl Worker {
    /// A session for `tokens`, with as many of them as are known.
    pub(super) fn session_for(&mut self, tokens: &[u32]) -> Session {
        let known = self
            .prefix
            .as_mut()
            .and_then(|prefix| prefix.resume(tokens));
        known.unwrap_or_else(|| self.engine.session())
    }

    /// Whether more is to be read of the folder before [`Worker::session_for`] gives a session
    /// without making those that run wait.
    pub(super) fn reads_ahead(&mut self, tokens: &[u32]) -> bool {
        let waits = !self.running.is_empty();
        let prefix = self.prefix.as_mut().filter(|_| waits);
        prefix.is_some_and(|prefix| prefix.fetch(tokens))
    }

    /// Where `sequence` has to stop for its state to be kept.
    pub(super) fn set_stops(&self, sequence: &mut Sequence) {
        if let Some(prefix) = &self.prefix {
            sequence.kept = sequence.session.len();
            sequence.stops = prefix.stops(sequence.tokens(), sequence.kept);
        }
    }

    /// Keeps the state of prompts that have come to where it is worth it.
    pub(super) fn keep_prompts(&mut self) {
        let Some(prefix) = &mut self.prefix else {
            return;
        };
        let answers = self.engine.decodes_as_it_prefills();
        let running = self.running.iter_mut();
        for sequence in running.filter(|s| answers || s.is_within_prompt()) {
            let (done, kept) = (sequence.session.len(), sequence.kept);
            let is_stop = done > kept && sequence.stops.contains(&done);
            if is_stop || prefix.is_stride(done, kept) {
                prefix.keep(&sequence.session);
                sequence.kept = done;
            }
        }
    }

    /// Keeps what a sequence that has ended leaves behind.
    pub(super) fn keep(&mut self, sequence: &Sequence) {
        keep(&mut self.prefix, &self.engine, sequence);
    }

    /// Lets go of some state that can be computed again: what is kept, then what answers hold that
    /// wait for a place; false if there is none.
    pub(super) fn shrink(&mut self) -> bool {
        if self.prefix.as_mut().is_some_and(|prefix| prefix.shrink()) {
            return true;
        }
        let mut holding = self.paused.iter_mut().rev();
        let Some(last) = holding.find(|sequence| !sequence.session.is_empty()) else {
            return false;
        };
        last.session = self.engine.session();
        self.shared.metrics.preempted.add(1);
        true
    }

    /// Keeps what runs, for when the server is back.
    pub(super) fn keep_all(&mut self) {
        for sequence in self.running.iter().chain(&self.paused) {
            keep(&mut self.prefix, &self.engine, sequence);
        }
    }

    /// Writes what is kept, as far as there is time for it.
    pub(super) fn flush(&mut self) {
        let commands = &self.commands;
        let wait = |most: Duration| {
            let end = Instant::now() + most;
            loop {
                // Whoever still asks is told by the end of the channel.
                match commands.recv_timeout(end.saturating_duration_since(Instant::now())) {
                    Ok(Command::Filed(result)) => return Some(result),
                    Ok(Command::Run(_) | Command::Stop) => {}
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
                }
            }
        };
        if let Some(prefix) = &mut self.prefix {
            prefix.flush(FLUSH, wait);
        }
    }
}
