//! Memory of recurrent states: large ones in huge pages where the system grants them, since a
//! step passes over all of them and would miss in the address cache at every small page.

use std::ops::{Deref, DerefMut};

use memmap2::MmapMut;

/// Size and alignment of a huge page.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A fixed number of f32, zeros at first.
#[derive(Debug)]
pub(super) enum Floats {
    Small(Vec<f32>),
    /// `bytes` from `start` on are in use.
    Large {
        memory: MmapMut,
        start: usize,
        bytes: usize,
    },
}

impl Floats {
    pub(super) fn zeros(len: usize) -> Floats {
        Self::map(len * size_of::<f32>()).unwrap_or_else(|| Floats::Small(vec![0.0; len]))
    }

    /// Whole huge pages, and what is left behind them in small ones; None if it is too small to
    /// be worth it, or the system refuses.
    fn map(bytes: usize) -> Option<Floats> {
        if bytes < HUGE_PAGE_BYTES {
            return None;
        }
        // What alignment skips is never touched, and takes no memory.
        let memory = MmapMut::map_anon(bytes + HUGE_PAGE_BYTES).ok()?;
        let address = memory.as_ptr().addr();
        let start = address.next_multiple_of(HUGE_PAGE_BYTES) - address;
        // Small pages cost speed, not correctness.
        #[cfg(target_os = "linux")]
        let _ = memory.advise_range(
            memmap2::Advice::HugePage,
            start,
            bytes / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES,
        );
        Some(Floats::Large {
            memory,
            start,
            bytes,
        })
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Floats::Small(values) => values,
            Floats::Large {
                memory,
                start,
                bytes,
            } => bytemuck::cast_slice(&memory[*start..start + bytes]),
        }
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self {
            Floats::Small(values) => values,
            Floats::Large {
                memory,
                start,
                bytes,
            } => bytemuck::cast_slice_mut(&mut memory[*start..*start + *bytes]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_ones_begin_with_a_huge_page_and_are_zeros() {
        for (len, aligned) in [(0, false), (100, false), (1 << 19, true), (700_001, true)] {
            let mut floats = Floats::zeros(len);
            assert_eq!(floats.len(), len);
            assert!(floats.iter().all(|&x| x == 0.0));
            if aligned {
                assert_eq!(floats.as_ptr().addr() % HUGE_PAGE_BYTES, 0);
            }
            floats.fill(1.0);
            assert!(floats.iter().all(|&x| x == 1.0));
        }
    }
}
