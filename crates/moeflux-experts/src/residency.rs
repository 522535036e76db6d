//! Which experts are in memory: the slots' states, the budget, and the start of a lease.
//!
//! A slot is free, filling (the readers own it), ready (may be evicted), pinned (a lease holds it),
//! a guess (read ahead of use, see `ahead.rs`) or retired (its memory is given back to the system).

use std::sync::Arc;
use std::time::Duration;

use crate::ahead::{Ahead, AheadCounters};
use crate::arena::Arena;
use crate::catalog::{Catalog, Index};
use crate::error::ExpertError;
use crate::lease::{Lease, Work};
use crate::policy::{Pass, PolicyKind, Victims};
use crate::pool::Pool;
use crate::profile::DiskProfile;
use crate::reader::{ReaderChoice, check_lengths};
use crate::source::Source;
use crate::stats::Stats;
use crate::usage::Usage;

/// How to keep experts.
#[derive(Clone, Debug)]
pub struct ResidencyOptions {
    /// Bytes for slots. At least one slot must fit; more than all experts is not used.
    pub arena_bytes: u64,
    /// Which expert goes when room is needed.
    pub policy: PolicyKind,
    /// How files are read.
    pub reader: ReaderChoice,
    /// Reads in flight, where no profile says it; 0 counts as 1.
    pub read_threads: usize,
    /// How the disk reads best: which reader `auto` is, how many requests of what size.
    pub profile: Option<DiskProfile>,
    /// Verify each record's checksum on its first read.
    pub verify: bool,
}

impl ResidencyOptions {
    /// The defaults with an arena of this size: the default policy, reader chosen by file system,
    /// 8 reads in flight, checksums verified.
    pub fn new(arena_bytes: u64) -> ResidencyOptions {
        ResidencyOptions {
            arena_bytes,
            policy: PolicyKind::default(),
            reader: ReaderChoice::default(),
            read_threads: 8,
            profile: None,
            verify: true,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    Free,
    /// A lease waits for it.
    Filling,
    /// Nobody waits for it yet.
    FillingAhead,
    Guess,
    Ready,
    Pinned,
    Retired,
}

#[derive(Clone, Copy)]
pub(crate) struct Slot {
    pub state: SlotState,
    /// What it holds, unless free or retired.
    pub key: u32,
    /// Of a guess: its time has passed.
    pub expired: bool,
}

pub(crate) const NO_SLOT: u32 = u32::MAX;

/// What the engine's thread counted.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counters {
    pub leases: u64,
    pub hits: u64,
    pub misses: u64,
    pub evictions: u64,
    pub wait_us_total: u64,
    pub ahead: AheadCounters,
}

/// The experts of one model and the memory that holds some of them.
pub struct Residency {
    // The pool comes first: its threads end before the arena they write to goes.
    pub(crate) pool: Pool,
    pub(crate) arena: Arc<Arena>,
    pub(crate) index: Arc<Index>,
    pub(crate) victims: Victims,
    pub(crate) slots: Vec<Slot>,
    /// By key: the slot that holds or will hold it, or `NO_SLOT`.
    pub(crate) slot_of: Vec<u32>,
    pub(crate) free: Vec<u32>,
    retired: Vec<u32>,
    pub(crate) work: Work,
    pub(crate) ahead: Ahead,
    pub(crate) counters: Counters,
    pub(crate) usage: Usage,
    slot_bytes: u64,
}

impl Residency {
    /// Checks the catalog, opens the files, reserves the arena, and starts the reader threads.
    ///
    /// # Errors
    /// [`ExpertError`]: a catalog that contradicts itself, a missing or short file, an arena of
    /// less than one slot, or a refusal by the system.
    pub fn open(catalog: Catalog, options: ResidencyOptions) -> Result<Residency, ExpertError> {
        let (slot_bytes, experts) = (catalog.slot_bytes(), catalog.expert_count());
        let index = Arc::new(Index::new(catalog)?);
        if !matches!(options.reader, ReaderChoice::Custom(_)) {
            check_lengths(&index.files, &index.file_ends())?;
        }
        let (depth, profile) = (options.read_threads, options.profile.as_ref());
        let source = Source::open(options.reader, &index, depth, profile)?;
        if options.arena_bytes < slot_bytes {
            let (needed, given) = (slot_bytes, options.arena_bytes);
            return Err(ExpertError::ArenaTooSmall { needed, given });
        }
        let slots = (options.arena_bytes / slot_bytes).min(experts as u64) as usize;
        let arena =
            Arena::new(slots, slot_bytes as usize).map_err(|source| ExpertError::Arena {
                bytes: slots as u64 * slot_bytes,
                source,
            })?;
        let arena = Arc::new(arena);
        let by_layer: Vec<u32> = index.layers().map(|(_, experts)| experts).collect();
        let policy = options.policy.create(slots, &by_layer);
        let pool = Pool::start(
            Arc::clone(&index),
            Arc::clone(&arena),
            source,
            slots,
            options.verify,
        )?;
        Ok(Residency {
            pool,
            arena,
            index,
            victims: Victims::new(policy, slots),
            slots: vec![
                Slot {
                    state: SlotState::Free,
                    key: 0,
                    expired: false,
                };
                slots
            ],
            slot_of: vec![NO_SLOT; experts],
            // The last is taken first: the arena fills from its start.
            free: (0..slots as u32).rev().collect(),
            retired: Vec::new(),
            work: Work::new(slots, experts),
            ahead: Ahead::new(slots),
            counters: Counters::default(),
            usage: Usage::new(experts),
            slot_bytes,
        })
    }

