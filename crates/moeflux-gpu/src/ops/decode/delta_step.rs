//! Convolution and gated delta rule of a few tokens.

use moeflux_kernels::{Decay, DeltaShape, HeadOrder};

use super::super::SpanRows;
use super::super::check::{holds, product};
use crate::{DeviceBuffer, Dispatch, GpuError, Param, Recorder, Shader, View};

static SHADER: Shader = Shader {
    name: "delta_step",
    parts: &[
        include_str!("../common.wgsl"),
        include_str!("delta_step.wgsl"),
    ],
};
/// Elements of a head's values that a workgroup has.
const COLUMNS: usize = 32;
/// Threads of a workgroup.
const THREADS: usize = 128;
/// Elements of the longest key.
const MAX_KEY_DIM: usize = 256;

/// What a span is computed from, and its result.
pub struct DeltaStep<'a> {
    /// The buffer that all inputs lie in.
    pub x: View<'a>,
    /// Where `[q | k | v]` of the rows of the step begin there, in elements.
    pub qkv: usize,
    /// Where decay inputs `[rows of the step, value_heads]` begin.
    pub a: usize,
    /// Where write strength inputs begin, as those.
    pub b: usize,
    /// `[taps, channels]` of the convolution, oldest tap first.
    pub taps: View<'a>,
    /// Number of taps, at least 2.
    pub tap_count: usize,
    /// Logarithms of the decay and what is added to its inputs, `[value_heads]` each.
    pub decays: View<'a>,
    /// Results, `[rows of the step, value_heads, value_dim]`.
    pub out: View<'a>,
    /// Heads.
    pub shape: DeltaShape,
}

/// Whether the kernel has this shape.
pub(crate) fn has_shape(shape: &DeltaShape, taps: usize) -> bool {
    taps >= 2
        && shape.decay == Decay::Head
        && shape.key_heads > 0
        && shape.value_heads.is_multiple_of(shape.key_heads)
        && (1..=MAX_KEY_DIM).contains(&shape.key_dim)
        && shape.value_dim > 0
}

fn params(shape: &DeltaShape, taps: usize) -> Vec<Param> {
    vec![
        ("KEY_HEADS", shape.key_heads as u32),
        ("VALUE_HEADS", shape.value_heads as u32),
        ("KEY_DIM", shape.key_dim as u32),
        ("VALUE_DIM", shape.value_dim as u32),
        ("TAPS", taps as u32),
        // Counts of what is written out: inputs kept, channels of a key that a thread has, four
        // elements of its part of a key.
        ("HISTORY", taps as u32 - 1),
        (
            "PER",
            shape.key_dim.next_multiple_of(16).div_ceil(THREADS) as u32,
        ),
        ("QUADS", shape.key_dim.div_ceil(16) as u32),
        ("FOUR", 4),
        ("TILED", u32::from(shape.head_order == HeadOrder::Tiled)),
    ]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let mut all = Vec::new();
    for head_order in [HeadOrder::Grouped, HeadOrder::Tiled] {
        for (key_dim, value_dim, taps) in [(128, 128, 4), (6, 10, 2), (256, 256, 4)] {
            let shape = DeltaShape {
                key_heads: 16,
                value_heads: 32,
                key_dim,
                value_dim,
                head_order,
                decay: Decay::Head,
            };
            all.push(params(&shape, taps));
        }
    }
    (&SHADER, all)
}

/// Runs it over a span; `history` and `state` are those before and after.
///
/// # Errors
/// Views that are too small, a shape that the kernel does not have, and what
/// [`Recorder::dispatch`] says.
pub fn delta_step(
    r: &mut Recorder,
    d: &DeltaStep<'_>,
    history: (&DeviceBuffer, &DeviceBuffer),
    state: (&DeviceBuffer, &DeviceBuffer),
    span: SpanRows,
) -> Result<(), GpuError> {
    let name = SHADER.name;
    let DeltaShape {
        key_heads,
        value_heads,
        key_dim,
        value_dim,
        ..
    } = d.shape;
    if !has_shape(&d.shape, d.tap_count) {
        let problem = format!("{} taps, heads of shape {:?}", d.tap_count, d.shape);
        return Err(GpuError::Unsupported { op: name, problem });
    }
    let rows = span.first_row + span.len;
    let width = 2 * key_heads * key_dim + value_heads * value_dim;
    let len = product(name, &[rows, width])? as usize;
    holds(name, "qkv", &d.x, d.qkv + len)?;
    holds(name, "a", &d.x, d.a + rows * value_heads)?;
    holds(name, "b", &d.x, d.b + rows * value_heads)?;
    holds(name, "taps", &d.taps, d.tap_count * width)?;
    holds(name, "decays", &d.decays, 2 * value_heads)?;
    holds(name, "out", &d.out, rows * value_heads * value_dim)?;
    let kept = product(name, &[value_heads, key_dim, value_dim])? as usize;
    for (copies, len) in [(history, (d.tap_count - 1) * width), (state, kept)] {
        holds(name, "a state", &copies.0.into(), len)?;
        holds(name, "a state", &copies.1.into(), len)?;
    }
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(&d.shape, d.tap_count),
        views: &[
            d.x,
            d.taps,
            history.0.into(),
            history.1.into(),
            d.decays,
            state.0.into(),
            state.1.into(),
            d.out,
        ],
        immediates: &[span.first_row, span.len, d.qkv, d.a, d.b].map(|n| n as u32),
        groups: [value_dim.div_ceil(COLUMNS) as u32, value_heads as u32, 1],
    })
}
