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
    pub wanted: Vec<u32>,
    /// Pinned slots not delivered yet.
    hits: Vec<u32>,
    /// Keys that have no slot yet.
    missing: VecDeque<u32>,
    /// Slots being filled.
    filling: usize,
    /// Pinned slots of the batch that was delivered last.
    batch: Vec<u32>,
    submitted: Vec<(u32, u32)>,
    outcomes: Vec<(u32, Outcome)>,
}

impl Work {
    pub fn new(slots: usize, experts: usize) -> Work {
        Work {
            serial: 0,
            seen: vec![0; experts],
            wanted: Vec::new(),
            hits: Vec::with_capacity(slots),
            missing: VecDeque::new(),
            filling: 0,
            batch: Vec::with_capacity(slots),
            submitted: Vec::with_capacity(slots),
            outcomes: Vec::with_capacity(slots),
        }
    }

    /// Takes down what is wanted, if all of it exists and none of it twice.
    pub fn accept(
        &mut self,
        index: &Index,
        layer: usize,
        experts: &[u32],
    ) -> Result<(), ExpertError> {
        self.serial += 1;
        self.wanted.clear();
        for &expert in experts {
            let key = index.key(layer, expert)?;
            let seen = &mut self.seen[key as usize];
            if std::mem::replace(seen, self.serial) == self.serial {
                return Err(ExpertError::DuplicateExpert { layer, expert });
            }
            self.wanted.push(key);
        }
        Ok(())
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
    /// Pins what is wanted and in memory; the rest is missing.
    pub(crate) fn pin_hits(&mut self) {
        for at in 0..self.work.wanted.len() {
            let key = self.work.wanted[at];
            match self.slot_of[key as usize] {
                NO_SLOT => self.work.missing.push_back(key),
                slot => {
                    self.slots[slot as usize].state = SlotState::Pinned;
                    self.policy.touch(slot);
                    self.work.hits.push(slot);
                }
            }
        }
        self.counters.hits += self.work.hits.len() as u64;
        self.counters.misses += self.work.missing.len() as u64;
    }

    /// Begins to read what is missing, as far as there are slots.
    pub(crate) fn start_reads(&mut self) {
        while let Some(&key) = self.work.missing.front() {
            let Some(slot) = self.free.pop().or_else(|| self.evict()) else {
                break;
            };
            self.work.missing.pop_front();
            let state = &mut self.slots[slot as usize];
            state.state = SlotState::Filling;
            state.key = key;
            self.slot_of[key as usize] = slot;
            self.policy.admit(slot, key);
            self.work.submitted.push((slot, key));
        }
        self.pool.submit(&self.work.submitted, Urgency::Demand);
        self.work.filling += self.work.submitted.len();
        self.work.submitted.clear();
    }

    /// Moves on to the next batch; false when there is none.
    fn next_batch(&mut self) -> Result<bool, ExpertError> {
        self.release_batch(); // Dropping it did, unless it was leaked.
        if !self.work.hits.is_empty() {
            std::mem::swap(&mut self.work.batch, &mut self.work.hits);
            return Ok(true);
        }
        // Nothing is pinned now, so if anything is missing, something is being read.
        if self.work.filling == 0 {
            return Ok(false);
        }
        match self.collect_outcomes() {
            None => Ok(true),
            Some(error) => {
                self.settle();
                Err(error)
            }
        }
    }

    /// Waits for records and pins those that arrived, as part of the batch. Slots of others become
    /// free; returns the first error.
    fn collect_outcomes(&mut self) -> Option<ExpertError> {
        let mut outcomes = std::mem::take(&mut self.work.outcomes);
        self.counters.wait_us_total += self.pool.wait(&mut outcomes);
        let mut first_error = None;
        for (slot, outcome) in outcomes.drain(..) {
            self.work.filling -= 1;
            match outcome {
                Outcome::Done => {
                    self.slots[slot as usize].state = SlotState::Pinned;
                    self.work.batch.push(slot);
                }
                Outcome::Cancelled => self.free_slot(slot),
                Outcome::Failed(error) => {
                    self.free_slot(slot);
                    first_error.get_or_insert(error);
                }
            }
        }
        self.work.outcomes = outcomes;
        first_error
    }

    /// Unpins the last batch and uses the room for what is missing.
    pub(crate) fn release_batch(&mut self) {
        while let Some(slot) = self.work.batch.pop() {
            self.slots[slot as usize].state = SlotState::Ready;
            self.policy.release(slot);
        }
        self.start_reads();
    }

    /// Ends a lease: cancels what is queued, waits for reads in flight, unpins everything.
    pub(crate) fn settle(&mut self) {
        self.work.missing.clear();
        let work = &mut self.work;
        work.batch.append(&mut work.hits);
        if work.filling > 0 {
            self.pool.cancel(Urgency::Demand);
        }
        while self.work.filling > 0 {
            // An error here concerns an expert that nobody waits for any more.
            let _ = self.collect_outcomes();
        }
        self.release_batch();
    }

    /// Makes the policy's victim an empty slot, in no list.
    pub(crate) fn evict(&mut self) -> Option<u32> {
        let slot = self.policy.victim()?;
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
        self.policy.forget(slot);
        self.free.push(slot);
    }
}
