//! Memory of recurrent states: large ones in huge pages.

use std::ops::{Deref, DerefMut};

use crate::huge_pages::{HUGE_PAGE_BYTES, HugePages};

/// A fixed number of f32, zeros at first.
#[derive(Debug)]
pub(super) enum Floats {
    /// Too small for a huge page to be worth it, or the system refused.
    Small(Vec<f32>),
    Large(HugePages),
}

impl Floats {
    pub(super) fn zeros(len: usize) -> Floats {
        let bytes = len * size_of::<f32>();
        if bytes >= HUGE_PAGE_BYTES
            && let Ok(pages) = HugePages::zeros(bytes)
        {
            return Floats::Large(pages);
        }
        Floats::Small(vec![0.0; len])
    }
}

impl Deref for Floats {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match self {
            Floats::Small(values) => values,
            Floats::Large(pages) => bytemuck::cast_slice(pages),
        }
    }
}

impl DerefMut for Floats {
    fn deref_mut(&mut self) -> &mut [f32] {
        match self {
            Floats::Small(values) => values,
            Floats::Large(pages) => bytemuck::cast_slice_mut(pages),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_any_size_are_zeros_and_can_be_written() {
        for (len, is_large) in [(0, false), (100, false), (1 << 19, true), (700_001, true)] {
            let mut floats = Floats::zeros(len);
            assert_eq!(floats.len(), len);
            assert_eq!(matches!(floats, Floats::Large(_)), is_large);
            assert!(floats.iter().all(|&x| x == 0.0));
            floats.fill(1.0);
            assert!(floats.iter().all(|&x| x == 1.0));
        }
    }
}
