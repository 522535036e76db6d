//! The memory that experts live in: one anonymous mapping, cut into equal slots.
//!
//! The arena knows addresses only. Who may read or write a slot is decided by the slot states in
//! `residency` and the fill states in `pool`.

use std::io;

use memmap2::MmapMut;

/// Slots start at multiples of this many bytes in memory, and their size is one: what direct
/// reads ask of a buffer.
pub const SLOT_ALIGN: u64 = 4096;

/// The arena starts at a multiple of this, the size of a huge page.
const ARENA_ALIGN: usize = 2 << 20;

const _: () = assert!((ARENA_ALIGN as u64).is_multiple_of(SLOT_ALIGN));

pub(crate) struct Arena {
    #[cfg_attr(not(unix), allow(dead_code, reason = "held for its memory"))]
    map: MmapMut,
    /// The aligned start, inside `map`.
    base: *mut u8,
    slot_bytes: usize,
    slots: usize,
}

// SAFETY: `base` points into `map`, which the arena owns and never moves or touches otherwise;
// all access goes through the unsafe methods below, whose callers keep writers exclusive.
unsafe impl Send for Arena {}
// SAFETY: as for Send; `&Arena` alone gives no access to the memory.
unsafe impl Sync for Arena {}

impl Arena {
    /// Maps room for `slots` slots. Memory is taken from the system when first written.
    pub fn new(slots: usize, slot_bytes: usize) -> io::Result<Arena> {
        let bytes = slots
            .checked_mul(slot_bytes)
            .and_then(|bytes| bytes.checked_add(ARENA_ALIGN));
        let bytes = bytes.ok_or(io::ErrorKind::OutOfMemory)?;
        let mut map = MmapMut::map_anon(bytes)?;
        let pad = map.as_ptr().align_offset(ARENA_ALIGN);
        let base = map[pad..].as_mut_ptr();
        let arena = Arena {
            map,
            base,
            slot_bytes,
            slots,
        };
        arena.prefer_huge_pages(0, slots, true);
        Ok(arena)
    }

    /// The first `bytes` bytes of a slot.
    ///
    /// # Safety
    /// Nothing may write to the slot while the slice lives.
    pub unsafe fn bytes(&self, slot: u32, bytes: usize) -> &[u8] {
        let start = self.start(slot, 0, bytes);
        // SAFETY: `start` checked that the range lies in the mapping, which lives as long as
        // `self` and is always initialized (zero or earlier bytes); no writer by the contract.
        unsafe { std::slice::from_raw_parts(self.base.add(start), bytes) }
    }

    /// A range of a slot to write to.
    ///
    /// # Safety
    /// No other reference to any byte of the range may exist while the slice lives.
    #[allow(
        clippy::mut_from_ref,
        reason = "exclusive by the contract, not by the borrow"
    )]
    pub unsafe fn bytes_mut(&self, slot: u32, offset: usize, bytes: usize) -> &mut [u8] {
        let start = self.start(slot, offset, bytes);
        // SAFETY: the range lies in the mapping (checked by `start`), which is writable and lives
        // as long as `self`; exclusive by the contract.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(start), bytes) }
    }

    /// Gives a slot's memory back to the system; its bytes are lost, its address range is kept.
    ///
    /// # Safety
    /// No reference to any byte of the slot may exist.
    pub unsafe fn give_back(&self, slot: u32) {
        self.prefer_huge_pages(slot as usize, 1, false);
        #[cfg(target_vendor = "apple")]
        self.advise_pages(slot, memmap2::UncheckedAdvice::FreeReusable);
        #[cfg(all(unix, not(target_vendor = "apple")))]
        self.advise_pages(slot, memmap2::UncheckedAdvice::DontNeed);
    }

    /// Makes a slot that was given back usable again.
    ///
    /// # Safety
    /// No reference to any byte of the slot may exist.
    pub unsafe fn take_back(&self, slot: u32) {
        #[cfg(target_vendor = "apple")]
        self.advise_pages(slot, memmap2::UncheckedAdvice::FreeReuse);
        self.prefer_huge_pages(slot as usize, 1, true);
    }

    /// Advice on the whole pages of a slot (the system would round outwards, into its
    /// neighbours). Refusal means that the memory stays as it is.
    #[cfg(unix)]
    fn advise_pages(&self, slot: u32, advice: memmap2::UncheckedAdvice) {
        let page = page_bytes();
        let start = self.in_map(self.start(slot, 0, self.slot_bytes));
        let first = start.next_multiple_of(page);
        let end = (start + self.slot_bytes) / page * page;
        if first < end {
            // SAFETY: the range is inside one slot of our private mapping, to which nothing
            // refers by the callers' contract; it reads as zero or old bytes afterwards.
            let _ = unsafe { self.map.unchecked_advise_range(advice, first, end - first) };
        }
    }

    /// Asks for huge pages (or, for memory given back, against them: the system could otherwise
    /// fill the hole again when it merges pages). Only advice, so refusal changes nothing.
    fn prefer_huge_pages(&self, slot: usize, slots: usize, huge: bool) {
        #[cfg(target_os = "linux")]
        {
            use memmap2::Advice;
            let advice = if huge {
                Advice::HugePage
            } else {
                Advice::NoHugePage
            };
            let start = self.in_map(slot * self.slot_bytes);
            let _ = self
                .map
                .advise_range(advice, start, slots * self.slot_bytes);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (slot, slots, huge);
    }

    /// Distance of a range of a slot from `base`. Panics if it is not inside the slot: the
    /// sizes come from the checked index, so that would be a bug, and memory safety rests on it.
    fn start(&self, slot: u32, offset: usize, bytes: usize) -> usize {
        let end = offset.checked_add(bytes);
        assert!((slot as usize) < self.slots && end.is_some_and(|end| end <= self.slot_bytes));
        slot as usize * self.slot_bytes + offset
    }

    #[cfg(unix)]
    fn in_map(&self, from_base: usize) -> usize {
        self.base as usize - self.map.as_ptr() as usize + from_base
    }
}

#[cfg(unix)]
fn page_bytes() -> usize {
    // SAFETY: sysconf reads a constant of the system.
    let bytes = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(bytes)
        .ok()
        .filter(|bytes| bytes.is_power_of_two())
        .unwrap_or(ARENA_ALIGN)
}
