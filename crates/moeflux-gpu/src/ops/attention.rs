//! Attention over keys and values on the device.
//!
//! Positions are cut into chunks at fixed places, which are joined in order. Short spans (decode,
//! and drafts being checked) have a workgroup for each chunk, long ones go through them in one: the
//! same bits, whatever else is in the step.

use moeflux::KvType;
use moeflux_kernels::AttentionShape;

use crate::kv_layout::{BLOCK, KvShape};
use crate::state::DeviceKv;
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

use super::{SpanRows, check, grid};

const OP: &str = "attention";
static TILES: Shader = Shader {
    name: "attention",
    parts: &[include_str!("common.wgsl"), include_str!("attention.wgsl")],
};
static MERGE: Shader = Shader {
    name: "attention_merge",
    parts: &[
        include_str!("common.wgsl"),
        include_str!("attention_merge.wgsl"),
    ],
};
/// Threads of a workgroup of the tiles.
const THREADS: usize = 128;
/// Pairs of a query and a head in a tile, at most.
const MAX_ROWS: usize = 16;
/// The same where chunks have workgroups of their own: more of them wait for memory at once.
const SPLIT_ROWS: usize = 2;
/// Queries of the longest span that is cut into chunks.
const SPLIT_QUERIES: usize = 16;
/// Blocks of a chunk.
const CHUNK_BLOCKS: usize = 2;
/// Positions of a chunk.
const CHUNK: usize = CHUNK_BLOCKS * BLOCK;
/// Workgroup memory that every device has.
const SHARED_BYTES: usize = 32 << 10;
/// Words of workgroup memory for a row besides its query and weights.
const ROW_WORDS: usize = 2 * 8 + 7;
/// Memory for results of chunks; spans that need more are taken query by query.
const PARTIAL_BYTES: usize = 64 << 20;

/// Rows of a tile for this many queries.
fn tile_rows(shape: AttentionShape, kv: KvShape, queries: usize, is_split: bool) -> usize {
    let bytes = |rows: usize| {
        let row = kv.units() * kv.unit() + BLOCK + ROW_WORDS;
        4 * rows * row
    };
    let most = if is_split { SPLIT_ROWS } else { MAX_ROWS };
    let mut rows = (queries * (shape.heads / shape.kv_heads)).clamp(1, most);
    while rows > 1 && bytes(rows) > SHARED_BYTES {
        rows /= 2;
    }
    rows
}

/// More positions than any query sees.
const NO_WINDOW: u32 = 1 << 31;

/// Positions that a query sees.
fn window(shape: AttentionShape) -> u32 {
    let window = shape.window.and_then(|window| u32::try_from(window).ok());
    window.map_or(NO_WINDOW, |window| window.min(NO_WINDOW))
}

fn params(
    shape: AttentionShape,
    kv: KvShape,
    rows: usize,
    (is_split, has_sinks): (bool, bool),
) -> [Param; 13] {
    let groups = (THREADS / kv.units()).clamp(1, rows);
    [
        ("UNIT", kv.unit() as u32),
        ("HALVES", kv.unit() as u32 / 4),
        ("SCORE_ROWS", rows.div_ceil(2) as u32),
        ("VALUE_ROWS", rows.div_ceil(groups) as u32),
        ("BATCH", if is_split { 16 } else { 8 }),
        ("HEADS", shape.heads as u32),
        ("KV_HEADS", shape.kv_heads as u32),
        ("DIM", shape.head_dim as u32),
        ("ROWS", rows as u32),
        ("F16", u32::from(kv.kv_type == KvType::F16)),
        ("SPLIT", u32::from(is_split)),
        // Chunks are joined, sinks and all, elsewhere.
        ("SINKS", u32::from(has_sinks && !is_split)),
        ("CHUNK_BLOCKS", CHUNK_BLOCKS as u32),
    ]
}

fn merge_params(shape: AttentionShape, has_sinks: bool) -> [Param; 4] {
    [
        ("SINKS", u32::from(has_sinks)),
        ("HEADS", shape.heads as u32),
        ("DIM", shape.head_dim as u32),
        ("CHUNK_BLOCKS", CHUNK_BLOCKS as u32),
    ]
}

/// Shapes for checking translations: (heads, kv_heads, head_dim).
const SHAPES: [(usize, usize, usize); 5] = [
    (16, 2, 256),
    (32, 4, 128),
    (4, 4, 10),
    (9, 3, 512),
    (64, 8, 64),
];

fn shapes() -> impl Iterator<Item = (AttentionShape, KvShape)> {
    SHAPES.into_iter().flat_map(|(heads, kv_heads, head_dim)| {
        let shape = AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0,
            window: None,
        };
        [KvType::F16, KvType::F32].map(|kv_type| {
            let kv = KvShape {
                kv_type,
                kv_heads,
                head_dim,
            };
            (shape, kv)
        })
    })
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let mut all = Vec::new();
    for (shape, kv) in shapes() {
        for (queries, is_split, has_sinks) in [
            (1, true, true),
            (2, true, false),
            (100, false, false),
            (100, false, true),
        ] {
            let rows = tile_rows(shape, kv, queries, is_split);
            all.push(params(shape, kv, rows, (is_split, has_sinks)).to_vec());
        }
    }
    (&TILES, all)
}