    /// What the following leases belong to, until it is called again.
    pub fn begin_pass(&mut self, pass: Pass) {
        self.settle();
        self.victims.begin(pass);
    }

    /// Asks for distinct experts of a layer, with the number of tokens that use each. Those in
    /// memory are pinned at once, and reading of the others begins; a [`Residency::lease`] of the
    /// same experts delivers them, while any other call lets go of them.
    ///
    /// # Errors
    /// An unknown layer or expert, or an expert named twice; [`ExpertError::Changed`] if a file is
    /// no longer what was opened (looked at once a second). Nothing is asked for then.
    pub fn request(
        &mut self,
        layer: usize,
        experts: &[u32],
        tokens: &[u32],
    ) -> Result<(), ExpertError> {
        self.settle();
        self.poll();
        self.pool.check_files()?;
        self.work.accept(&self.index, layer, experts, tokens)?;
        self.counters.leases += 1;
        self.pin_hits();
        self.expire(|guessed| guessed == layer);
        self.promote();
        self.start_reads();
        Ok(())
    }

    /// Delivers distinct experts of a layer by [`Lease::next`]: those that were requested, if
    /// [`Residency::request`] was the last call; else it requests them, for one token each.
    ///
    /// # Errors
    /// As [`Residency::request`].
    pub fn lease<'a>(
        &'a mut self,
        layer: usize,
        experts: &[u32],
    ) -> Result<Lease<'a>, ExpertError> {
        if !self.work.is_open(&self.index, layer, experts) {
            self.request(layer, experts, &[])?;
        }
        Ok(Lease::new(self))
    }

    /// Gives memory back to the system until at most `arena_bytes` (but at least one slot) are
    /// left, free slots first, then what the policy would evict. Returns the bytes now.
    ///
    /// # Errors
    /// None at present.
    pub fn shrink_to(&mut self, arena_bytes: u64) -> Result<u64, ExpertError> {
        self.settle();
        self.stop_guessing();
        let keep = (arena_bytes / self.slot_bytes).max(1);
        let surplus = (self.slots() as u64).saturating_sub(keep) as usize;
        let from_free = surplus.min(self.free.len());
        // The front of the free list is the arena's end, which was never touched if any was not.
        let mut slots: Vec<u32> = self.free.drain(..from_free).collect();
        while slots.len() < surplus {
            let Some(slot) = self.occupied_slot() else {
                break;
            };
            slots.push(slot);
        }
        for slot in slots {
            self.slots[slot as usize].state = SlotState::Retired;
            // SAFETY: the slot was free or ready, no lease exists, and nothing is being read.
            unsafe { self.arena.give_back(slot) };
            self.retired.push(slot);
        }
        Ok(self.slots() as u64 * self.slot_bytes)
    }

    /// Takes slots that were given back into use again, up to `arena_bytes` in all and never more
    /// than at the start. Returns the bytes now.
    pub fn grow_to(&mut self, arena_bytes: u64) -> u64 {
        self.settle();
        while (self.slots() as u64 + 1) * self.slot_bytes <= arena_bytes {
            let Some(slot) = self.retired.pop() else {
                break;
            };
            // SAFETY: a retired slot is in no list and nothing refers to it.
            unsafe { self.arena.take_back(slot) };
            self.slots[slot as usize].state = SlotState::Free;
            self.free.push(slot);
        }
        self.slots() as u64 * self.slot_bytes
    }

    /// Forgets every expert in memory, as after a cold start. Counters stay.
    pub fn clear(&mut self) {
        self.settle();
        self.stop_guessing();
        for slot in 0..self.slots.len() as u32 {
            if self.slots[slot as usize].state == SlotState::Ready {
                self.free_slot(slot);
            }
        }
    }

    /// What happened since the start or the last reset, and the present sizes.
    pub fn stats(&self) -> Stats {
        let pool = self.pool.counters();
        let holds = |slot: &&Slot| {
            use SlotState::{Guess, Pinned, Ready};
            matches!(slot.state, Ready | Pinned | Guess)
        };
        Stats {
            leases: self.counters.leases,
            hits: self.counters.hits,
            misses: self.counters.misses,
            evictions: self.counters.evictions,
            reads: pool.reads,
            bytes_read: pool.bytes_read,
            ahead_reads: self.counters.ahead.begun,
            ahead_used: self.counters.ahead.used,
            ahead_late: self.counters.ahead.late,
            ahead_wasted: self.counters.ahead.wasted,
            retries: pool.retries,
            read_us_total: pool.read_us_total,
            busy_us_total: pool.busy_us_total,
            wait_us_total: self.counters.wait_us_total,
            verified: pool.verified,
            slots: self.slots(),
            slot_bytes: self.slot_bytes,
            resident: self.slots.iter().filter(holds).count(),
            reader: self.reader_name(),
            direct: self.pool.about().direct,
            depth: self.pool.about().depth,
            piece_bytes: self.pool.about().piece_bytes,
            reader_note: self.pool.about().note.clone(),
        }
    }

    /// How long leases have waited for records.
    pub fn waited(&self) -> Duration {
        Duration::from_micros(self.counters.wait_us_total)
    }

    /// Experts that were asked for and not in memory, or only because they were read ahead of use.
    pub fn absent(&self) -> u64 {
        self.counters.misses + self.counters.ahead.used
    }

    /// Sets the counters to zero. What is in memory stays.
    pub fn reset_stats(&mut self) {
        self.counters = Counters::default();
        self.pool.reset_counters();
    }

    /// Whether every expert is in memory or on its way there.
    pub fn is_complete(&self) -> bool {
        self.slots() >= self.index.entries.len() && !self.slot_of.contains(&NO_SLOT)
    }

    /// Number of experts of a layer; 0 where there are none.
    pub fn experts(&self, layer: usize) -> u32 {
        self.index.experts(layer)
    }

    /// Slots that can hold an expert now.
    pub fn slots(&self) -> usize {
        self.slots.len() - self.retired.len()
    }

    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> u64 {
        self.slot_bytes
    }

    /// The reader in use.
    pub fn reader_name(&self) -> String {
        self.pool.about().reader.clone()
    }
}
