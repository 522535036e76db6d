//! The gated delta rule.

use moeflux_kernels::{Decay, DeltaShape, HeadOrder};

use crate::{DeviceBuffer, Dispatch, GpuError, Param, Recorder, Shader, View};

use super::{SpanRows, check};

const OP: &str = "gated_delta";
static SHADER: Shader = Shader {
    name: OP,
    parts: &[
        include_str!("common.wgsl"),
        include_str!("gated_delta.wgsl"),
    ],
};
/// Elements of a head's values that a workgroup has.
const COLUMNS: usize = 16;
/// Neighbouring threads that share a column of the state.
const PARTS: u32 = 8;
/// Threads of a workgroup.
const THREADS: u32 = 128;
/// Elements of the longest key: a block of tokens lies in 32 KiB of workgroup memory.
const MAX_KEY_DIM: usize = 256;

/// What a span is computed from, `[rows of the step, ..]`, and its result.
pub struct DeltaViews<'a> {
    /// `[q | k | v]`.
    pub qkv: View<'a>,
    /// Decay inputs, `[value_heads]`, or `[value_heads, key_dim]` where key elements decay by
    /// themselves.
    pub a: View<'a>,
    /// Write strength inputs, `[value_heads]`.
    pub b: View<'a>,
    /// Logarithms of the decay, `[value_heads]` of all rows.
    pub a_log: View<'a>,
    /// Added to `a`, as long as that of one row.
    pub dt_bias: View<'a>,
    /// Results, `[value_heads, value_dim]`.
    pub out: View<'a>,
}

/// `lanes`: sums over neighbouring threads within a subgroup.
fn params(shape: DeltaShape, lanes: bool) -> [Param; 14] {
    // What a block of tokens needs fits in the workgroup's memory.
    let quads = (shape.key_dim as u32).div_ceil(4 * PARTS);
    let is_keyed = shape.decay != Decay::Head;
    let block = match shape.key_dim {
        0..=128 if !is_keyed => 16,
        _ => 8,
    };
    [
        ("KEY_HEADS", shape.key_heads as u32),
        ("VALUE_HEADS", shape.value_heads as u32),
        ("KEY_DIM", shape.key_dim as u32),
        ("VALUE_DIM", shape.value_dim as u32),
        ("TILED", u32::from(shape.head_order == HeadOrder::Tiled)),
        ("BLOCK", block),
        ("QUADS", quads),
        ("LOADS", 2 * block * PARTS * quads / THREADS),
        ("VALUES", block * COLUMNS as u32 / THREADS),
        ("WHOLE", u32::from(shape.key_dim.is_multiple_of(32))),
        ("FOUR", 4),
        ("LANES", u32::from(lanes)),
        ("KEYED", u32::from(is_keyed)),
        (
            "BOUNDED",
            u32::from(matches!(shape.decay, Decay::BoundedKey(_))),
        ),
    ]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let mut all = Vec::new();
    for head_order in [HeadOrder::Grouped, HeadOrder::Tiled] {
        for (key_dim, value_dim) in [(128, 128), (64, 128), (6, 10), (256, 256)] {
            for decay in [Decay::Head, Decay::Key, Decay::BoundedKey(-5.0)] {
                let shape = DeltaShape {
                    key_heads: 16,
                    value_heads: 32,
                    key_dim,
                    value_dim,
                    head_order,
                    decay,
                };
                all.extend([false, true].map(|lanes| params(shape, lanes).to_vec()));
            }
        }
    }
    (&SHADER, all)
}

/// Runs the recurrence over a span; `current` and `next` are the states before and after,
/// `[value_heads, key_dim, value_dim]`.
///
/// # Errors
/// A buffer too small, a shape that the kernel does not have, and what [`Recorder::dispatch`] says.
pub fn gated_delta(
    r: &mut Recorder,
    v: &DeltaViews<'_>,
    (current, next): (&DeviceBuffer, &DeviceBuffer),
    shape: DeltaShape,
    span: SpanRows,
) -> Result<(), GpuError> {
    let lanes = r.gpu().shares_lanes(PARTS);
    gated_delta_by(r, v, (current, next), shape, span, lanes)
}

/// [`gated_delta`], with sums over neighbouring threads within a subgroup or through the
/// workgroup's memory: the same bits, for devices that have no subgroups of eight.
///
/// # Errors
/// As [`gated_delta`]; a device without subgroups does not compile the former.
pub fn gated_delta_by(
    r: &mut Recorder,
    v: &DeltaViews<'_>,
    (current, next): (&DeviceBuffer, &DeviceBuffer),
    shape: DeltaShape,
    span: SpanRows,
    lanes: bool,
) -> Result<(), GpuError> {
    let DeltaShape {
        key_heads,
        value_heads,
        key_dim,
        value_dim,
        ..
    } = shape;
    if key_heads == 0
        || !value_heads.is_multiple_of(key_heads)
        || key_dim == 0
        || value_dim == 0
        || key_dim > MAX_KEY_DIM
    {
        let problem = format!("heads of shape {shape:?}");
        return Err(GpuError::Unsupported { op: OP, problem });
    }
    if span.len == 0 {
        return Ok(());
    }
    let rows = span.first_row + span.len;
    let width = 2 * key_heads * key_dim + value_heads * value_dim;
    check::product(OP, &[rows, width])?;
    check::holds(OP, "qkv", &v.qkv, rows * width)?;
    check::holds(OP, "out", &v.out, rows * value_heads * value_dim)?;
    let decays = value_heads * shape.head_decays();
    check::product(OP, &[rows, decays])?;
    check::holds(OP, "a", &v.a, rows * decays)?;
    check::holds(OP, "b", &v.b, rows * value_heads)?;
    check::holds(OP, "a_log", &v.a_log, value_heads)?;
    check::holds(OP, "dt_bias", &v.dt_bias, decays)?;
    let state = check::product(OP, &[value_heads, key_dim, value_dim])? as usize;
    for copy in [current, next] {
        check::holds(OP, "a state", &copy.into(), state)?;
    }
    let mut immediates = vec![span.first_row as u32, span.len as u32];
    if let Decay::BoundedKey(bound) = shape.decay {
        immediates.push(bound.to_bits());
    }
    let states = [current.into(), next.into()];
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(shape, lanes),
        views: &[
            v.qkv, v.a, v.b, v.a_log, v.dt_bias, states[0], states[1], v.out,
        ],
        immediates: &immediates,
        groups: [value_dim.div_ceil(COLUMNS) as u32, value_heads as u32, 1],
    })
}
