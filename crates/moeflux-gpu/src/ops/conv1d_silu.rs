//! Causal depthwise convolution with a state, then silu.

use crate::{DeviceBuffer, Dispatch, GpuError, Param, Recorder, Shader, View};

use super::{SpanRows, check, grid};

const OP: &str = "conv1d_silu";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[
        include_str!("common.wgsl"),
        include_str!("conv1d_silu.wgsl"),
    ],
};
/// Threads of a workgroup.
const THREADS: u32 = 64;

fn params(channels: usize, taps: usize) -> [Param; 3] {
    [
        ("CHANNELS", channels as u32),
        ("TAPS", taps as u32),
        ("HISTORY", taps as u32 - 1),
    ]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let shapes = [(8192, 4), (64, 4), (7, 2), (8, 1)];
    let all = shapes.map(|(channels, taps)| params(channels, taps).to_vec());
    (&SHADER, all.to_vec())
}

/// Convolves a span: `x` and `out` `[rows of the step, channels]`, `weight` `[taps, channels]`,
/// oldest tap first, `current` and `next` the states before and after,
/// `[taps - 1, channels]`.
///
/// # Errors
/// A buffer too small, and what [`Recorder::dispatch`] says.
pub fn conv1d_silu(
    r: &mut Recorder,
    (x, weight, out): (View<'_>, View<'_>, View<'_>),
    (current, next): (&DeviceBuffer, &DeviceBuffer),
    channels: usize,
    taps: usize,
    span: SpanRows,
) -> Result<(), GpuError> {
    check::positive(OP, "the number of channels", channels)?;
    check::positive(OP, "the number of taps", taps)?;
    if span.len == 0 {
        return Ok(());
    }
    let rows = span.first_row + span.len;
    let len = check::product(OP, &[rows, channels])? as usize;
    let threads = check::product(OP, &[span.len + taps, channels])?;
    check::holds(OP, "x", &x, len)?;
    check::holds(OP, "out", &out, len)?;
    check::holds(OP, "the weight", &weight, taps * channels)?;
    let mut views = vec![x, weight, out];
    if taps > 1 {
        for state in [current, next] {
            check::holds(OP, "a state", &state.into(), (taps - 1) * channels)?;
            views.push(state.into());
        }
    }
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(channels, taps),
        views: &views,
        immediates: &[span.first_row as u32, span.len as u32],
        groups: grid(threads.div_ceil(THREADS)),
    })
}
