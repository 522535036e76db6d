//! A lease: the experts of one layer that a step needs, delivered in batches.
//!
//! It works with any number of slots, in waves: what is delivered is pinned until its batch is
//! dropped, and then makes room for what is still missing.

use std::collections::VecDeque;

use crate::catalog::Index;
use crate::error::ExpertError;
use crate::pool::{Outcome, Urgency};
use crate::residency::{NO_SLOT, Residency, SlotState};

/// The state of the one lease that can exist. Its memory is kept from lease to lease.
pub(crate) struct Work {
    /// Counts leases, for `seen`.
    serial: u64,
    /// By key: the last lease that asked for it.
    seen: Vec<u64>,
    /// Keys asked for, in order.
    wanted: Vec<u32>,
    /// By key: the tokens that use it.
    tokens: Vec<u32>,
    /// Nothing was delivered of what was asked for, or cancelled.
    is_fresh: bool,
    /// Pinned slots not delivered yet.
    arrived: Vec<u32>,
    /// Keys that have no slot yet.
    missing: VecDeque<u32>,
    /// Slots being filled.
    filling: usize,
    /// Pinned slots of the batch that was delivered last.
    batch: Vec<u32>,
    submitted: Vec<(u32, u32)>,
    outcomes: Vec<(u32, Outcome)>,
    /// Why an expert that was asked for cannot be had.
    error: Option<ExpertError>,
}

impl Work {
    pub fn new(slots: usize, experts: usize) -> Work {
        Work {
            serial: 0,
            seen: vec![0; experts],
            wanted: Vec::new(),
            tokens: vec![1; experts],
            is_fresh: false,
            arrived: Vec::with_capacity(slots),
            missing: VecDeque::new(),
            filling: 0,
            batch: Vec::with_capacity(slots),
            submitted: Vec::with_capacity(slots),
            outcomes: Vec::with_capacity(slots),
            error: None,
        }
    }

    /// Takes down what is wanted, if all of it exists and none of it twice.
    pub fn accept(
        &mut self,
        index: &Index,
        layer: usize,
        experts: &[u32],
        tokens: &[u32],
    ) -> Result<(), ExpertError> {
        self.serial += 1;
        self.wanted.clear();
        for (at, &expert) in experts.iter().enumerate() {
            let key = index.key(layer, expert)?;
            self.tokens[key as usize] = tokens.get(at).copied().unwrap_or(1);
            let seen = &mut self.seen[key as usize];
            if std::mem::replace(seen, self.serial) == self.serial {
                return Err(ExpertError::DuplicateExpert { layer, expert });
            }
            self.wanted.push(key);
        }
        self.is_fresh = true;
        Ok(())
    }

    /// Whether just these experts were asked for and nothing has become of it yet.
    pub fn is_open(&self, index: &Index, layer: usize, experts: &[u32]) -> bool {
        let asked_for = |(&key, &expert): (&u32, &u32)| {
            index.entries[key as usize].layer == layer
                && index.entries[key as usize].expert == expert
        };
        self.is_fresh
            && self.wanted.len() == experts.len()
            && self.wanted.iter().zip(experts).all(asked_for)
    }
}

/// Experts that are in memory or on their way there. Dropping it early cancels what is queued and
/// waits for the reads in flight; what is complete stays cached.
pub struct Lease<'a> {
    residency: &'a mut Residency,
}

impl<'a> Lease<'a> {
    pub(crate) fn new(residency: &'a mut Residency) -> Lease<'a> {
        Lease { residency }
    }

    /// The next batch of experts in memory: first all that were there when the lease began, then
    /// at each call all that have arrived since, waiting for one if there is none. Each expert is
    /// delivered once; `None` when all were.
    ///
    /// # Errors
    /// [`ExpertError::Read`] or [`ExpertError::Corrupt`] when a record cannot be had. The rest of
    /// the lease is dropped then (further calls give `None`); later leases are unaffected.
    #[allow(clippy::should_implement_trait, reason = "a batch borrows the lease")]
    pub fn next(&mut self) -> Result<Option<Ready<'_>>, ExpertError> {
        match self.residency.next_batch()? {
            true => Ok(Some(Ready {
                residency: self.residency,
            })),
            false => Ok(None),
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.residency.settle();
    }
}

/// A batch of experts in memory, at least one. Dropping it lets their slots be used for others.
pub struct Ready<'a> {
    residency: &'a mut Residency,
}

impl Ready<'_> {
    /// The experts' ids and bytes. The bytes end where the record does; bytes between its
    /// segments, if any, are unspecified.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (u32, &[u8])> {
        let residency = &*self.residency;
        residency.work.batch.iter().map(move |&slot| {
            let entry = &residency.index.entries[residency.slots[slot as usize].key as usize];
            // SAFETY: the slot is pinned, so it is not filled again before this batch is dropped,
            // and the slice borrows the batch.
            (entry.expert, unsafe {
                residency.arena.bytes(slot, entry.bytes)
            })
        })
    }

    /// Number of experts.
    #[allow(clippy::len_without_is_empty, reason = "a batch is never empty")]
    pub fn len(&self) -> usize {
        self.residency.work.batch.len()
    }
}

impl Drop for Ready<'_> {
    fn drop(&mut self) {
        self.residency.release_batch();
    }
}

