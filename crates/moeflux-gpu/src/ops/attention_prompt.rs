//! Attention of a prompt, by the device's matrix unit where it suits.

use moeflux::KvType;
use moeflux_kernels::AttentionShape;

use super::{SpanRows, attention, check, grid};
use crate::state::DeviceKv;
use crate::{Dispatch, Gpu, GpuError, Param, Recorder, Shader, View};

const OP: &str = "attention_prompt";
static QUERIES: Shader = Shader {
    name: "attention_queries",
    parts: &[
        "enable f16;",
        include_str!("common.wgsl"),
        include_str!("attention_queries.wgsl"),
    ],
};
static TILES: Shader = Shader {
    name: OP,
    parts: &[
        "enable f16;",
        "enable wgpu_cooperative_matrix;",
        include_str!("attention_prompt.wgsl"),
    ],
};
/// Size of the matrix unit's squares.
const UNIT: u32 = 16;
/// Rows (pairs of a query and a head of its group) of a tile.
const ROWS: usize = 64;
/// Threads of a workgroup, and its subgroups.
const THREADS: u32 = 256;
const SUBGROUPS: u32 = 8;
/// Threads of a workgroup that prepares queries.
const QUERY_THREADS: u32 = 128;
/// Workgroup memory of a tile.
const SHARED_BYTES: u32 = 46 << 10;
/// Heads have a multiple of this many elements, up to twice as many.
const DIM: usize = 128;

fn queries_params(shape: AttentionShape) -> [Param; 3] {
    [
        ("HEADS", shape.heads as u32),
        ("KV_HEADS", shape.kv_heads as u32),
        ("DIM", shape.head_dim as u32),
    ]
}

fn params(shape: AttentionShape) -> Vec<Param> {
    let mut params = queries_params(shape).to_vec();
    params.extend([
        ("FRAG", UNIT),
        ("FRAGS_S", (64 / UNIT) * (64 / UNIT) / SUBGROUPS),
        ("FRAGS_R", ROWS as u32 / UNIT),
        ("FRAGS_D", shape.head_dim as u32 / SUBGROUPS / UNIT),
        ("PASSES", 2),
    ]);
    params
}

fn shapes() -> impl Iterator<Item = AttentionShape> {
    let all = [(16, 2, 256), (32, 4, 128), (7, 7, 128)];
    all.into_iter()
        .map(|(heads, kv_heads, head_dim)| AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0,
            window: None,
        })
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let all = shapes().map(|shape| queries_params(shape).to_vec());
    (&QUERIES, all.collect())
}

/// The kernels for matrix units, which only some devices have.
pub fn unit_kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    (&TILES, shapes().map(params).collect())
}

/// Whether the matrix unit does it: it depends on the device and the model alone.
fn suits(gpu: &Gpu, shape: AttentionShape, kv_type: KvType) -> bool {
    let limits = gpu.limits();
    gpu.matrix_unit() == Some(UNIT)
        && kv_type == KvType::F16
        && shape.window.is_none()
        && matches!(shape.head_dim / DIM, 1 | 2)
        && shape.head_dim.is_multiple_of(DIM)
        && limits.max_compute_workgroup_storage_size >= SHARED_BYTES
        && limits.max_compute_invocations_per_workgroup >= THREADS
}

/// [`super::attention`] for a span of a prompt: the same bits however the prompt is cut, within
/// 16-bit tolerance of the other's.
///
/// # Errors
/// As [`super::attention`].
pub fn attention_prompt(
    r: &mut Recorder,
    q: View<'_>,
    kv: &DeviceKv,
    out: View<'_>,
    (shape, sinks): (AttentionShape, Option<View<'_>>),
    span: SpanRows,
) -> Result<(), GpuError> {
    if sinks.is_some() || !suits(r.gpu(), shape, kv.shape().kv_type) {
        return attention::attention(r, q, kv, out, (shape, sinks), span);
    }
    let Some((keys, values)) = attention::check_sizes(&q, kv, &out, shape, span)? else {
        return Ok(());
    };
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale,
        ..
    } = shape;
    let rows = (span.len * (heads / kv_heads)).next_multiple_of(ROWS);
    let quads = check::product(OP, &[kv_heads, rows, head_dim / 4])?;
    let queries = r.scratch(OP, u64::from(quads) * 8)?;
    let queries = View::from(&*queries);
    let [first, len] = [span.first_row as u32, span.len as u32];
    r.dispatch(&Dispatch {
        shader: &QUERIES,
        params: &queries_params(shape),
        views: &[q, queries],
        immediates: &[first, len, rows as u32, scale.to_bits()],
        groups: grid(quads.div_ceil(QUERY_THREADS)),
    })?;
    r.dispatch(&Dispatch {
        shader: &TILES,
        params: &params(shape),
        views: &[queries, keys, values, out],
        immediates: &[first, len, span.start as u32, rows as u32],
        groups: [(rows / ROWS) as u32, kv_heads as u32, 1],
    })
}
