//! The pool: it fills slots with records, piece by piece, and reports each record that is
//! complete, failed or cancelled.
//!
//! A large record is split into pieces, so that a few records keep the disk's queue full. Records
//! that somebody waits for come before those that are read ahead of use. `queue` decides what is
//! read next, `finish` what becomes of a record that was read; between them stand two engines that
//! do the same: `threads` with reads that block, `ring` with io_uring. The pool knows slots and
//! keys; it does not know policies or leases.

mod finish;
mod queue;
#[cfg(target_os = "linux")]
mod ring;
mod threads;

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::arena::Arena;
use crate::catalog::Index;
use crate::error::ExpertError;
use crate::source::Source;
use crate::watch::Watch;
use queue::{Limits, State};

/// How soon a record is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Somebody waits for it, or will for certain: it gets all of the disk.
    Demand,
    /// It may be needed later: read when nothing else is to be, with a part of the disk's queue, so
    /// that whoever asks then waits for little.
    Ahead,
}

/// How the filling of a slot ended.
pub(crate) enum Outcome {
    Done,
    Cancelled,
    Failed(ExpertError),
}

/// What the pool counted.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counters {
    pub reads: u64,
    pub bytes_read: u64,
    pub retries: u64,
    pub read_us_total: u64,
    pub busy_us_total: u64,
    pub verified: u64,
}

/// What a pool reads with.
#[derive(Clone, Debug)]
pub(crate) struct About {
    pub reader: String,
    pub direct: bool,
    pub depth: usize,
    pub piece_bytes: u64,
    /// Why it is not what one would expect.
    pub note: Option<String>,
}

/// What all threads of a pool share.
struct Shared {
    index: Arc<Index>,
    arena: Arc<Arena>,
    watch: Option<Watch>,
    state: Mutex<State>,
    /// There is something to read, or to finish, or the end.
    work: Condvar,
    /// There is an outcome.
    done: Condvar,
    /// Wakes the thread of a ring.
    #[cfg(target_os = "linux")]
    bell: Option<ring::Bell>,
}

pub(crate) struct Pool {
    shared: Arc<Shared>,
    /// The thread of a ring comes first: the others end when it has.
    threads: Vec<JoinHandle<()>>,
    about: About,
}

impl Pool {
    /// Starts the threads. With `verify`, each record with a checksum is verified on its first read.
    pub fn start(
        index: Arc<Index>,
        arena: Arc<Arena>,
        source: Source,
        slots: usize,
        verify: bool,
    ) -> Result<Pool, ExpertError> {
        let limits = Limits::new(source.depth);
        let state = State::new(&index, slots, limits, source.piece_bytes, verify);
        #[cfg_attr(
            not(target_os = "linux"),
            allow(unused_mut, reason = "io_uring changes it")
        )]
        let mut about = About {
            reader: source.reader.name(),
            direct: source.reader.is_direct(),
            depth: source.depth,
            piece_bytes: source.piece_bytes,
            note: source.note,
        };
        let shared = Shared {
            index,
            arena,
            watch: source.watch,
            state: Mutex::new(state),
            work: Condvar::new(),
            done: Condvar::new(),
            #[cfg(target_os = "linux")]
            bell: None,
        };
        #[cfg(target_os = "linux")]
        let shared = match source.uring {
            None => shared,
            Some(uring) => match ring::start(shared, uring, limits)? {
                ring::Started::Running(shared, threads) => {
                    about.reader = about.reader.replace("direct", "uring");
                    return Ok(Pool {
                        shared,
                        threads,
                        about,
                    });
                }
                ring::Started::Refused(shared, reason) => {
                    about.note = Some(format!("{reason}; reading with threads instead"));
                    *shared
                }
            },
        };
        let shared = Arc::new(shared);
        let threads = threads::start(&shared, &source.reader, limits)?;
        Ok(Pool {
            shared,
            threads,
            about,
        })
    }

    /// Queues the filling of slots with experts, in order. The caller must not touch these slots
    /// until their outcome is reported.
    pub fn submit(&self, fills: &[(u32, u32)], urgency: Urgency) {
        if !fills.is_empty() {
            self.shared.lock().submit(fills, urgency);
            self.shared.wake_readers();
        }
    }

    /// Somebody waits for these slots now: those still queued to be read ahead go behind what is
    /// waited for already. Slots that are not queued are left as they are.
    pub fn promote(&self, slots: &[u32]) {
        if !slots.is_empty() {
            self.shared.lock().promote(slots);
            self.shared.wake_readers();
        }
    }

    /// Blocks until an outcome is there, then moves all that are to `outcomes`. The caller makes
    /// sure that a filling is under way. Returns the time blocked in microseconds.
    pub fn wait(&self, outcomes: &mut Vec<(u32, Outcome)>) -> u64 {
        let mut state = self.shared.lock();
        let mut waited_us = 0;
        if state.outcomes.is_empty() {
            let start = Instant::now();
            while state.outcomes.is_empty() {
                state = self
                    .shared
                    .done
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
            }
            waited_us = start.elapsed().as_micros() as u64;
        }
        outcomes.append(&mut state.outcomes);
        waited_us
    }

    /// Moves all outcomes that are there to `outcomes`, without waiting.
    pub fn poll(&self, outcomes: &mut Vec<(u32, Outcome)>) {
        outcomes.append(&mut self.shared.lock().outcomes);
    }

    /// Hands out no further pieces of this urgency. Fillings that are not handed out completely
    /// end as cancelled; outcomes of all are still reported.
    pub fn cancel(&self, urgency: Urgency) {
        self.shared.lock().cancel(urgency);
    }

    /// Looks, at most once a second, whether the files are still those that were opened.
    ///
    /// # Errors
    /// [`ExpertError::Changed`] if one is not.
    pub fn check_files(&self) -> Result<(), ExpertError> {
        match &self.shared.watch {
            Some(watch) => watch.check_now_and_then(),
            None => Ok(()),
        }
    }

    pub fn about(&self) -> &About {
        &self.about
    }

    pub fn counters(&self) -> Counters {
        self.shared.lock().counters
    }

    pub fn reset_counters(&self) {
        self.shared.lock().counters = Counters::default();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.lock().close();
        self.shared.wake_readers();
        for thread in self.threads.drain(..) {
            // A thread that panicked has nothing left to do either.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside leaves counters at worst; the state is valid between statements.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There is something new to read, or the end.
    fn wake_readers(&self) {
        #[cfg(target_os = "linux")]
        if let Some(bell) = &self.bell {
            return bell.ring();
        }
        self.work.notify_all();
    }
}
