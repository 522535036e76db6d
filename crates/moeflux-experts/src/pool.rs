//! The reader threads: they fill slots with records, piece by piece, and report each record that
//! is complete, failed or cancelled.
//!
//! A large record is split into pieces, so that a few records keep many threads, and with them
//! the disk's queue, busy. Records that somebody waits for come before those that are read ahead of
//! use. The pool knows slots and keys; it does not know policies or leases.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use crate::arena::Arena;
use crate::catalog::{Entry, Index, Segment, record_checksum};
use crate::error::ExpertError;
use crate::reader::{FILE_ALIGN, Reader};

/// Records are read in pieces of at most about this many bytes.
const PIECE_BYTES: u64 = 1 << 20;

/// How soon a record is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// Somebody waits for it.
    Demand,
    /// It may be needed later: read when nothing else is to be.
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
    pub verified: u64,
}

/// The filling of one slot. From `submit` until its outcome is reported, the pool owns the slot.
#[derive(Default)]
struct Fill {
    key: u32,
    /// Where the next piece begins: segment, and byte in it.
    segment: usize,
    done: u64,
    /// Threads at work on it.
    in_flight: u32,
    /// No further pieces are to be handed out.
    issued: bool,
    /// It was cancelled before all pieces were handed out.
    cancelled: bool,
    /// The record was read once and did not match its checksum.
    reread: bool,
    error: Option<(u32, io::Error)>,
}

/// A read request.
#[derive(Clone, Copy)]
struct Piece {
    slot: u32,
    key: u32,
    file: u32,
    offset: u64,
    slot_offset: usize,
    bytes: usize,
}

struct State {
    /// Slots with pieces to hand out, in order: those that somebody waits for, and the others.
    demand: VecDeque<u32>,
    ahead: VecDeque<u32>,
    fills: Vec<Fill>,
    outcomes: Vec<(u32, Outcome)>,
    /// By key: the checksum was verified once, or there is none to verify.
    verified: Vec<bool>,
    counters: Counters,
    closing: bool,
}

struct Shared {
    index: Arc<Index>,
    arena: Arc<Arena>,
    reader: Arc<dyn Reader>,
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
}

pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// Starts the threads. With `verify`, each record with a checksum is verified on its first read.
    pub fn start(
        index: Arc<Index>,
        arena: Arc<Arena>,
        reader: Arc<dyn Reader>,
        slots: usize,
        threads: usize,
        verify: bool,
    ) -> Result<Pool, ExpertError> {
        let skip = |entry: &Entry| !verify || entry.checksum.is_none();
        let state = State {
            demand: VecDeque::with_capacity(slots),
            ahead: VecDeque::with_capacity(slots),
            fills: (0..slots).map(|_| Fill::default()).collect(),
            outcomes: Vec::with_capacity(slots),
            verified: index.entries.iter().map(skip).collect(),
            counters: Counters::default(),
            closing: false,
        };
        let shared = Arc::new(Shared {
            index,
            arena,
            reader,
            state: Mutex::new(state),
            work: Condvar::new(),
            done: Condvar::new(),
        });
        let mut pool = Pool {
            shared,
            threads: Vec::with_capacity(threads),
        };
        for number in 0..threads {
            let shared = Arc::clone(&pool.shared);
            let thread = std::thread::Builder::new()
                .name(format!("expert-read-{number}"))
                .spawn(move || shared.work())
                .map_err(|source| ExpertError::Threads { threads, source })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Queues the filling of slots with experts, in order. The caller must not touch these slots
    /// until their outcome is reported.
    pub fn submit(&self, fills: &[(u32, u32)], urgency: Urgency) {
        if fills.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        let state = &mut *state;
        let queue = match urgency {
            Urgency::Demand => &mut state.demand,
            Urgency::Ahead => &mut state.ahead,
        };
        for &(slot, key) in fills {
            state.fills[slot as usize] = Fill {
                key,
                ..Fill::default()
            };
            queue.push_back(slot);
        }
        self.shared.work.notify_all();
    }

    /// Somebody waits for these slots now: those still queued to be read ahead go behind what is
    /// waited for already. Slots that are not queued are left as they are.
    pub fn promote(&self, slots: &[u32]) {
        if slots.is_empty() {
            return;
        }
        let mut state = self.shared.lock();
        let state = &mut *state;
        for &slot in slots {
            if let Some(at) = state.ahead.iter().position(|&queued| queued == slot) {
                state.ahead.remove(at);
                state.demand.push_back(slot);
            }
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
        let mut state = self.shared.lock();
        let state = &mut *state;
        let queue = match urgency {
            Urgency::Demand => &mut state.demand,
            Urgency::Ahead => &mut state.ahead,
        };
        while let Some(slot) = queue.pop_front() {
            let fill = &mut state.fills[slot as usize];
            fill.issued = true;
            fill.cancelled = true;
            if fill.in_flight == 0 {
                state.outcomes.push((slot, Outcome::Cancelled));
            }
        }
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
        let mut state = self.shared.lock();
        state.closing = true;
        state.demand.clear();
        state.ahead.clear();
        drop(state);
        self.shared.work.notify_all();
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

    /// The life of a reader thread.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            let Some(piece) = state.next_piece(&self.index) else {
                if state.closing {
                    return;
                }
                state = self
                    .work
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let start = Instant::now();
            let (result, reads) = self.read(&piece);
            let elapsed_us = start.elapsed().as_micros() as u64;

            state = self.lock();
            state.counters.reads += reads;
            state.counters.retries += reads - 1;
            state.counters.read_us_total += elapsed_us;
            if result.is_ok() {
                state.counters.bytes_read += piece.bytes as u64;
            }
            if state.finish_piece(&piece, result) {
                state = self.finish_record(state, piece.slot, piece.key);
            }
        }
    }

    /// Reads a piece, twice if need be. Returns the number of requests beside the result.
    fn read(&self, piece: &Piece) -> (io::Result<()>, u64) {
        // SAFETY: the slot is being filled, so nobody else refers to it but the threads that fill
        // it, and pieces of one record do not overlap (segments do not: checked by the index).
        let out = unsafe {
            self.arena
                .bytes_mut(piece.slot, piece.slot_offset, piece.bytes)
        };
        let mut once = || {
            let read = || self.reader.read(piece.file, piece.offset, out);
            catch_unwind(AssertUnwindSafe(read))
                .unwrap_or_else(|_| Err(io::Error::other("the reader panicked")))
        };
        match once() {
            Ok(()) => (Ok(()), 1),
            Err(_) => (once(), 2),
        }
    }

    /// All pieces of a record have ended: verifies it if that is due, and reports the outcome or
    /// has it read again.
    fn finish_record<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        slot: u32,
        key: u32,
    ) -> MutexGuard<'a, State> {
        let entry = &self.index.entries[key as usize];
        let fill = &mut state.fills[slot as usize];
        let mut outcome = if let Some((file, source)) = fill.error.take() {
            let file = self.index.files[file as usize].clone();
            let (layer, expert) = (entry.layer, entry.expert);
            Outcome::Failed(ExpertError::Read {
                file,
                layer,
                expert,
                source,
            })
        } else if fill.cancelled {
            Outcome::Cancelled
        } else if let Some(expected) = entry.checksum.filter(|_| !state.verified[key as usize]) {
            drop(state);
            let found = self.checksum(slot, entry);
            state = self.lock();
            let fill = &mut state.fills[slot as usize];
            if found == expected {
                state.verified[key as usize] = true;
                state.counters.verified += 1;
                Outcome::Done
            } else if !fill.reread {
                *fill = Fill {
                    key,
                    reread: true,
                    ..Fill::default()
                };
                state.counters.retries += 1;
                state.demand.push_front(slot);
                self.work.notify_all();
                return state;
            } else {
                let file = self.index.files[entry.segments[0].file as usize].clone();
                let (layer, expert) = (entry.layer, entry.expert);
                Outcome::Failed(ExpertError::Corrupt {
                    file,
                    layer,
                    expert,
                    expected,
                    found,
                })
            }
        } else {
            Outcome::Done
        };
        if let (Outcome::Done, Some(prepare)) = (&outcome, &self.index.prepare) {
            drop(state);
            // SAFETY: all pieces have ended and the outcome is not reported yet, so this thread
            // alone has the slot.
            let bytes = unsafe { self.arena.bytes_mut(slot, 0, entry.bytes) };
            let prepared = catch_unwind(AssertUnwindSafe(|| prepare.run(entry.layer, bytes)));
            let panicked = |_| Err("preparing it for use panicked".to_owned());
            if let Err(problem) = prepared.unwrap_or_else(panicked) {
                outcome = Outcome::Failed(ExpertError::Read {
                    file: self.index.files[entry.segments[0].file as usize].clone(),
                    layer: entry.layer,
                    expert: entry.expert,
                    source: io::Error::other(problem),
                });
            }
            state = self.lock();
        }
        state.outcomes.push((slot, outcome));
        self.done.notify_one();
        state
    }

    fn checksum(&self, slot: u32, entry: &Entry) -> u64 {
        // SAFETY: all pieces have ended and the outcome is not reported yet, so this thread alone
        // has the slot.
        let bytes = unsafe { self.arena.bytes(slot, entry.bytes) };
        record_checksum(entry.segments.iter().map(|segment| {
            let start = segment.slot_offset as usize;
            &bytes[start..start + segment.bytes as usize]
        }))
    }
}

