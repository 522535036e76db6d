//! The engine on io_uring: one thread hands requests to the system and takes their completions; a
//! few others put bytes in their place and finish records, so that nothing keeps the disk waiting.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use rustix::event::{EventfdFlags, eventfd};

use super::Shared;
use super::queue::{Landed, Limits, Piece};
use crate::error::ExpertError;
use crate::reader::ring::{Ring, Target};
use crate::reader::{Blocks, Fate, end_of_file, new_bounce};
use crate::source::Uring;

/// Threads that finish records.
const FINISHING_THREADS: usize = 3;

/// The tag of the bell's completions; requests have their number.
const BELL: u64 = u64::MAX - 1;

/// Wakes the ring's thread, which waits for completions only: the ring watches it.
pub(super) struct Bell(OwnedFd);

impl Bell {
    fn new() -> io::Result<Bell> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Bell(eventfd(0, flags)?))
    }

    pub fn ring(&self) {
        // It can only fail by having been rung four billion times unheard.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    fn hear(&self) {
        // Fails if another completion's turn has heard it already.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

/// What came of starting.
pub(super) enum Started {
    Running(Arc<Shared>, Vec<JoinHandle<()>>),
    /// The system does not let us, for this reason.
    Refused(Shared, String),
}

/// A place for one request. Its thread has it while the request is in flight; then whoever holds
/// the lock.
struct Request {
    piece: Option<Piece>,
    blocks: Blocks,
    /// Bytes of the blocks that earlier turns delivered.
    at: usize,
    turns: u64,
    fate: Fate,
    start: Instant,
    target: Target,
    bounce: MmapMut,
}

/// The engine, as its threads share it.
struct Engine {
    shared: Arc<Shared>,
    uring: Uring,
    /// Never moved, as the system knows addresses inside.
    requests: Box<[Mutex<Request>]>,
}

/// Starts the threads, if the system has io_uring for us.
pub(super) fn start(
    mut shared: Shared,
    uring: Uring,
    limits: Limits,
) -> Result<Started, ExpertError> {
    // As many more as may be waiting to be finished.
    let count = limits.all() + 2 * FINISHING_THREADS;
    let requests = (0..count).map(|_| Request::new().map(Mutex::new));
    let requests = requests.collect::<io::Result<Box<[_]>>>();
    let (bell, requests) = match (Bell::new(), requests) {
        (Ok(bell), Ok(requests)) => (bell, requests),
        (Err(error), _) | (_, Err(error)) => {
            return Ok(Started::Refused(
                shared,
                format!("no memory for io_uring: {error}"),
            ));
        }
    };
    shared.bell = Some(bell);
    shared.lock().idle = (0..count).rev().collect();
    let shared = Arc::new(shared);
    let engine = Arc::new(Engine {
        shared: Arc::clone(&shared),
        uring,
        requests,
    });
    let (said, says) = sync_channel(1);
    let mut threads = Vec::with_capacity(1 + FINISHING_THREADS);
    let own = Arc::clone(&engine);
    threads.push(spawn("expert-ring".into(), move || own.run(&said))?);
    if let Ok(Err(reason)) = says.recv() {
        drop(engine);
        for thread in threads {
            let _ = thread.join();
        }
        return match Arc::try_unwrap(shared) {
            Ok(mut shared) => {
                shared.bell = None;
                Ok(Started::Refused(shared, reason))
            }
            // Its only other owner has ended.
            Err(_) => Err(refused_thread(io::Error::other(reason))),
        };
    }
    for number in 0..FINISHING_THREADS {
        let own = Arc::clone(&engine);
        let spawned = spawn(format!("expert-finish-{number}"), move || own.finish());
        match spawned {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                shared.lock().close();
                shared.wake_readers();
                return Err(error);
            }
        }
    }
    Ok(Started::Running(shared, threads))
}

fn spawn(
    name: String,
    body: impl FnOnce() + Send + 'static,
) -> Result<JoinHandle<()>, ExpertError> {
    let thread = std::thread::Builder::new().name(name);
    thread.spawn(body).map_err(refused_thread)
}

fn refused_thread(source: io::Error) -> ExpertError {
    ExpertError::Threads {
        threads: 1 + FINISHING_THREADS,
        source,
    }
}

impl Request {
    fn new() -> io::Result<Request> {
        Ok(Request {
            piece: None,
            blocks: Blocks::default(),
            at: 0,
            turns: 0,
            fate: Fate::default(),
            start: Instant::now(),
            target: Target::NONE,
            bounce: new_bounce()?,
        })
    }
}

impl Engine {
    /// The life of the ring's thread. `said` hears whether it began.
    fn run(&self, said: &SyncSender<Result<(), String>>) {
        let mut ring = match Ring::new(self.uring.files.files(), self.requests.len()) {
            Ok(ring) => ring,
            Err(reason) => {
                let _ = said.send(Err(reason));
                return;
            }
        };
        let _ = said.send(Ok(()));
        let mut in_flight = 0;
        let mut listening = false;
        loop {
            if let (false, Some(bell)) = (listening, &self.shared.bell) {
                bell.hear();
                listening = ring.watch(BELL, bell.0.as_fd()).is_ok();
            }
            while let Some((number, piece)) = self.next() {
                in_flight += usize::from(self.begin(&mut ring, number, piece));
            }
            if in_flight == 0 && self.shared.lock().closing {
                break;
            }
            if ring.wait().is_err() {
                // Nothing is known to fail here; requests in flight must be awaited all the same.
                std::thread::sleep(Duration::from_millis(1));
            }
            while let Some((tag, result)) = ring.completion() {
                match tag {
                    BELL => listening = false,
                    number => {
                        in_flight -= usize::from(self.end(&mut ring, number as usize, result));
                    }
                }
            }
        }
        self.shared.lock().landed_all = true;
        self.shared.work.notify_all();
    }

