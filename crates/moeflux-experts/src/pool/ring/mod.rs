//! The engine on io_uring: one thread hands requests to the system and takes their completions; a
//! few others put bytes in their place and finish records, so that nothing keeps the disk waiting.

mod bell;
mod drive;

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use memmap2::MmapMut;

pub(super) use bell::Bell;

use super::Shared;
use super::queue::{Limits, Piece};
use crate::error::ExpertError;
use crate::reader::ring::Target;
use crate::reader::{Blocks, Fate, new_bounce};
use crate::source::Uring;

/// Threads that finish records.
const FINISHING_THREADS: usize = 3;

/// The tag of the bell's completions; requests have their number.
const BELL: u64 = u64::MAX - 1;

/// What came of starting.
pub(super) enum Started {
    Running(Arc<Shared>, Vec<JoinHandle<()>>),
    /// The system does not let us, for this reason.
    Refused(Box<Shared>, String),
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

/// What passes between the ring's thread and those that finish.
struct Hands {
    /// What is to be finished.
    landed: VecDeque<Landed>,
    /// Requests that are in nobody's hands.
    idle: Vec<usize>,
    /// The ring's thread has ended, so nothing more will land.
    landed_all: bool,
}

enum Landed {
    /// A request whose bytes are not all in their place yet.
    Request(usize),
    /// A record all of whose pieces have ended: slot and key.
    Record(u32, u32),
}

/// The engine, as its threads share it.
struct Engine {
    shared: Arc<Shared>,
    uring: Uring,
    /// Locked before the pool's state where both are.
    hands: Mutex<Hands>,
    /// Something has landed.
    landed: Condvar,
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
            let reason = format!("no memory for io_uring: {error}");
            return Ok(Started::Refused(Box::new(shared), reason));
        }
    };
    shared.bell = Some(bell);
    let shared = Arc::new(shared);
    let engine = Arc::new(Engine {
        shared: Arc::clone(&shared),
        uring,
        hands: Mutex::new(Hands {
            landed: VecDeque::with_capacity(2 * count),
            idle: (0..count).rev().collect(),
            landed_all: false,
        }),
        landed: Condvar::new(),
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
                Ok(Started::Refused(Box::new(shared), reason))
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
    fn hands(&self) -> MutexGuard<'_, Hands> {
        self.hands.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn request(&self, number: usize) -> MutexGuard<'_, Request> {
        let request = self.requests[number].lock();
        request.unwrap_or_else(PoisonError::into_inner)
    }

    /// The life of a thread that finishes.
    fn finish(&self) {
        let mut hands = self.hands();
        loop {
            let Some(landed) = hands.landed.pop_front() else {
                if hands.landed_all {
                    return;
                }
                let waiting = self.landed.wait(hands);
                hands = waiting.unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(hands);
            match landed {
                Landed::Record(slot, key) => self.shared.finish_record(slot, key),
                Landed::Request(number) => self.finish_request(number),
            }
            hands = self.hands();
        }
    }

    /// Puts the bytes of a request whose completion was taken in their place.
    fn put_in_place(&self, request: &Request, piece: Piece) {
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
    }

    /// Ends a request whose bytes are not in their place yet; finishes the record if it was the
    /// last.
    fn finish_request(&self, number: usize) {
        let request = self.request(number);
        let Some(piece) = request.piece else { return };
        self.put_in_place(&request, piece);
        drop(request);
        let mut hands = self.hands();
        let all_were_busy = hands.idle.is_empty();
        hands.idle.push(number);
        drop(hands);
        let last = self.shared.lock().end_piece(&piece, Ok(()));
        if all_were_busy {
            self.shared.wake_readers();
        }
        if last {
            self.shared.finish_record(piece.slot, piece.key);
        }
    }
}
