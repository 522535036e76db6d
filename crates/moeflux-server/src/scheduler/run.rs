//! The engine's thread.

mod deliver;
mod draft;
mod figures;
mod keep;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use moeflux::draft::Speculation;
use moeflux::{Engine, Error, Logits, Span, Want};

use super::sequence::Sequence;
use super::step::{Candidate, Room, Turns};
use super::{Command, JobError, Limits, Shared, Submitted};
use crate::prefix::PrefixCache;

/// How often the engine's figures are published while it works.
const FIGURES_EVERY: Duration = Duration::from_millis(250);

/// What runs on the thread.
pub struct Worker {
    engine: Arc<Engine>,
    limits: Limits,
    commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
    /// State of earlier requests.
    prefix: Option<PrefixCache>,
    /// Jobs that wait for their first step.
    queue: VecDeque<Submitted>,
    /// Answers that ran and wait to go on.
    paused: VecDeque<Sequence>,
    running: Vec<Sequence>,
    /// The most answers to run: fewer than asked for after memory has run out.
    places: usize,
    turns: Turns,
    speculation: Speculation,
    scratch: Vec<f32>,
    published: Option<Instant>,
    stopped: bool,
}

/// What a step did to the sequences, by their place.
type Outcome = Vec<Option<Logits>>;

impl Worker {
    pub fn new(
        engine: Arc<Engine>,
        mut limits: Limits,
        commands: mpsc::Receiver<Command>,
        shared: Arc<Shared>,
        prefix: Option<PrefixCache>,
    ) -> Worker {
        // A step has a row of logits for each answer, and room for a prompt beside them.
        let most = engine.trial_tokens().saturating_sub(1).max(1);
        limits.parallel = limits.parallel.clamp(1, most);
        Worker {
            places: limits.parallel,
            speculation: Speculation::new(limits.speculate),
            engine,
            limits,
            commands,
            shared,
            prefix,
            queue: VecDeque::new(),
            paused: VecDeque::new(),
            running: Vec::new(),
            turns: Turns::default(),
            scratch: Vec::new(),
            published: None,
            stopped: false,
        }
    }

    /// Runs until told to stop.
    pub fn run(mut self) {
        while self.receive() {
            // A defect must not take the server down; the engine heals by itself.
            if catch_unwind(AssertUnwindSafe(|| self.turn())).is_err() {
                self.fail_all(&JobError::Engine(
                    "the engine failed by a defect; please report it".to_owned(),
                ));
            }
            if self.published.is_none_or(|at| at.elapsed() > FIGURES_EVERY) {
                self.publish();
            }
        }
        self.keep_all();
        self.fail_all(&JobError::Stopped);
        self.publish();
        self.flush();
    }

    /// Lets go of what has ended, begins what there is a place for, and runs a step.
    fn turn(&mut self) {
        self.sweep();
        self.admit();
        self.list();
        if !self.running.is_empty() {
            self.step();
        }
    }

    /// Takes commands, waiting for one if there is nothing else to do; false when told to stop.
    fn receive(&mut self) -> bool {
        let idle = self.running.is_empty() && self.paused.is_empty() && self.queue.is_empty();
        if idle {
            self.list();
            self.publish();
        }
        let mut next = match idle {
            true => self.commands.recv().ok(),
            false => self.commands.try_recv().ok(),
        };
        if idle && next.is_none() {
            return false;
        }
        while let Some(command) = next {
            match command {
                Command::Run(submitted) => self.queue.push_back(*submitted),
                Command::Filed(result) => {
                    if let Some(prefix) = &mut self.prefix {
                        prefix.filed(&result);
                    }
                }
                Command::Stop => self.stopped = true,
            }
            next = self.commands.try_recv().ok();
        }
        !self.stopped
    }

