//! The same vector added to every row.

use super::{check, grid};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

const OP: &str = "add_bias";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[include_str!("common.wgsl"), include_str!("add_bias.wgsl")],
};
/// Threads of a workgroup.
const THREADS: u32 = 256;

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    (&SHADER, vec![vec![]])
}

/// `out = x + bias` with `x` and `out` `[n, width]` and `bias` `[width]`.
///
/// # Errors
/// A buffer too small, and what [`Recorder::dispatch`] says.
pub fn add_bias(
    r: &mut Recorder,
    (x, bias, out): (View<'_>, View<'_>, View<'_>),
    n: usize,
    width: usize,
) -> Result<(), GpuError> {
    check::positive(OP, "the width", width)?;
    let len = check::product(OP, &[n, width])?;
    check::holds(OP, "x", &x, len as usize)?;
    check::holds(OP, "bias", &bias, width)?;
    check::holds(OP, "out", &out, len as usize)?;
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &[],
        views: &[x, bias, out],
        immediates: &[len, width as u32],
        groups: grid(len.div_ceil(THREADS)),
    })
}