impl State {
    /// Hands out the next piece in order.
    fn next_piece(&mut self, index: &Index) -> Option<Piece> {
        let queue = match self.demand.is_empty() {
            true => &mut self.ahead,
            false => &mut self.demand,
        };
        let slot = *queue.front()?;
        let fill = &mut self.fills[slot as usize];
        let segments = &index.entries[fill.key as usize].segments;
        let segment = &segments[fill.segment];
        let bytes = piece_bytes(segment, fill.done);
        let piece = Piece {
            slot,
            key: fill.key,
            file: segment.file,
            offset: segment.offset + fill.done,
            slot_offset: (segment.slot_offset + fill.done) as usize,
            bytes: bytes as usize,
        };
        fill.in_flight += 1;
        fill.done += bytes;
        if fill.done == segment.bytes {
            fill.segment += 1;
            fill.done = 0;
        }
        if fill.segment == segments.len() {
            fill.issued = true;
            queue.pop_front();
        }
        Some(piece)
    }

    /// Notes the end of a piece. Returns whether it was the record's last.
    fn finish_piece(&mut self, piece: &Piece, result: io::Result<()>) -> bool {
        let fill = &mut self.fills[piece.slot as usize];
        fill.in_flight -= 1;
        if let Err(error) = result {
            fill.error.get_or_insert((piece.file, error));
            if !fill.issued {
                fill.issued = true;
                for queue in [&mut self.demand, &mut self.ahead] {
                    queue.retain(|&slot| slot != piece.slot);
                }
            }
        }
        let fill = &self.fills[piece.slot as usize];
        fill.issued && fill.in_flight == 0
    }
}

/// The length of the piece that begins `done` bytes into a segment: the segment in equal parts,
/// cut where the file is aligned.
fn piece_bytes(segment: &Segment, done: u64) -> u64 {
    let rest = segment.bytes - done;
    let parts = segment.bytes.div_ceil(PIECE_BYTES);
    let part = segment.bytes.div_ceil(parts).next_multiple_of(FILE_ALIGN);
    if rest <= part {
        return rest;
    }
    let start = segment.offset + done;
    (start + part) / FILE_ALIGN * FILE_ALIGN - start
}
