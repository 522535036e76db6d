//! Memory in huge pages where the system grants them: a step passes over all weights and states, and
//! would miss in the address cache at every small page.

use std::io;
use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

use crate::memory::{self, Locked};

/// Size and alignment of a huge page.
pub(crate) const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A fixed number of bytes that begin with a huge page, zeros at first.
#[derive(Debug)]
pub(crate) struct HugePages {
    memory: MmapMut,
    /// `bytes` from `start` on are in use.
    start: usize,
    bytes: usize,
}

impl HugePages {
    /// Whole huge pages, and what is left behind them in small ones.
    ///
    /// # Errors
    /// If the system has no such memory.
    pub(crate) fn zeros(bytes: usize) -> io::Result<HugePages> {
        // What alignment skips is never touched, and takes no memory.
        let memory = MmapMut::map_anon(bytes.saturating_add(HUGE_PAGE_BYTES))?;
        let address = memory.as_ptr().addr();
        let start = address.next_multiple_of(HUGE_PAGE_BYTES) - address;
        // Small pages cost speed, not correctness.
        #[cfg(target_os = "linux")]
        let _ = memory.advise_range(
            memmap2::Advice::HugePage,
            start,
            bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES,
        );
        Ok(HugePages {
            memory,
            start,
            bytes,
        })
    }
}

impl HugePages {
    /// Keeps the system from swapping the memory out; all of it is then taken.
    pub(crate) fn lock(&self) -> Locked {
        memory::lock(&self.memory)
    }
}

impl Deref for HugePages {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.bytes]
    }
}

impl DerefMut for HugePages {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_begins_with_a_huge_page_and_is_zeros() {
        for bytes in [0, 100, HUGE_PAGE_BYTES, HUGE_PAGE_BYTES + 1] {
            let mut memory = HugePages::zeros(bytes).expect("there is memory");
            assert_eq!(memory.len(), bytes);
            assert!(memory.as_ptr().addr().is_multiple_of(HUGE_PAGE_BYTES));
            assert!(memory.iter().all(|&byte| byte == 0));
            memory.fill(1);
            assert!(memory.iter().all(|&byte| byte == 1));
        }
    }
}
