//! Pooling windows of positions into entries.

use moeflux_kernels::CompressShape;

use super::{SpanRows, check, grid};
use crate::{DeviceBuffer, Dispatch, GpuError, Param, Recorder, Shader, View};

const OP: &str = "compress";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[include_str!("common.wgsl"), include_str!("compress.wgsl")],
};
/// Threads of a workgroup.
const THREADS: u32 = 64;

/// What entries are made of, `[rows of the step, width]` but for the bias, `[rate, width]`.
#[derive(Clone, Copy)]
pub struct CompressViews<'a> {
    /// The values.
    pub values: View<'a>,
    /// What they are weighted by; `None`: all alike.
    pub gates: Option<View<'a>>,
    /// Added to the gates by place in the window.
    pub bias: Option<View<'a>>,
}

fn params(shape: CompressShape, gated: bool, biased: bool) -> [Param; 6] {
    [
        ("RATE", shape.rate as u32),
        ("DIM", shape.dim as u32),
        ("OVERLAPS", u32::from(shape.overlaps)),
        ("GATED", u32::from(gated)),
        ("BIASED", u32::from(biased)),
        ("BIAS_AT", 4 + u32::from(gated)),
    ]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let mut all = Vec::new();
    for (rate, overlaps) in [(4, true), (128, false), (1, true)] {
        let dim = 512;
        let shape = CompressShape {
            rate,
            dim,
            overlaps,
        };
        for (gated, biased) in [(true, true), (true, false), (false, false), (false, true)] {
            all.push(params(shape, gated, biased).to_vec());
        }
    }
    (&SHADER, all)
}

/// Pools a span; `current` and `next` are the states before and after, `[shape.state_len()]`, `out`
/// `[shape.completed(..), dim]` the entries that it completes.
///
/// # Errors
/// A buffer too small, and what [`Recorder::dispatch`] says.
pub fn compress(
    r: &mut Recorder,
    v: CompressViews<'_>,
    (current, next): (&DeviceBuffer, &DeviceBuffer),
    out: View<'_>,
    shape: CompressShape,
    span: SpanRows,
) -> Result<(), GpuError> {
    check::positive(OP, "the rate", shape.rate)?;
    check::positive(OP, "the size of an entry", shape.dim)?;
    if span.len == 0 {
        return Ok(());
    }
    let (rate, width) = (shape.rate, shape.width());
    let rows = check::product(OP, &[span.first_row + span.len, width])? as usize;
    let end = span.start.saturating_add(span.len);
    // The windows after the last one are counted too.
    check::product(OP, &[end.saturating_add(2 * rate)])?;
    check::holds(OP, "values", &v.values, rows)?;
    for state in [current, next] {
        check::holds(OP, "a state", &state.into(), shape.state_len())?;
    }
    let entries = check::product(OP, &[shape.completed(span.start, span.len), shape.dim])?;
    check::holds(OP, "out", &out, entries as usize)?;
    let mut views = vec![v.values, current.into(), next.into(), out];
    if let Some(gates) = v.gates {
        check::holds(OP, "gates", &gates, rows)?;
        views.push(gates);
    }
    if let Some(bias) = v.bias {
        let len = check::product(OP, &[rate, width])? as usize;
        check::holds(OP, "bias", &bias, len)?;
        views.push(bias);
    }
    let pools = (end - 1) / rate - span.start / rate + width / shape.dim;
    let threads = check::product(OP, &[pools, shape.dim])?;
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(shape, v.gates.is_some(), v.bias.is_some()),
        views: &views,
        immediates: &[span.first_row, span.len, span.start].map(|n| n as u32),
        groups: grid(threads.div_ceil(THREADS)),
    })
}
