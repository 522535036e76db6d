//! The functions that give the processor's bits, for checking that they do.

use super::{check, grid};
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

const OP: &str = "exact_probe";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[include_str!("exact.wgsl"), include_str!("exact_probe.wgsl")],
};
/// Threads of a workgroup.
const THREADS: u32 = 64;

fn params(has_fma: bool) -> [Param; 1] {
    [("HAS_FMA", u32::from(has_fma))]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    (
        &SHADER,
        [false, true]
            .map(|has_fma| params(has_fma).to_vec())
            .to_vec(),
    )
}

/// `out` `[3, len]`: `a * b + c` rounded once, `a / b`, and `silu(a) * b`, of `len` elements each;
/// `has_fma`: with the device's own multiply-add.
///
/// # Errors
/// A buffer too small, and what [`Recorder::dispatch`] says.
pub fn exact_probe(
    r: &mut Recorder,
    [a, b, c]: [View<'_>; 3],
    out: View<'_>,
    len: usize,
    has_fma: bool,
) -> Result<(), GpuError> {
    for view in [&a, &b, &c] {
        check::holds(OP, "an input", view, len)?;
    }
    check::holds(OP, "out", &out, check::product(OP, &[len, 3])? as usize)?;
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(has_fma),
        views: &[a, b, c, out],
        immediates: &[len as u32],
        groups: grid((len as u32).div_ceil(THREADS)),
    })
}
