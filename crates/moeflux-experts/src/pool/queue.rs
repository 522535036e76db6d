//! What is read next: fillings by urgency, in order, cut into pieces.

use std::collections::VecDeque;
use std::io;
use std::time::Instant;

use super::{Counters, Outcome, Urgency};
use crate::catalog::{Entry, Index, Segment};
use crate::reader::FILE_ALIGN;

/// Of the requests that the disk wants in flight, those read ahead of use are at most this part, so
/// that a demand read waits for few of them.
const AHEAD_PART: usize = 4;

/// How many requests may be in flight.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub demand: usize,
    pub ahead: usize,
}

impl Limits {
    pub fn new(depth: usize) -> Limits {
        Limits {
            demand: depth,
            ahead: depth.div_ceil(AHEAD_PART),
        }
    }

    /// Requests of both kinds: those ahead of use never take the place of others.
    pub fn all(&self) -> usize {
        self.demand + self.ahead
    }
}

/// The filling of one slot. From `submit` until its outcome is reported, the pool owns the slot.
#[derive(Default)]
pub(super) struct Fill {
    pub key: u32,
    /// Where the next piece begins: segment, and byte in it.
    segment: usize,
    done: u64,
    /// Pieces handed out that have not ended.
    in_flight: u32,
    /// No further pieces are to be handed out.
    issued: bool,
    /// It was cancelled before all pieces were handed out.
    pub cancelled: bool,
    /// The record was read once and did not match its checksum.
    pub reread: bool,
    pub error: Option<(u32, io::Error)>,
}

/// A read request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Piece {
    pub slot: u32,
    pub key: u32,
    pub file: u32,
    pub offset: u64,
    pub slot_offset: usize,
    pub bytes: usize,
    pub urgency: Urgency,
}

pub(super) struct State {
    /// Slots with pieces to hand out, in order: those that somebody waits for, and the others.
    demand: VecDeque<u32>,
    ahead: VecDeque<u32>,
    fills: Vec<Fill>,
    limits: Limits,
    demand_in_flight: usize,
    ahead_in_flight: usize,
    /// Since when any piece is in flight.
    busy_since: Option<Instant>,
    piece_bytes: u64,
    pub outcomes: Vec<(u32, Outcome)>,
    /// By key: the checksum was verified once, or there is none to verify.
    pub verified: Vec<bool>,
    pub counters: Counters,
    /// Nothing more is to be read.
    pub closing: bool,
}

impl State {
    pub fn new(
        index: &Index,
        slots: usize,
        limits: Limits,
        piece_bytes: u64,
        verify: bool,
    ) -> State {
        let skip = |entry: &Entry| !verify || entry.checksum.is_none();
        State {
            demand: VecDeque::with_capacity(slots),
            ahead: VecDeque::with_capacity(slots),
            fills: (0..slots).map(|_| Fill::default()).collect(),
            limits,
            demand_in_flight: 0,
            ahead_in_flight: 0,
            busy_since: None,
            piece_bytes,
            outcomes: Vec::with_capacity(slots),
            verified: index.entries.iter().map(skip).collect(),
            counters: Counters::default(),
            closing: false,
        }
    }

    pub fn submit(&mut self, fills: &[(u32, u32)], urgency: Urgency) {
        for &(slot, key) in fills {
            self.fills[slot as usize] = Fill {
                key,
                ..Fill::default()
            };
            self.queue(urgency).push_back(slot);
        }
    }

    pub fn promote(&mut self, slots: &[u32]) {
        for &slot in slots {
            if let Some(at) = self.ahead.iter().position(|&queued| queued == slot) {
                self.ahead.remove(at);
                self.demand.push_back(slot);
            }
        }
    }

    pub fn cancel(&mut self, urgency: Urgency) {
        while let Some(slot) = self.queue(urgency).pop_front() {
            let fill = &mut self.fills[slot as usize];
            fill.issued = true;
            fill.cancelled = true;
            if fill.in_flight == 0 {
                self.outcomes.push((slot, Outcome::Cancelled));
            }
        }
    }

    /// Nothing more is to be handed out.
    pub fn close(&mut self) {
        self.closing = true;
        self.demand.clear();
        self.ahead.clear();
    }

