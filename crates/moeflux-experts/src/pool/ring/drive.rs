//! The ring's thread: it hands pieces to the system and takes their completions.

use std::io;
use std::os::fd::AsFd;
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant};

use super::{BELL, Engine, Landed, Request};
use crate::pool::queue::Piece;
use crate::reader::ring::Ring;
use crate::reader::{Blocks, FILE_ALIGN, end_of_file};

/// So little is copied sooner than another thread is told to: the ends of a range whose blocks
/// went straight to their place.
const COPIED_AT_ONCE_BYTES: usize = 2 * FILE_ALIGN as usize;

impl Engine {
    /// The life of the ring's thread. `said` hears whether it began.
    pub(super) fn run(&self, said: &SyncSender<Result<(), String>>) {
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
                listening = ring.watch(BELL, bell.as_fd()).is_ok();
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
        self.hands().landed_all = true;
        self.landed.notify_all();
    }

    /// An idle request and a piece for it.
    fn next(&self) -> Option<(usize, Piece)> {
        let mut hands = self.hands();
        let number = *hands.idle.last()?;
        let piece = self.shared.lock().next_piece(&self.shared.index)?;
        hands.idle.pop();
        Some((number, piece))
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

    /// A request has ended for good: what is left to do goes to the other threads, but for a few
    /// bytes.
    fn land(&self, number: usize, request: &Request, piece: Piece, result: io::Result<()>) {
        let placed = request.blocks.copied_bytes() <= COPIED_AT_ONCE_BYTES;
        if placed && result.is_ok() {
            self.put_in_place(request, piece);
        }
        let mut state = self.shared.lock();
        state.counters.reads += request.turns;
        state.counters.retries += request.turns - 1;
        state.counters.read_us_total += request.start.elapsed().as_micros() as u64;
        state.landed(&piece);
        let to_finish = result.is_ok() && !placed;
        let last = !to_finish && state.end_piece(&piece, result);
        drop(state);
        let mut hands = self.hands();
        match to_finish {
            true => hands.landed.push_back(Landed::Request(number)),
            false => hands.idle.push(number),
        }
        if last {
            let record = Landed::Record(piece.slot, piece.key);
            hands.landed.push_back(record);
        }
        drop(hands);
        if to_finish || last {
            self.landed.notify_one();
        }
    }
}
