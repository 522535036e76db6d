//! Root-mean-square norms: alone, and times a gate.

use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

use super::{check, grid};

static SHADER: Shader = Shader {
    name: "rms_norm",
    parts: &[
        include_str!("common.wgsl"),
        include_str!("rms_norm.wgsl"),
        include_str!("reduce.wgsl"),
    ],
};

fn params(is_gated: bool, len: usize) -> [Param; 3] {
    let threads = (len / 4).next_power_of_two().clamp(32, 256);
    [
        ("THREADS", threads as u32),
        ("LEN", len as u32),
        ("GATED", u32::from(is_gated)),
    ]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let mut all = Vec::new();
    for is_gated in [false, true] {
        for len in [8, 128, 256, 2048, 4096, 7168] {
            all.push(params(is_gated, len).to_vec());
        }
    }
    (&SHADER, all)
}

/// `views`: input, weight, output, and a gate if there is one.
fn run(
    r: &mut Recorder,
    views: &[View<'_>],
    pieces: usize,
    len: usize,
    eps: f32,
) -> Result<(), GpuError> {
    const OP: &str = "rms_norm";
    check::positive(OP, "the length", len)?;
    check::product(OP, &[pieces, len])?;
    check::holds(OP, "the weight", &views[1], len)?;
    for (at, view) in views.iter().enumerate() {
        if at != 1 {
            check::holds(OP, "an input or output", view, pieces * len)?;
        }
    }
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(views.len() > 3, len),
        views,
        immediates: &[pieces as u32, eps.to_bits()],
        groups: grid(pieces as u32),
    })
}

/// Norm of `pieces` pieces of `len` elements: `x` and `out` `[pieces, len]`, `weight` `[len]`.
///
/// # Errors
/// A buffer too small, and what [`Recorder::dispatch`] says.
pub fn rms_norm(
    r: &mut Recorder,
    (x, weight, out): (View<'_>, View<'_>, View<'_>),
    pieces: usize,
    len: usize,
    eps: f32,
) -> Result<(), GpuError> {
    run(r, &[x, weight, out], pieces, len, eps)
}

/// The same, times `silu(gate)`, `gate` shaped as `x`.
///
/// # Errors
/// As [`rms_norm`].
pub fn rms_norm_gated(
    r: &mut Recorder,
    (x, gate, weight, out): (View<'_>, View<'_>, View<'_>, View<'_>),
    pieces: usize,
    len: usize,
    eps: f32,
) -> Result<(), GpuError> {
    run(r, &[x, weight, out, gate], pieces, len, eps)
}
