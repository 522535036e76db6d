//! The engine that works everywhere: threads whose reads block.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use super::Shared;
use super::queue::{Limits, Piece};
use crate::error::ExpertError;
use crate::reader::Reader;

/// Threads beyond those that read: records are finished beside reads, not instead of them.
const SPARE_THREADS: usize = 2;

pub(super) fn start(
    shared: &Arc<Shared>,
    reader: &Arc<dyn Reader>,
    limits: Limits,
) -> Result<Vec<JoinHandle<()>>, ExpertError> {
    let count = limits.all() + SPARE_THREADS;
    let mut threads = Vec::with_capacity(count);
    for number in 0..count {
        let (thread_shared, reader) = (Arc::clone(shared), Arc::clone(reader));
        let spawned = std::thread::Builder::new()
            .name(format!("expert-read-{number}"))
            .spawn(move || thread_shared.read_pieces(&*reader));
        match spawned {
            Ok(thread) => threads.push(thread),
            Err(source) => {
                shared.lock().close();
                shared.work.notify_all();
                return Err(ExpertError::Threads {
                    threads: count,
                    source,
                });
            }
        }
    }
    Ok(threads)
}

impl Shared {
    /// The life of a reader thread.
    fn read_pieces(&self, reader: &dyn Reader) {
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
            let (result, reads) = self.read_piece(reader, &piece);
            let elapsed_us = start.elapsed().as_micros() as u64;

            state = self.lock();
            state.counters.reads += reads;
            state.counters.retries += reads - 1;
            state.counters.read_us_total += elapsed_us;
            state.landed(&piece);
            if state.end_piece(&piece, result) {
                drop(state);
                // Another thread takes this one's place at the disk.
                self.work.notify_one();
                self.finish_record(piece.slot, piece.key);
                state = self.lock();
            }
        }
    }

    /// Reads a piece, twice if need be. Returns the number of requests beside the result.
    fn read_piece(&self, reader: &dyn Reader, piece: &Piece) -> (io::Result<()>, u64) {
        // SAFETY: the slot is being filled, so nobody else refers to it but the threads that fill
        // it, and pieces of one record do not overlap (segments do not: checked by the index).
        let out = unsafe {
            self.arena
                .bytes_mut(piece.slot, piece.slot_offset, piece.bytes)
        };
        let mut once = || {
            let read = || reader.read(piece.file, piece.offset, out);
            catch_unwind(AssertUnwindSafe(read))
                .unwrap_or_else(|_| Err(io::Error::other("the reader panicked")))
        };
        match once() {
            Ok(()) => (Ok(()), 1),
            Err(_) => (once(), 2),
        }
    }
}