pub(super) fn merge_kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let both = [false, true];
    let all = shapes().flat_map(|(shape, _)| both.map(|sinks| merge_params(shape, sinks).to_vec()));
    (&MERGE, all.collect())
}

/// Causal attention of a span over the keys and values of its session, its own included: `q` and
/// `out` `[rows of the step, heads, head_dim]`; `sinks` `[heads]`, scores that take part without a
/// value.
///
/// # Errors
/// A buffer too small, a shape that the kernels do not have, and what [`Recorder::dispatch`] says.
pub fn attention(
    r: &mut Recorder,
    q: View<'_>,
    kv: &DeviceKv,
    out: View<'_>,
    (shape, sinks): (AttentionShape, Option<View<'_>>),
    span: SpanRows,
) -> Result<(), GpuError> {
    let Some((keys, values)) = check_sizes(&q, kv, &out, shape, span)? else {
        return Ok(());
    };
    if let Some(sinks) = &sinks {
        check::holds(OP, "sinks", sinks, shape.heads)?;
    }
    let mut views = vec![q, keys, values, out];
    if span.len > SPLIT_QUERIES {
        views.extend(sinks);
        return tiles(r, &views, kv.shape(), (shape, sinks.is_some()), span, None);
    }
    let chunks = (span.start + span.len).div_ceil(CHUNK);
    let query_bytes = shape.heads * chunks * (shape.head_dim + 2) * 4;
    let most = (PARTIAL_BYTES / query_bytes).max(1);
    let partial = r.scratch(OP, (most.min(span.len) * query_bytes) as u64)?;
    for first in (0..span.len).step_by(most) {
        let part = SpanRows {
            first_row: span.first_row + first,
            len: most.min(span.len - first),
            start: span.start + first,
        };
        let partial = View::from(&*partial);
        tiles(
            r,
            &[q, keys, values, partial],
            kv.shape(),
            (shape, sinks.is_some()),
            part,
            Some(chunks),
        )?;
        let sizes = [part.first_row, part.len, part.start, chunks].map(|n| n as u32);
        let mut views = vec![partial, out];
        views.extend(sinks);
        r.dispatch(&Dispatch {
            shader: &MERGE,
            params: &merge_params(shape, sinks.is_some()),
            views: &views,
            immediates: &[&sizes[..], &[window(shape)]].concat(),
            groups: grid((part.len * shape.heads) as u32),
        })?;
    }
    Ok(())
}

/// The keys and values, if there is anything to do.
pub(super) fn check_sizes<'a>(
    q: &View<'_>,
    kv: &'a DeviceKv,
    out: &View<'_>,
    shape: AttentionShape,
    span: SpanRows,
) -> Result<Option<(View<'a>, View<'a>)>, GpuError> {
    let AttentionShape {
        heads,
        kv_heads,
        head_dim,
        ..
    } = shape;
    let own = kv.shape();
    if (own.kv_heads, own.head_dim) != (kv_heads, head_dim)
        || kv_heads == 0
        || !heads.is_multiple_of(kv_heads)
        || own.units() > THREADS
    {
        let problem = format!("heads of shape {shape:?} over keys of {own:?}");
        return Err(GpuError::Unsupported { op: OP, problem });
    }
    if span.len == 0 {
        return Ok(None);
    }
    let rows = span.first_row + span.len;
    let len = check::product(OP, &[rows, heads, head_dim])? as usize;
    check::holds(OP, "q", q, len)?;
    check::holds(OP, "out", out, len)?;
    check::product(
        OP,
        &[heads, (span.start + span.len).div_ceil(CHUNK), head_dim + 2],
    )?;
    kv.views(OP, span.start + span.len).map(Some)
}

/// The tiles of a span; with `chunks`, cut into them.
fn tiles(
    r: &mut Recorder,
    views: &[View<'_>],
    kv: KvShape,
    (shape, has_sinks): (AttentionShape, bool),
    span: SpanRows,
    chunks: Option<usize>,
) -> Result<(), GpuError> {
    let rows = tile_rows(shape, kv, span.len, chunks.is_some());
    let tiles = (span.len * (shape.heads / shape.kv_heads)).div_ceil(rows);
    let depth = chunks.unwrap_or(1) as u32;
    r.dispatch(&Dispatch {
        shader: &TILES,
        params: &params(shape, kv, rows, (chunks.is_some(), has_sinks)),
        views,
        immediates: &[
            span.first_row as u32,
            span.len as u32,
            span.start as u32,
            shape.scale.to_bits(),
            depth,
            window(shape),
        ],
        groups: [tiles as u32, shape.kv_heads as u32, depth],
    })
}
