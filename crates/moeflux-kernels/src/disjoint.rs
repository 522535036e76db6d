//! An output slice that several threads write in disjoint parts.

use std::marker::PhantomData;

/// A `&mut [T]` that can be shared between threads. The borrow checker cannot see that a kernel's
/// tasks own different elements, so the one unsafe promise is made here, where a part is taken.
pub(crate) struct Disjoint<'a, T> {
    start: *mut T,
    len: usize,
    owner: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`, which is Send when T is; parts are handed out under the
// promise of `part`, so no element is reachable from two threads.
unsafe impl<T: Send> Send for Disjoint<'_, T> {}
// SAFETY: as above; a shared reference gives nothing but parts.
unsafe impl<T: Send> Sync for Disjoint<'_, T> {}

impl<'a, T> Disjoint<'a, T> {
    /// Takes over the slice for `'a`.
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Disjoint {
            start: slice.as_mut_ptr(),
            len: slice.len(),
            owner: PhantomData,
        }
    }

    /// The elements `start..start + len`. Panics if they do not lie within the slice.
    ///
    /// # Safety
    /// While the result lives, no other part that overlaps it may exist.
    #[allow(clippy::mut_from_ref)] // the point of the type; see its safety condition
    #[inline(always)]
    pub(crate) unsafe fn part(&self, start: usize, len: usize) -> &'a mut [T] {
        assert!(
            start <= self.len && len <= self.len - start,
            "part outside of the slice"
        );
        // SAFETY: in bounds by the check above, exclusive by the caller's promise, and alive for
        // 'a by construction.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(start), len) }
    }
}