    /// Lets go of what nobody waits for, and of what has taken too long.
    fn sweep(&mut self) {
        let now = Instant::now();
        let metrics = Arc::clone(&self.shared.metrics);
        let (prefix, engine) = (&mut self.prefix, &self.engine);
        let mut goes_on = |sequence: &Sequence| {
            if sequence.is_abandoned() {
                metrics.cancelled.add(1);
            } else if sequence.is_late(now) {
                metrics.failed.add(1);
                sequence.fail(JobError::Deadline);
            } else {
                return true;
            }
            // Who asks again need not wait as long again.
            keep::keep(prefix, engine, sequence);
            false
        };
        let before = self.running.len();
        self.running.retain(&mut goes_on);
        self.paused.retain(&mut goes_on);
        if self.running.len() < before {
            self.places = self.limits.parallel;
        }
        let waiting = self.queue.len();
        self.queue.retain(|submitted| {
            if submitted.events.is_closed() {
                metrics.cancelled.add(1);
                return false;
            }
            if submitted.job.deadline.is_some_and(|d| now >= d) {
                metrics.failed.add(1);
                let _ = submitted
                    .events
                    .send(super::Event::Failed(JobError::Deadline));
                return false;
            }
            true
        });
        self.dequeued(waiting - self.queue.len());
    }

    fn dequeued(&self, count: usize) {
        self.shared.queued.fetch_sub(count, Ordering::SeqCst);
    }

    /// Fills free places, first with what ran before.
    fn admit(&mut self) {
        while self.running.len() < self.places {
            if let Some(mut sequence) = self.paused.pop_front() {
                if sequence.session.is_empty() {
                    if self.reads_ahead(sequence.tokens()) {
                        self.paused.push_front(sequence);
                        break;
                    }
                    sequence.session = self.session_for(sequence.tokens());
                    self.set_stops(&mut sequence);
                }
                self.running.push(sequence);
                continue;
            }
            let Some(submitted) = self.queue.pop_front() else {
                break;
            };
            if self.reads_ahead(&submitted.job.prompt) {
                self.queue.push_front(submitted);
                break;
            }
            self.dequeued(1);
            let metrics = &self.shared.metrics;
            metrics.queue_seconds.note(submitted.arrived.elapsed());
            let session = self.session_for(&submitted.job.prompt);
            match Sequence::new(submitted, session) {
                Ok(mut sequence) => {
                    self.set_stops(&mut sequence);
                    self.running.push(sequence);
                }
                Err(_) => self.shared.metrics.failed.add(1),
            }
        }
        let metrics = &self.shared.metrics;
        metrics.running.set(self.running.len() as u64);
        metrics
            .waiting
            .set((self.queue.len() + self.paused.len()) as u64);
    }

    fn step(&mut self) {
        if self.step_with_draft() {
            return;
        }
        let candidates: Vec<Candidate> = self
            .running
            .iter()
            .map(|s| Candidate {
                rest: s.rest_to_stop(),
                decoding: s.is_decoding(),
            })
            .collect();
        let room = self.room();
        let counts = self.turns.share(&candidates, room);
        let answers = candidates.iter().any(|c| c.decoding);
        let decoded = candidates.iter().filter(|c| c.decoding).count();
        let prompts = counts.iter().sum::<usize>() - decoded;
        let start = Instant::now();
        let outcome = match self.forward(&counts) {
            Ok(outcome) => outcome,
            Err(Error::MemoryFull { .. } | Error::MemoryBudget { .. }) if self.shrink() => return,
            Err(Error::MemoryFull { .. } | Error::MemoryBudget { .. })
                if self.running.len() > 1 =>
            {
                self.make_way();
                return;
            }
            Err(error) => self.one_by_one(&counts, &error),
        };
        let time = start.elapsed();
        self.turns.note(time, prompts > 0, answers);
        if decoded == 1 && counts.len() == 1 {
            self.speculation.single_step(time);
        }
        let metrics = &self.shared.metrics;
        metrics.steps.add(1);
        metrics.prompt_tokens.add(prompts as u64);
        metrics.step_seconds.note(time);
        self.keep_prompts();
        self.deliver(outcome);
    }