    /// An idle request and a piece for it.
    fn next(&self) -> Option<(usize, Piece)> {
        let mut state = self.shared.lock();
        let number = *state.idle.last()?;
        let piece = state.next_piece(&self.shared.index)?;
        state.idle.pop();
        Some((number, piece))
    }

    fn request(&self, number: usize) -> MutexGuard<'_, Request> {
        let request = self.requests[number].lock();
        request.unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to read a piece. Returns whether it is in flight.
    fn begin(&self, ring: &mut Ring, number: usize, piece: Piece) -> bool {
        let mut request = self.request(number);
        request.piece = Some(piece);
        request.turns = 0;
        request.start = Instant::now();
        self.begin_turn(ring, number, &mut request, piece)
    }

    /// Reads the piece from its start. Returns whether it is in flight; it has ended otherwise.
    fn begin_turn(
        &self,
        ring: &mut Ring,
        number: usize,
        request: &mut Request,
        piece: Piece,
    ) -> bool {
        request.turns += 1;
        request.at = 0;
        if let Some(faults) = &self.uring.faults {
            request.fate = faults.draw(piece.file, piece.offset, piece.bytes);
        }
        let delay = request.fate.delay;
        request.target.delay = (!delay.is_zero()).then(|| delay.into());
        match self.hand_over(ring, number, request, piece) {
            Ok(()) => true,
            Err(error) => {
                self.land(number, request, piece, Err(error));
                false
            }
        }
    }

    /// Hands what is left of a request to the system.
    fn hand_over(
        &self,
        ring: &mut Ring,
        number: usize,
        request: &mut Request,
        piece: Piece,
    ) -> io::Result<()> {
        // SAFETY: the slot is being filled, so nobody else refers to it but the threads that fill
        // it, and pieces of one record do not overlap (segments do not: checked by the index).
        let out = unsafe {
            self.shared
                .arena
                .bytes_mut(piece.slot, piece.slot_offset, piece.bytes)
        };
        let align = self.uring.files.memory_align();
        let address = out.as_ptr() as usize;
        request.blocks = Blocks::new(piece.offset, piece.bytes, address, align);
        let (mut parts, count) = request.blocks.parts(request.at, out, &mut request.bounce);
        request.target.set(&mut parts[..count]);
        let offset = request.blocks.start + request.at as u64;
        // SAFETY: the places are in the slot and in the request's own buffer, which live as long as
        // the engine and which nobody touches before the completion: the request is not idle.
        unsafe { ring.read(number as u64, piece.file, offset, &request.target) }
    }

    /// A completion. Returns whether its request is no longer in flight.
    fn end(&self, ring: &mut Ring, number: usize, result: io::Result<usize>) -> bool {
        let mut request = self.request(number);
        let request = &mut *request;
        let Some(piece) = request.piece else {
            return false;
        };
        let result = match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(request.at),
            result => result.map(|bytes| request.at + bytes),
        };
        let result = match result {
            Err(error) => Err(error),
            Ok(done) if done >= request.blocks.needed() => Ok(()),
            Ok(done) => match request.blocks.resume(request.at, done) {
                None => Err(end_of_file()),
                Some(at) => {
                    request.at = at;
                    match self.hand_over(ring, number, request, piece) {
                        Ok(()) => return false,
                        Err(error) => Err(error),
                    }
                }
            },
        };
        let result = result.and_then(|()| request.fate.result());
        if result.is_err() && request.turns == 1 {
            return !self.begin_turn(ring, number, request, piece);
        }
        self.land(number, request, piece, result);
        true
    }

    /// A request has ended for good: what is left to do goes to the other threads.
    fn land(&self, number: usize, request: &Request, piece: Piece, result: io::Result<()>) {
        let mut state = self.shared.lock();
        state.counters.reads += request.turns;
        state.counters.retries += request.turns - 1;
        state.counters.read_us_total += request.start.elapsed().as_micros() as u64;
        state.landed(&piece);
        if result.is_ok() && (request.blocks.copies() || request.fate.spoils()) {
            state.landed.push_back(Landed::Request(number));
        } else {
            state.idle.push(number);
            if !state.end_piece(&piece, result) {
                return;
            }
            state
                .landed
                .push_back(Landed::Record(piece.slot, piece.key));
        }
        drop(state);
        self.shared.work.notify_one();
    }

    /// The life of a thread that finishes.
    fn finish(&self) {
        let mut state = self.shared.lock();
        loop {
            let Some(landed) = state.landed.pop_front() else {
                if state.landed_all {
                    return;
                }
                let waiting = self.shared.work.wait(state);
                state = waiting.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            match landed {
                Landed::Record(slot, key) => self.shared.finish_record(slot, key),
                Landed::Request(number) => self.put_in_place(number),
            }
            state = self.shared.lock();
        }
    }

    /// Puts bytes in their place; finishes the record if they were the last.
    fn put_in_place(&self, number: usize) {
        let request = self.request(number);
        let Some(piece) = request.piece else { return };
        // SAFETY: as when the request was handed over; its completion was taken since.
        let out = unsafe {
            self.shared
                .arena
                .bytes_mut(piece.slot, piece.slot_offset, piece.bytes)
        };
        if request.blocks.copies() {
            request.blocks.finish(out, &request.bounce);
        }
        request.fate.spoil(out);
        drop(request);
        let mut state = self.shared.lock();
        let all_were_busy = state.idle.is_empty();
        state.idle.push(number);
        let last = state.end_piece(&piece, Ok(()));
        drop(state);
        if all_were_busy {
            self.shared.wake_readers();
        }
        if last {
            self.shared.finish_record(piece.slot, piece.key);
        }
    }
}
