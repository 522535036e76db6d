//! Operations on elements one by one: additions, activations and gates.

use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

use super::grid;

static SHADER: Shader = Shader {
    name: "elementwise",
    parts: &[include_str!("elementwise.wgsl")],
};
/// Threads of a workgroup.
const THREADS: u32 = 256;

const ADD: u32 = 0;
const SWIGLU: u32 = 1;
const SIGMOID_MUL: u32 = 2;
const SCALE_BY_SIGMOID: u32 = 3;

fn params(kind: u32) -> [Param; 2] {
    [("KIND", kind), ("THREADS", THREADS)]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let kinds = [ADD, SWIGLU, SIGMOID_MUL, SCALE_BY_SIGMOID];
    (&SHADER, kinds.map(|kind| params(kind).to_vec()).to_vec())
}

fn run(
    recorder: &mut Recorder,
    kind: u32,
    [a, b, out]: [View<'_>; 3],
    width: u32,
) -> Result<(), GpuError> {
    let len = (out.bytes / 4) as u32;
    recorder.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(kind),
        views: &[a, b, out],
        immediates: &[len, width],
        groups: grid(len.div_ceil(THREADS)),
    })
}

/// `out = a + b`, all of one length.
///
/// # Errors
/// As [`Recorder::dispatch`].
pub fn add(r: &mut Recorder, a: View<'_>, b: View<'_>, out: View<'_>) -> Result<(), GpuError> {
    run(r, ADD, [a, b, out], 1)
}

/// `out = silu(gate) * up`, all of one length.
///
/// # Errors
/// As [`Recorder::dispatch`].
pub fn swiglu(
    r: &mut Recorder,
    gate: View<'_>,
    up: View<'_>,
    out: View<'_>,
) -> Result<(), GpuError> {
    run(r, SWIGLU, [gate, up, out], 1)
}

/// `out = x * sigmoid(gate)`, all of one length.
///
/// # Errors
/// As [`Recorder::dispatch`].
pub fn sigmoid_mul(
    r: &mut Recorder,
    x: View<'_>,
    gate: View<'_>,
    out: View<'_>,
) -> Result<(), GpuError> {
    run(r, SIGMOID_MUL, [x, gate, out], 1)
}

/// `out = x * sigmoid(gate)` with `x` and `out` `[n, width]` and `gate` `[n]`.
///
/// # Errors
/// As [`Recorder::dispatch`].
pub fn scale_by_sigmoid(
    r: &mut Recorder,
    x: View<'_>,
    gate: View<'_>,
    out: View<'_>,
    width: u32,
) -> Result<(), GpuError> {
    run(r, SCALE_BY_SIGMOID, [x, gate, out], width.max(1))
}
