//! Which experts are in memory: the slots' states, the budget, and the start of a lease.
//!
//! A slot is free, filling (the reader threads own it), ready (may be evicted), pinned (a lease
//! holds it) or retired (its memory is given back to the system).

use std::sync::Arc;

use crate::arena::Arena;
use crate::catalog::{Catalog, Index};
use crate::error::ExpertError;
use crate::lease::{Lease, Work};
use crate::policy::{Eviction, PolicyKind, Scan};
use crate::pool::Pool;
use crate::reader::{Reader, ReaderChoice, check_lengths};
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
    /// Reader threads, that is reads in flight; 0 counts as 1.
    pub read_threads: usize,
    /// Verify each record's checksum on its first read.
    pub verify: bool,
}

impl ResidencyOptions {
    /// The defaults with an arena of this size: least recently used, reader chosen by file system,
    /// 8 reads in flight, checksums verified.
    pub fn new(arena_bytes: u64) -> ResidencyOptions {
        ResidencyOptions {
            arena_bytes,
            policy: PolicyKind::default(),
            reader: ReaderChoice::default(),
            read_threads: 8,
            verify: true,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SlotState {
    Free,
    Filling,
    Ready,
    Pinned,
    Retired,
}

#[derive(Clone, Copy)]
pub(crate) struct Slot {
    pub state: SlotState,
    /// What it holds, unless free or retired.
    pub key: u32,
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
}

/// The experts of one model and the memory that holds some of them.
pub struct Residency {
    // The pool comes first: its threads end before the arena they write to goes.
    pub(crate) pool: Pool,
    pub(crate) arena: Arc<Arena>,
    pub(crate) index: Arc<Index>,
    pub(crate) policy: Eviction,
    pub(crate) slots: Vec<Slot>,
    /// By key: the slot that holds or will hold it, or `NO_SLOT`.
    pub(crate) slot_of: Vec<u32>,
    pub(crate) free: Vec<u32>,
    retired: Vec<u32>,
    pub(crate) work: Work,
    pub(crate) counters: Counters,
    pub(crate) usage: Usage,
    slot_bytes: u64,
    reader: Arc<dyn Reader>,
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
        let experts_by_layer: Vec<u32> = index.layers.values().map(|&(_, n)| n).collect();
        let reader = match options.reader {
            ReaderChoice::Custom(reader) => reader,
            ReaderChoice::Kind(kind) => {
                check_lengths(&index.files, &index.file_ends())?;
                kind.open(&index.files)?
            }
        };
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
        let pool = Pool::start(
            Arc::clone(&index),
            Arc::clone(&arena),
            Arc::clone(&reader),
            slots,
            options.read_threads.max(1),
            options.verify,
        )?;
        Ok(Residency {
            pool,
            arena,
            index,
            policy: options.policy.create(slots, &experts_by_layer),
            slots: vec![
                Slot {
                    state: SlotState::Free,
                    key: 0
                };
                slots
            ],
            slot_of: vec![NO_SLOT; experts],
            // The last is taken first: the arena fills from its start.
            free: (0..slots as u32).rev().collect(),
            retired: Vec::new(),
            work: Work::new(slots, experts),
            counters: Counters::default(),
            usage: Usage::new(experts),
            slot_bytes,
            reader,
        })
    }

    /// Says what use of experts the step that begins now will make; it holds until said otherwise.
    pub fn scan(&mut self, scan: Scan) {
        self.policy.scan(scan);
    }

    /// Asks for distinct experts of a layer. Those in memory are pinned at once, and reading of the
    /// others begins; [`Lease::next`] delivers them.
    ///
    /// # Errors
    /// An unknown layer or expert, or an expert named twice; nothing has changed then.
    pub fn lease<'a>(
        &'a mut self,
        layer: usize,
        experts: &[u32],
    ) -> Result<Lease<'a>, ExpertError> {
        self.settle(); // Only a lease that was leaked leaves anything to settle.
        self.work.accept(&self.index, layer, experts)?;
        self.counters.leases += 1;
        if let Some(&key) = self.work.wanted.first() {
            self.policy.begin(self.index.entries[key as usize].turn);
        }
        self.pin_hits();
        self.start_reads();
        Ok(Lease::new(self))
    }

    /// Gives memory back to the system until at most `arena_bytes` (but at least one slot) are
    /// left, free slots first, then what the policy would evict. Returns the bytes now.
    ///
    /// # Errors
    /// None at present.
    pub fn shrink_to(&mut self, arena_bytes: u64) -> Result<u64, ExpertError> {
        self.settle();
        let keep = (arena_bytes / self.slot_bytes).max(1);
        let surplus = (self.slots() as u64).saturating_sub(keep) as usize;
        let from_free = surplus.min(self.free.len());
        // The front of the free list is the arena's end, which was never touched if any was not.
        let mut slots: Vec<u32> = self.free.drain(..from_free).collect();
        while slots.len() < surplus {
            let Some(slot) = self.evict() else { break };
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
        for slot in 0..self.slots.len() as u32 {
            if self.slots[slot as usize].state == SlotState::Ready {
                self.free_slot(slot);
            }
        }
    }

    /// What happened since the start or the last reset, and the present sizes.
    pub fn stats(&self) -> Stats {
        let pool = self.pool.counters();
        let holds = |slot: &&Slot| matches!(slot.state, SlotState::Ready | SlotState::Pinned);
        Stats {
            leases: self.counters.leases,
            hits: self.counters.hits,
            misses: self.counters.misses,
            evictions: self.counters.evictions,
            reads: pool.reads,
            bytes_read: pool.bytes_read,
            retries: pool.retries,
            read_us_total: pool.read_us_total,
            wait_us_total: self.counters.wait_us_total,
            verified: pool.verified,
            slots: self.slots(),
            slot_bytes: self.slot_bytes,
            resident: self.slots.iter().filter(holds).count(),
            reader: self.reader_name(),
            direct: self.reader.is_direct(),
        }
    }

    /// Sets the counters to zero. What is in memory stays.
    pub fn reset_stats(&mut self) {
        self.counters = Counters::default();
        self.pool.reset_counters();
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
        self.reader.name()
    }
}
