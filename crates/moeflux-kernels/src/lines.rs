//! Numbers that begin at a cache line: a vector that crosses two lines costs twice.

use std::{
    fmt,
    marker::PhantomData,
    ops::{Deref, DerefMut},
};

/// A cache line.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u64; 8]);

/// Types for which all bits are a value.
pub(crate) trait Plain: Copy + fmt::Debug {}

impl Plain for f32 {}
impl Plain for u16 {}

/// A growing array of numbers, aligned to a cache line.
#[derive(Clone)]
pub(crate) struct Lines<T> {
    lines: Vec<Line>,
    len: usize,
    element: PhantomData<T>,
}

impl<T: Plain> Lines<T> {
    const LINE: usize = size_of::<Line>() / size_of::<T>();

    /// `len` zeros.
    pub(crate) fn zeros(len: usize) -> Lines<T> {
        Lines {
            lines: vec![Line([0; 8]); len.div_ceil(Self::LINE)],
            len,
            element: PhantomData,
        }
    }

    /// Changes the length; new elements are zeros or what was there before.
    pub(crate) fn resize(&mut self, len: usize) {
        self.lines.resize(len.div_ceil(Self::LINE), Line([0; 8]));
        self.len = len;
    }
}

impl<T: Plain> Default for Lines<T> {
    fn default() -> Self {
        Lines::zeros(0)
    }
}

impl<T: Plain> Deref for Lines<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: the lines hold at least `len` elements, for which all bits are a value.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }
}

impl<T: Plain> DerefMut for Lines<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above; the lines are borrowed for as long.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }
}

impl<T: Plain> fmt::Debug for Lines<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.deref().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_aligned_and_keep_what_they_hold() {
        let mut lines = Lines::<u16>::zeros(33);
        assert_eq!(lines.len(), 33);
        assert_eq!(lines.as_ptr().addr() % 64, 0);
        lines[32] = 7;
        lines.resize(1000);
        assert_eq!((lines[32], lines[999], lines.len()), (7, 0, 1000));
        assert_eq!(lines.as_ptr().addr() % 64, 0);
        assert!(Lines::<f32>::default().is_empty());
    }
}