    fn room(&self) -> Room {
        let step = self.engine.chunk_tokens();
        let longest = self.running.iter().filter(|s| !s.is_decoding());
        let longest = longest.max_by_key(|s| s.rest_to_stop());
        let chunk = longest.map_or(1, |s| {
            self.engine.prompt_chunk(&s.session, s.rest_to_stop())
        });
        Room {
            chunk,
            shared_chunk: self.limits.shared_chunk_tokens,
            step,
        }
    }

    /// One step for all sequences with a count above zero.
    fn forward(&mut self, counts: &[usize]) -> Result<Outcome, Error> {
        let mut spans = Vec::with_capacity(counts.len());
        for (sequence, &count) in self.running.iter_mut().zip(counts) {
            if count > 0 {
                let want = match count == sequence.rest() {
                    true => Want::Last,
                    false => Want::None,
                };
                let is_prompt = sequence.is_prompt(count);
                let (session, tokens) = sequence.next_tokens(count);
                spans.push(Span {
                    session,
                    tokens,
                    want,
                    is_prompt,
                });
            }
        }
        let mut all = self.engine.forward(&mut spans)?.into_iter();
        let logits = |&count: &usize| match count {
            0 => None,
            _ => all.next().filter(|logits| logits.rows > 0),
        };
        Ok(counts.iter().map(logits).collect())
    }

    /// After a step failed for all: the same for each alone, so that only the one that cannot go
    /// on fails.
    fn one_by_one(&mut self, counts: &[usize], error: &Error) -> Outcome {
        let alone = counts.iter().filter(|&&c| c > 0).count() == 1;
        let mut outcome: Outcome = Vec::with_capacity(counts.len());
        let mut failed = vec![false; counts.len()];
        for place in 0..counts.len() {
            let mut only = vec![0; counts.len()];
            only[place] = counts[place];
            let result = match (counts[place], alone) {
                (0, _) => Ok(None),
                (_, true) => Err(job_error(error)),
                _ => match self.forward(&only) {
                    Ok(mut one) => Ok(one.swap_remove(place)),
                    Err(error) => Err(job_error(&error)),
                },
            };
            match result {
                Ok(logits) => outcome.push(logits),
                Err(error) => {
                    self.running[place].fail(error);
                    self.shared.metrics.failed.add(1);
                    failed[place] = true;
                    outcome.push(None);
                }
            }
        }
        let mut stays = failed.iter().map(|failed| !failed);
        self.running.retain(|_| stays.next().unwrap_or(true));
        let mut stays = failed.iter().map(|failed| !failed);
        outcome.retain(|_| stays.next().unwrap_or(true));
        outcome
    }

    /// Memory does not hold all sessions: the youngest gives its own up and waits until another
    /// one is done.
    fn make_way(&mut self) {
        if let Some(mut youngest) = self.running.pop() {
            youngest.session = self.engine.session();
            self.paused.push_front(youngest);
            self.shared.metrics.preempted.add(1);
        }
        self.places = self.running.len();
    }

    fn fail_all(&mut self, error: &JobError) {
        for sequence in self.running.drain(..).chain(self.paused.drain(..)) {
            sequence.fail(error.clone());
            self.shared.metrics.failed.add(1);
        }
        if self.stopped {
            let waiting = self.queue.len();
            for submitted in self.queue.drain(..) {
                let _ = submitted.events.send(super::Event::Failed(error.clone()));
            }
            self.dequeued(waiting);
        }
    }
}

fn job_error(error: &Error) -> JobError {
    match error {
        Error::MemoryFull { .. } | Error::MemoryBudget { .. } => {
            JobError::Memory(error.to_string())
        }
        Error::Token { .. } | Error::ContextExceeded { .. } => JobError::Prompt(error.to_string()),
        _ => JobError::Engine(error.to_string()),
    }
}
