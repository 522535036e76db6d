//! Parallel work over numbered units, with progress on the calling thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use crate::error::{FormatError, Result};

/// Sends source bytes done to the calling thread.
pub(super) struct Reporter<R> {
    sender: Sender<Message<R>>,
}

enum Message<R> {
    Advanced(u64),
    Done(usize, R),
    Failed(FormatError),
}

impl<R> Reporter<R> {
    /// Some more source bytes are done.
    pub(super) fn advanced(&self, bytes: u64) {
        // Nobody listens once the calling thread has given up; the worker then ends with its unit.
        let _ = self.sender.send(Message::Advanced(bytes));
    }
}

/// How many workers `threads` asks for, 0 meaning as many as the machine has.
pub(super) fn worker_count(threads: usize) -> usize {
    if threads > 0 {
        threads
    } else {
        thread::available_parallelism().map_or(1, usize::from)
    }
}

/// Runs `work` on units `0..count` with up to `workers` threads, each with its own `S`, and returns
/// the results in order. `advanced` is called on the calling thread. The first failure ends it all.
pub(super) fn run_units<S: Default, R: Send>(
    count: usize,
    workers: usize,
    work: impl Fn(usize, &mut S, &Reporter<R>) -> Result<R> + Sync,
    advanced: &mut dyn FnMut(u64),
) -> Result<Vec<R>> {
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let (sender, receiver) = channel();
    let mut results: Vec<Option<R>> = Vec::new();
    results.resize_with(count, || None);
    let mut failure = None;
    thread::scope(|scope| {
        for _ in 0..workers.clamp(1, count.max(1)) {
            let reporter = Reporter {
                sender: sender.clone(),
            };
            let (next, stop, work) = (&next, &stop, &work);
            scope.spawn(move || {
                let mut scratch = S::default();
                while !stop.load(Ordering::Relaxed) {
                    let unit = next.fetch_add(1, Ordering::Relaxed);
                    if unit >= count {
                        break;
                    }
                    let message = match work(unit, &mut scratch, &reporter) {
                        Ok(result) => Message::Done(unit, result),
                        Err(error) => Message::Failed(error),
                    };
                    if reporter.sender.send(message).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        // Moved in, so that workers stop if `advanced` panics.
        for message in receiver {
            match message {
                Message::Advanced(bytes) => advanced(bytes),
                Message::Done(unit, result) => results[unit] = Some(result),
                Message::Failed(error) => {
                    stop.store(true, Ordering::Relaxed);
                    failure.get_or_insert(error);
                }
            }
        }
    });
    // A worker that panicked has made the scope panic: without a failure, all units are done.
    failure.map_or_else(|| Ok(results.into_iter().flatten().collect()), Err)
}
