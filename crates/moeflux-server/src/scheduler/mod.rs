//! Many requests, one engine: a thread of its own takes requests from a bounded queue, runs steps
//! for all of them together and sends each one's tokens to whoever asked.
//!
//! **Together.** A step takes one token of every running answer and part of the prompts that still
//! wait, so an expert is read once for all of them. What a request gets does not depend on the
//! others, bit for bit (the engine's exactness E1), only when it gets it.
//!
//! **Fairness.** Prompts take turns, a chunk each. While answers are running, steps with a chunk
//! take at most half of the time.
//!
//! **Ends.** A request ends by itself, when its receiver is dropped (the client is gone), or at its
//! deadline. If memory does not hold all sessions, the youngest waits and is computed again later.

mod job;
mod logprobs;
mod overview;
mod run;
mod sequence;
mod step;

pub use job::{Constraint, End, Event, Job, JobError, Sampled, TokenLogprob};
pub use overview::{Listed, MOST_LISTED, Overview, Phase, Progress};

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Instant;

use moeflux::Engine;
use moeflux::draft::Speculate;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::metrics::Metrics;
use crate::prefix::PrefixCache;

/// How much the scheduler takes on.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Answers computed at the same time.
    pub parallel: usize,
    /// Requests that may wait for that.
    pub queue: usize,
    /// The most prompt tokens of a step while answers are running.
    pub shared_chunk_tokens: usize,
    /// When to guess tokens of an answer that runs alone.
    pub speculate: Speculate,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            parallel: 8,
            queue: 128,
            shared_chunk_tokens: 512,
            speculate: Speculate::default(),
        }
    }
}

/// Why a job was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The queue is full.
    #[error("{0} requests are waiting already; try again later, or start with a larger --queue")]
    Full(usize),
    /// The server is being stopped.
    #[error("the server is stopping; ask again once it is back")]
    Stopping,
}

/// A job on its way.
struct Submitted {
    job: Job,
    /// The number of its first choice.
    first_choice: usize,
    events: tokio::sync::mpsc::UnboundedSender<Event>,
    arrived: Instant,
}

/// What the thread is told.
enum Command {
    Run(Box<Submitted>),
    /// A file of the prefix cache was written, or could not be.
    Filed(std::io::Result<()>),
    /// End every job now, and the thread.
    Stop,
}

/// What handle and thread share.
struct Shared {
    /// Jobs that wait for their first step.
    queued: AtomicUsize,
    /// Whether new jobs are refused.
    draining: AtomicBool,
    metrics: Arc<Metrics>,
}

/// The handle to the engine's thread. When it is dropped, what runs is ended.
pub struct Scheduler {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    queue: usize,
    thread: Option<JoinHandle<()>>,
}

impl Scheduler {
    /// Starts the thread; requests go on from what `prefix` knows, if it is given.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        engine: Arc<Engine>,
        limits: &Limits,
        metrics: Arc<Metrics>,
        mut prefix: Option<PrefixCache>,
    ) -> std::io::Result<Scheduler> {
        let (commands, received) = mpsc::channel();
        if let Some(prefix) = &mut prefix {
            let commands = commands.clone();
            prefix.start(Box::new(move |result| {
                // It fails when the engine's thread has ended and nobody wants to know.
                let _ = commands.send(Command::Filed(result));
            }))?;
        }
        let shared = Arc::new(Shared {
            queued: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            metrics,
        });
        let worker = run::Worker::new(
            engine,
            limits.clone(),
            received,
            Arc::clone(&shared),
            prefix,
        );
        let thread = std::thread::Builder::new()
            .name("moeflux-engine".to_owned())
            .spawn(move || worker.run())?;
        Ok(Scheduler {
            commands,
            shared,
            queue: limits.queue,
            thread: Some(thread),
        })
    }

    /// Hands a job over; its events arrive at the receiver, and dropping that ends the job.
    ///
    /// # Errors
    /// The queue is full, or the server is stopping.
    pub fn submit(&self, job: Job) -> Result<UnboundedReceiver<Event>, Refused> {
        self.submit_all(vec![job])
    }

    /// Hands several jobs over, all or none. The events of all arrive at one receiver; choices are
    /// counted through.
    ///
    /// # Errors
    /// As [`Scheduler::submit`].
    pub fn submit_all(&self, jobs: Vec<Job>) -> Result<UnboundedReceiver<Event>, Refused> {
        if self.shared.draining.load(Ordering::SeqCst) {
            return Err(Refused::Stopping);
        }
        let queued = &self.shared.queued;
        let more = |n| Some(n + jobs.len()).filter(|all| *all <= self.queue);
        if let Err(n) = queued.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more) {
            self.shared.metrics.refused.add(1);
            return Err(Refused::Full(n));
        }
        let (events, receiver) = unbounded_channel();
        let (mut first_choice, arrived) = (0, Instant::now());
        for job in jobs {
            let choices = job.choices.max(1);
            let submitted = Submitted {
                job,
                first_choice,
                events: events.clone(),
                arrived,
            };
            first_choice += choices;
            let command = Command::Run(Box::new(submitted));
            if self.commands.send(command).is_err() {
                // The thread is gone; nobody counts what waits any more.
                return Err(Refused::Stopping);
            }
        }
        Ok(receiver)
    }

    /// The most jobs that may wait.
    pub fn queue_limit(&self) -> usize {
        self.queue
    }

    /// Refuses new jobs from now on; those taken go on.
    pub fn drain(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
    }

    /// Whether new jobs are refused.
    pub fn is_draining(&self) -> bool {
        self.shared.draining.load(Ordering::SeqCst)
    }

    /// Jobs that wait for their first step.
    pub fn queued(&self) -> usize {
        self.shared.queued.load(Ordering::SeqCst)
    }
}

impl Drop for Scheduler {
    fn drop(&mut self) {
        self.drain();
        // It fails if the thread is gone, which is what it asks for.
        let _ = self.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