impl Residency {
    /// Pins what is wanted and in memory; the rest is missing, or on its way already.
    pub(crate) fn pin_hits(&mut self) {
        for at in 0..self.work.wanted.len() {
            let key = self.work.wanted[at];
            let slot = self.slot_of[key as usize];
            if slot == NO_SLOT {
                self.work.missing.push_back(key);
                continue;
            }
            let is_there = match self.slots[slot as usize].state {
                SlotState::Guess | SlotState::FillingAhead => self.redeem(slot),
                _ => {
                    self.slots[slot as usize].state = SlotState::Pinned;
                    self.victims.touch(slot);
                    true
                }
            };
            match is_there {
                true => self.work.arrived.push(slot),
                false => self.work.filling += 1,
            }
        }
        let hits = self.work.arrived.len();
        self.counters.hits += hits as u64;
        self.counters.misses += (self.work.wanted.len() - hits) as u64;
    }

    /// Begins to read what is missing, as far as there are slots.
    pub(crate) fn start_reads(&mut self) {
        while let Some(&key) = self.work.missing.front() {
            let Some(slot) = self.vacant_slot() else {
                break;
            };
            self.work.missing.pop_front();
            let state = &mut self.slots[slot as usize];
            state.state = SlotState::Filling;
            state.key = key;
            self.slot_of[key as usize] = slot;
            self.victims.admit(slot, key);
            self.work.submitted.push((slot, key));
        }
        self.pool.submit(&self.work.submitted, Urgency::Demand);
        self.work.filling += self.work.submitted.len();
        self.work.submitted.clear();
    }

    /// Moves on to the next batch; false when there is none.
    fn next_batch(&mut self) -> Result<bool, ExpertError> {
        self.work.is_fresh = false;
        self.release_batch(); // Dropping it did, unless it was leaked.
        // With nothing pinned, if anything is missing, something is being read: for this lease, or as
        // a guess whose slot is needed.
        loop {
            if let Some(error) = self.work.error.take() {
                self.settle();
                return Err(error);
            }
            if !self.work.arrived.is_empty() {
                break;
            }
            if self.work.filling == 0 {
                if self.work.missing.is_empty() {
                    return Ok(false);
                }
                self.stop_guessing();
                self.start_reads();
            }
            self.collect_outcomes(true);
        }
        std::mem::swap(&mut self.work.batch, &mut self.work.arrived);
        Ok(true)
    }

    /// Takes note of what has been read, without waiting.
    pub(crate) fn poll(&mut self) {
        if self.ahead.filling > 0 {
            self.collect_outcomes(false);
        }
    }

    /// Takes note of what has been read, waiting for something if told to: pins what the lease
    /// waits for, for its next batch, or keeps the first error for it. What nobody waits for cannot
    /// fail anybody.
    pub(crate) fn collect_outcomes(&mut self, wait: bool) {
        let mut outcomes = std::mem::take(&mut self.work.outcomes);
        if wait {
            self.counters.wait_us_total += self.pool.wait(&mut outcomes);
        } else {
            self.pool.poll(&mut outcomes);
        }
        for (slot, outcome) in outcomes.drain(..) {
            if self.slots[slot as usize].state == SlotState::FillingAhead {
                self.guess_ended(slot, matches!(outcome, Outcome::Done));
                continue;
            }
            self.work.filling -= 1;
            match outcome {
                Outcome::Done => {
                    self.slots[slot as usize].state = SlotState::Pinned;
                    self.work.arrived.push(slot);
                }
                Outcome::Cancelled => {
                    // By the lease's end, which clears this; or as a guess, when half of it had been
                    // read, before the lease asked for it.
                    self.work.missing.push_back(self.slots[slot as usize].key);
                    self.free_slot(slot);
                }
                Outcome::Failed(error) => {
                    self.free_slot(slot);
                    self.work.error.get_or_insert(error);
                }
            }
        }
        self.work.outcomes = outcomes;
    }

    /// Unpins the last batch and uses the room for what is missing.
    pub(crate) fn release_batch(&mut self) {
        while let Some(slot) = self.work.batch.pop() {
            let state = &mut self.slots[slot as usize];
            state.state = SlotState::Ready;
            let tokens = self.work.tokens[state.key as usize];
            self.victims.release(slot, tokens);
        }
        self.start_reads();
    }

    /// Ends a lease: cancels what is queued, waits for reads in flight, unpins everything.
    pub(crate) fn settle(&mut self) {
        self.work.is_fresh = false;
        if self.work.filling > 0 {
            self.pool.cancel(Urgency::Demand);
        }
        while self.work.filling > 0 {
            self.collect_outcomes(true);
        }
        // They concern experts that nobody waits for any more.
        self.work.error = None;
        self.work.missing.clear();
        self.work.batch.append(&mut self.work.arrived);
        self.release_batch();
    }

    /// An empty slot, in no list: a free one, or what can be spared first.
    pub(crate) fn vacant_slot(&mut self) -> Option<u32> {
        self.free.pop().or_else(|| self.occupied_slot())
    }

    /// Empties the slot that can be spared first: of a wrong guess, or the policy's victim.
    pub(crate) fn occupied_slot(&mut self) -> Option<u32> {
        if let Some(slot) = self.wrong_guess() {
            return Some(slot);
        }
        let slot = self.victims.victim()?;
        debug_assert_eq!(self.slots[slot as usize].state, SlotState::Ready);
        self.slot_of[self.slots[slot as usize].key as usize] = NO_SLOT;
        self.counters.evictions += 1;
        Some(slot)
    }

    /// Forgets what a slot holds or was to hold.
    pub(crate) fn free_slot(&mut self, slot: u32) {
        let state = &mut self.slots[slot as usize];
        state.state = SlotState::Free;
        self.slot_of[state.key as usize] = NO_SLOT;
        self.victims.forget(slot);
        self.free.push(slot);
    }
}
