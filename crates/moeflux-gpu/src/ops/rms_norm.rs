//! Root-mean-square norms: alone, and times a gate; with one weight for all pieces, one for each,
//! or none.

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

/// The name in errors.
const OP: &str = "rms_norm";

/// Longer pieces are read twice.
const MOST_KEPT: usize = 8192;

/// `pieces`: how many have weights of their own.
fn params(is_gated: bool, len: usize, pieces: usize) -> [Param; 5] {
    let threads = (len / 4).next_power_of_two().clamp(32, 256);
    [
        ("THREADS", threads as u32),
        ("LEN", len as u32),
        ("PIECES", pieces as u32),
        ("IN_REGISTERS", u32::from(len <= MOST_KEPT)),
        ("GATED", u32::from(is_gated)),
    ]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let mut all = Vec::new();
    for is_gated in [false, true] {
        for len in [8, 128, 256, 2048, 4096, 7168] {
            all.push(params(is_gated, len, 1).to_vec());
        }
    }
    for (len, pieces) in [(512, 0), (28_672, 0), (28_672, 1), (2048, 4)] {
        all.push(params(false, len, pieces).to_vec());
    }
    (&SHADER, all)
}

/// `weight` has the weights of so many pieces.
type Weight<'a> = Option<(View<'a>, usize)>;

fn run(
    r: &mut Recorder,
    weight: Weight<'_>,
    (x, out, gate): (View<'_>, View<'_>, Option<View<'_>>),
    (pieces, len): (usize, usize),
    eps: f32,
) -> Result<(), GpuError> {
    check::positive(OP, "the length", len)?;
    check::product(OP, &[pieces, len])?;
    let mut views = vec![x, out];
    for view in views.iter().chain(&gate) {
        check::holds(OP, "an input or output", view, pieces * len)?;
    }
    let mut weights = 0;
    if let Some((weight, own)) = weight {
        let all = check::product(OP, &[own, len])? as usize;
        check::holds(OP, "the weight", &weight, all)?;
        views.push(weight);
        weights = own;
    }
    views.extend(gate);
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(gate.is_some(), len, weights),
        views: &views,
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
    let weight = Some((weight, 1));
    run(r, weight, (x, out, None), (pieces, len), eps)
}

/// The same without a weight.
///
/// # Errors
/// As [`rms_norm`].
pub fn rms_normalize(
    r: &mut Recorder,
    (x, out): (View<'_>, View<'_>),
    pieces: usize,
    len: usize,
    eps: f32,
) -> Result<(), GpuError> {
    run(r, None, (x, out, None), (pieces, len), eps)
}

/// The same with weights of their own for `own` pieces in turn, `weight` `[own, len]`.
///
/// # Errors
/// As [`rms_norm`].
pub fn rms_norm_pieces(
    r: &mut Recorder,
    (x, weight, out): (View<'_>, View<'_>, View<'_>),
    (pieces, own): (usize, usize),
    len: usize,
    eps: f32,
) -> Result<(), GpuError> {
    check::positive(OP, "the number of weights", own)?;
    let weight = Some((weight, own));
    run(r, weight, (x, out, None), (pieces, len), eps)
}

/// [`rms_norm`], times `silu(gate)`, `gate` shaped as `x`.
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
    let views = (x, out, Some(gate));
    run(r, Some((weight, 1)), views, (pieces, len), eps)
}
