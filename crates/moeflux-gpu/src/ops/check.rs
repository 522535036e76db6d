//! Checks of sizes: kernels do not look whether they stay inside their buffers.

use crate::{GpuError, View};

/// Requires a view of at least `elements` words.
pub(super) fn holds(
    op: &'static str,
    what: &'static str,
    view: &View<'_>,
    elements: usize,
) -> Result<(), GpuError> {
    let words = view.bytes / 4;
    if words >= elements as u64 {
        return Ok(());
    }
    Err(GpuError::Refused {
        problem: format!("{op}: {what} has {words} elements of {elements}"),
    })
}

/// A product of sizes as a kernel counts it.
pub(super) fn product(op: &'static str, factors: &[usize]) -> Result<u32, GpuError> {
    let none = || GpuError::Unsupported {
        op,
        problem: format!("sizes {factors:?} are too large"),
    };
    let product = factors
        .iter()
        .try_fold(1usize, |all, &f| all.checked_mul(f));
    let product = product.ok_or_else(none)?;
    // Room is left for rounding up to whole workgroups.
    match u32::try_from(product) {
        Ok(product) if product <= u32::MAX / 2 => Ok(product),
        _ => Err(none()),
    }
}

/// Requires a size that is not 0.
pub(super) fn positive(op: &'static str, what: &'static str, size: usize) -> Result<(), GpuError> {
    if size > 0 {
        return Ok(());
    }
    Err(GpuError::Unsupported {
        op,
        problem: format!("{what} is 0"),
    })
}
