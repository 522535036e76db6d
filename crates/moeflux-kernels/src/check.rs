//! Size checks that the kernels and the reference share. All products saturate, so that absurd
//! dimensions fail the comparison with a slice's length instead of wrapping around.

use crate::KernelError;

/// Product of dimensions, saturating.
pub(crate) fn product(dimensions: &[usize]) -> usize {
    dimensions
        .iter()
        .fold(1, |product: usize, &d| product.saturating_mul(d))
}

/// Requires a length.
pub(crate) fn size(
    op: &'static str,
    what: &'static str,
    expected: usize,
    got: usize,
) -> Result<(), KernelError> {
    if expected == got {
        Ok(())
    } else {
        Err(KernelError::Size {
            op,
            what,
            expected,
            got,
        })
    }
}

/// Requires a positive multiple of `of` (itself positive).
pub(crate) fn multiple(
    op: &'static str,
    what: &'static str,
    got: usize,
    of: usize,
) -> Result<(), KernelError> {
    if of > 0 && got > 0 && got.is_multiple_of(of) {
        Ok(())
    } else {
        Err(KernelError::Shape { op, what, got, of })
    }
}

/// Requires a dimension that is not zero.
pub(crate) fn positive(
    op: &'static str,
    what: &'static str,
    got: usize,
) -> Result<(), KernelError> {
    multiple(op, what, got, 1)
}

/// Number of rows of `width` in a slice that must hold whole rows (none is fine).
pub(crate) fn rows(
    op: &'static str,
    what: &'static str,
    len: usize,
    width: usize,
) -> Result<usize, KernelError> {
    positive(op, what, width)?;
    if len.is_multiple_of(width) {
        Ok(len / width)
    } else {
        Err(KernelError::Shape {
            op,
            what,
            got: len,
            of: width,
        })
    }
}

/// Requires an index below `limit`.
pub(crate) fn index(
    op: &'static str,
    what: &'static str,
    index: usize,
    limit: usize,
) -> Result<(), KernelError> {
    if index < limit {
        Ok(())
    } else {
        Err(KernelError::Index {
            op,
            what,
            index,
            limit,
        })
    }
}
