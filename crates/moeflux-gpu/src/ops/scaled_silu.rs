//! SiLU of what is divided by a number.

use super::{check, grid};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

const OP: &str = "scaled_silu";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[
        include_str!("common.wgsl"),
        include_str!("scaled_silu.wgsl"),
    ],
};
/// Threads of a workgroup.
const THREADS: u32 = 256;

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    (&SHADER, vec![vec![]])
}

/// `out = silu(x / divisor)`, both of `len` elements.
///
/// # Errors
/// A buffer too small, and what [`Recorder::dispatch`] says.
pub fn scaled_silu(
    r: &mut Recorder,
    (x, out): (View<'_>, View<'_>),
    divisor: f32,
    len: usize,
) -> Result<(), GpuError> {
    let count = check::product(OP, &[len])?;
    check::holds(OP, "x", &x, len)?;
    check::holds(OP, "out", &out, len)?;
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &[],
        views: &[x, out],
        immediates: &[count, divisor.to_bits()],
        groups: grid(count.div_ceil(THREADS)),
    })
}
