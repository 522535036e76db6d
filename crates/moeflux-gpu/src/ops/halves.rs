//! Vectors as products by tiles take them: binary16 with a scale a row.

use std::sync::Arc;

use super::{check, grid};
use crate::{DeviceBuffer, Dispatch, GpuError, Param, Recorder, Shader, View};

const OP: &str = "halves";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[
        "enable f16;",
        include_str!("common.wgsl"),
        include_str!("halves.wgsl"),
    ],
};
/// Rows are filled up to so many elements, the longest step of a product through them.
const FILL: usize = 64;

/// Scratch memory for rounded vectors and their scales, by name.
pub(super) type Names = (&'static str, &'static str);

/// Rows in binary16, each divided by a power of two, and those powers.
pub(super) struct Halves {
    pub values: Arc<DeviceBuffer>,
    pub scales: Arc<DeviceBuffer>,
}

/// vec4s of a row.
pub(super) fn stride(cols: usize) -> usize {
    cols.next_multiple_of(FILL) / 4
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    (&SHADER, vec![Vec::new()])
}

/// Rounds `rows` rows of `x` `[.., cols]` from row `first` on. They lie in the scratch memory of
/// these names until somebody else uses it.
///
/// # Errors
/// A buffer too small, no memory, and what [`Recorder::dispatch`] says.
pub(super) fn halves(
    r: &mut Recorder,
    names: Names,
    x: View<'_>,
    (first, rows): (usize, usize),
    cols: usize,
) -> Result<Halves, GpuError> {
    let len = check::product(OP, &[first + rows, cols])?;
    check::holds(OP, "x", &x, len as usize)?;
    let stride = stride(cols);
    let bytes = u64::from(check::product(OP, &[rows, stride])?) * 8;
    let made = Halves {
        values: r.scratch(names.0, bytes)?,
        scales: r.scratch(names.1, (rows * 4) as u64)?,
    };
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &[],
        views: &[x, (&*made.values).into(), (&*made.scales).into()],
        immediates: &[rows, first, cols, stride].map(|n| n as u32),
        groups: grid(rows as u32),
    })?;
    Ok(made)
}