    /// The record is to be read again, before anything else.
    pub fn read_again(&mut self, slot: u32, key: u32) {
        self.fills[slot as usize] = Fill {
            key,
            reread: true,
            ..Fill::default()
        };
        if !self.closing {
            self.demand.push_front(slot);
        }
    }

    pub fn fill(&mut self, slot: u32) -> &mut Fill {
        &mut self.fills[slot as usize]
    }

    /// Hands out the next piece in order, if another may be in flight.
    pub fn next_piece(&mut self, index: &Index) -> Option<Piece> {
        let urgency = self.next_urgency()?;
        let piece_bytes = self.piece_bytes;
        let slot = *self.queue(urgency).front()?;
        let fill = &mut self.fills[slot as usize];
        let segments = &index.entries[fill.key as usize].segments;
        let segment = &segments[fill.segment];
        let bytes = next_bytes(segment, fill.done, piece_bytes);
        let piece = Piece {
            slot,
            key: fill.key,
            file: segment.file,
            offset: segment.offset + fill.done,
            slot_offset: (segment.slot_offset + fill.done) as usize,
            bytes: bytes as usize,
            urgency,
        };
        fill.in_flight += 1;
        fill.done += bytes;
        if fill.done == segment.bytes {
            fill.segment += 1;
            fill.done = 0;
        }
        if fill.segment == segments.len() {
            fill.issued = true;
            self.queue(urgency).pop_front();
        }
        *self.in_flight(urgency) += 1;
        self.busy_since.get_or_insert_with(Instant::now);
        Some(piece)
    }

    /// Whose turn it is: demand as long as there is any, then what the queue has room for.
    fn next_urgency(&self) -> Option<Urgency> {
        if !self.demand.is_empty() {
            let room = self.demand_in_flight < self.limits.demand;
            return room.then_some(Urgency::Demand);
        }
        let room = self.ahead_in_flight < self.limits.ahead
            && self.demand_in_flight + self.ahead_in_flight < self.limits.demand;
        (room && !self.ahead.is_empty()).then_some(Urgency::Ahead)
    }

    /// A piece is no longer in flight.
    pub fn landed(&mut self, piece: &Piece) {
        *self.in_flight(piece.urgency) -= 1;
        if self.demand_in_flight + self.ahead_in_flight == 0
            && let Some(since) = self.busy_since.take()
        {
            self.counters.busy_us_total += since.elapsed().as_micros() as u64;
        }
    }

    /// A piece has ended, its bytes in place if all went well. Returns whether it was the record's
    /// last.
    pub fn end_piece(&mut self, piece: &Piece, result: io::Result<()>) -> bool {
        let fill = &mut self.fills[piece.slot as usize];
        fill.in_flight -= 1;
        match result {
            Ok(()) => self.counters.bytes_read += piece.bytes as u64,
            Err(error) => {
                fill.error.get_or_insert((piece.file, error));
                if !fill.issued {
                    fill.issued = true;
                    for queue in [&mut self.demand, &mut self.ahead] {
                        queue.retain(|&slot| slot != piece.slot);
                    }
                }
            }
        }
        let fill = &self.fills[piece.slot as usize];
        fill.issued && fill.in_flight == 0
    }

    fn queue(&mut self, urgency: Urgency) -> &mut VecDeque<u32> {
        match urgency {
            Urgency::Demand => &mut self.demand,
            Urgency::Ahead => &mut self.ahead,
        }
    }

    fn in_flight(&mut self, urgency: Urgency) -> &mut usize {
        match urgency {
            Urgency::Demand => &mut self.demand_in_flight,
            Urgency::Ahead => &mut self.ahead_in_flight,
        }
    }
}

/// The length of the piece that begins `done` bytes into a segment: the segment in equal parts,
/// cut where the file is aligned.
fn next_bytes(segment: &Segment, done: u64, piece_bytes: u64) -> u64 {
    let rest = segment.bytes - done;
    let parts = segment.bytes.div_ceil(piece_bytes);
    let part = segment.bytes.div_ceil(parts).next_multiple_of(FILE_ALIGN);
    if rest <= part {
        return rest;
    }
    let start = segment.offset + done;
    (start + part) / FILE_ALIGN * FILE_ALIGN - start
}
