//! Norms of pieces without their mean.

use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

use super::{check, grid};

const OP: &str = "layer_norm";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[
        include_str!("common.wgsl"),
        include_str!("layer_norm.wgsl"),
        include_str!("reduce.wgsl"),
    ],
};

fn params(len: usize) -> [Param; 2] {
    let threads = (len / 4).next_power_of_two().clamp(32, 256);
    [("THREADS", threads as u32), ("LEN", len as u32)]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let all = [8, 128, 4096].map(|len| params(len).to_vec());
    (&SHADER, all.to_vec())
}

/// Norm of `pieces` pieces of `len` elements: `x` and `out` `[pieces, len]`, `weight` and `bias`
/// `[len]`.
///
/// # Errors
/// A buffer too small, and what [`Recorder::dispatch`] says.
pub fn layer_norm(
    r: &mut Recorder,
    (x, weight, bias, out): (View<'_>, View<'_>, View<'_>, View<'_>),
    pieces: usize,
    len: usize,
    eps: f32,
) -> Result<(), GpuError> {
    check::positive(OP, "the length", len)?;
    let all = check::product(OP, &[pieces, len])? as usize;
    check::holds(OP, "x", &x, all)?;
    check::holds(OP, "out", &out, all)?;
    check::holds(OP, "weight", &weight, len)?;
    check::holds(OP, "bias", &bias, len)?;
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(len),
        views: &[x, weight, bias, out],
        immediates: &[pieces as u32, eps.to_bits()],
        groups: grid(pieces as u32),
    })
}
