//! Attention of each query to keys of its own: to a window and to entries that stand for windows of
//! positions, or to blocks of positions.

use moeflux::KvType;
use moeflux_kernels::AttentionShape;

use super::{SpanRows, check};
use crate::kv_layout::{BLOCK, KvShape};
use crate::recorder::MOST_WORK;
use crate::state::DeviceKv;
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

const SPARSE: &str = "sparse_attention";
const BLOCKS: &str = "block_attention";
static SHADER: Shader = Shader {
    name: "listed_attention",
    parts: &[
        include_str!("common.wgsl"),
        include_str!("listed_attention.wgsl"),
    ],
};
/// Threads of a workgroup.
const THREADS: usize = 128;
/// Heads of a tile, at most.
const MAX_ROWS: usize = 8;
/// Workgroup memory that every device has.
const SHARED_BYTES: usize = 32 << 10;
/// Words of workgroup memory for a row besides its query and weights.
const ROW_WORDS: usize = 2 * 8 + 3;
/// More positions than any query sees.
const NO_WINDOW: u32 = 1 << 30;
/// Queries of one dispatch: every device counts workgroups so far.
const MOST_QUERIES: usize = 65_535;

/// What lists are made of.
#[derive(Clone, Copy)]
enum Kind {
    /// A window and entries.
    Entries,
    /// Blocks, of keys that are the values too or that are not.
    Blocks { apart: bool },
}

fn tile_rows(shape: AttentionShape, kv: KvShape) -> usize {
    let row = kv.units() * kv.unit() + BLOCK + ROW_WORDS;
    let fits = |rows: usize| 4 * (rows * row + BLOCK) <= SHARED_BYTES;
    let mut rows = (shape.heads / shape.kv_heads).clamp(1, MAX_ROWS);
    while rows > 1 && !fits(rows) {
        rows /= 2;
    }
    rows
}

fn params(
    shape: AttentionShape,
    kv: KvShape,
    kind: Kind,
    (has_chosen, has_sinks): (bool, bool),
) -> Vec<Param> {
    let rows = tile_rows(shape, kv);
    let groups = (THREADS / kv.units()).clamp(1, rows);
    let (entries, apart) = match kind {
        Kind::Entries => (true, false),
        Kind::Blocks { apart } => (false, apart),
    };
    // Bindings follow each other: those that are always there, then those that may be.
    let chosen_at = 3 + u32::from(entries || apart);
    vec![
        ("UNIT", kv.unit() as u32),
        ("HALVES", kv.unit() as u32 / 4),
        ("SCORE_ROWS", rows.div_ceil(2) as u32),
        ("VALUE_ROWS", rows.div_ceil(groups) as u32),
        ("HEADS", shape.heads as u32),
        ("KV_HEADS", shape.kv_heads as u32),
        ("DIM", shape.head_dim as u32),
        ("ROWS", rows as u32),
        ("F16", u32::from(kv.kv_type == KvType::F16)),
        ("ENTRIES", u32::from(entries)),
        ("APART", u32::from(apart)),
        ("CHOSEN", u32::from(has_chosen)),
        ("CHOSEN_AT", chosen_at),
        ("SINKS", u32::from(has_sinks)),
        ("SINKS_AT", chosen_at + u32::from(has_chosen)),
    ]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let mut all = Vec::new();
    let kinds = [
        (Kind::Entries, (true, true)),
        (Kind::Entries, (false, true)),
        (Kind::Entries, (true, false)),
        (Kind::Blocks { apart: false }, (true, false)),
        (Kind::Blocks { apart: true }, (true, false)),
    ];
    for (heads, kv_heads, head_dim) in [(64, 1, 512), (128, 1, 576), (32, 4, 128), (3, 1, 10)] {
        let shape = AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale: 1.0,
            window: None,
        };
        for kv_type in [KvType::F16, KvType::F32] {
            let kv = KvShape {
                kv_type,
                kv_heads,
                head_dim,
            };
            // A unit is a thread's.
            if kv.units() <= THREADS {
                all.extend(kinds.map(|(kind, with)| params(shape, kv, kind, with)));
            }
        }
    }
    (&SHADER, all)
}

/// Entries that stand for windows of positions.
#[derive(Clone, Copy)]
pub struct DeviceEntries<'a> {
    /// Their keys, which are the values too.
    pub kv: &'a DeviceKv,
    /// Positions that an entry stands for.
    pub rate: usize,
    /// The entries that each query attends to, `[rows of the step, top_k]` of u32, and top_k;
    /// `None`: all.
    pub chosen: Option<(View<'a>, usize)>,
}

/// Attention of a span to its window of the keys of `kv`, which are the values too, and to entries:
/// `q` and `out` `[rows of the step, heads, head_dim]`, `sinks` `[heads]`.
///
/// # Errors
/// A buffer too small, a shape that the kernel does not have, and what [`Recorder::dispatch`] says.
pub fn sparse_attention(
    r: &mut Recorder,
    (q, out): (View<'_>, View<'_>),
    kv: &DeviceKv,
    entries: DeviceEntries<'_>,
    (shape, sinks): (AttentionShape, Option<View<'_>>),
    span: SpanRows,
) -> Result<(), GpuError> {
    let end = check_sizes(SPARSE, (&q, &out), kv, shape, span)?;
    check::positive(SPARSE, "the rate", entries.rate)?;
    if entries.kv.shape() != kv.shape() || !entries.kv.is_joint() || !kv.is_joint() {
        let problem = "entries of another shape, or keys that are not the values".to_owned();
        return Err(GpuError::Unsupported {
            op: SPARSE,
            problem,
        });
    }
    if span.len == 0 {
        return Ok(());
    }
    let (_, values) = kv.views(SPARSE, end)?;
    let (_, own) = entries.kv.views(SPARSE, end / entries.rate)?;
    let mut views = vec![q, values, out, own];
    let mut top_k = 0;
    if let Some((chosen, count)) = entries.chosen {
        let len = check::product(SPARSE, &[span.first_row + span.len, count])? as usize;
        check::holds(SPARSE, "chosen", &chosen, len)?;
        views.push(chosen);
        top_k = count;
    }
    if let Some(sinks) = sinks {
        check::holds(SPARSE, "sinks", &sinks, shape.heads)?;
        views.push(sinks);
    }
    let with = (entries.chosen.is_some(), sinks.is_some());
    let params = params(shape, kv.shape(), Kind::Entries, with);
    let complete = end / entries.rate;
    let listed = entries.chosen.map_or(complete, |_| complete.min(top_k));
    let most = end.min(shape.window.unwrap_or(end)) + listed;
    let list = (entries.rate, top_k, most);
    run(r, &params, &views, (shape, span), list)
}

/// Attention of a span to chosen blocks of `rate` positions, `chosen` `[rows of the step, top_k]`
/// of u32, and to the positions behind the last whole block; queries that could choose among no
/// more than `top_k` attend to all positions. `q` and `out` `[rows, heads, head_dim]`.
///
/// # Errors
/// As [`sparse_attention`].
pub fn block_attention(
    r: &mut Recorder,
    (q, out): (View<'_>, View<'_>),
    kv: &DeviceKv,
    (chosen, top_k, rate): (View<'_>, usize, usize),
    shape: AttentionShape,
    span: SpanRows,
) -> Result<(), GpuError> {
    let end = check_sizes(BLOCKS, (&q, &out), kv, shape, span)?;
    check::positive(BLOCKS, "the rate", rate)?;
    check::product(BLOCKS, &[top_k, rate])?;
    let len = check::product(BLOCKS, &[span.first_row + span.len, top_k])? as usize;
    check::holds(BLOCKS, "chosen", &chosen, len)?;
    if shape.window.is_some() {
        let problem = "blocks within a window".to_owned();
        return Err(GpuError::Unsupported {
            op: BLOCKS,
            problem,
        });
    }
    if span.len == 0 {
        return Ok(());
    }
    let (keys, values) = kv.views(BLOCKS, end)?;
    let apart = !kv.is_joint();
    let mut views = vec![q, values, out];
    views.extend(apart.then_some(keys));
    views.push(chosen);
    let params = params(shape, kv.shape(), Kind::Blocks { apart }, (true, false));
    let most = end.min((top_k + 1).saturating_mul(rate));
    run(r, &params, &views, (shape, span), (rate, top_k, most))
}

/// The end of the span's positions.
fn check_sizes(
    op: &'static str,
    (q, out): (&View<'_>, &View<'_>),
    kv: &DeviceKv,
    shape: AttentionShape,
    span: SpanRows,
) -> Result<usize, GpuError> {
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
        return Err(GpuError::Unsupported { op, problem });
    }
    let len = check::product(op, &[span.first_row + span.len, heads, head_dim])? as usize;
    check::holds(op, "q", q, len)?;
    check::holds(op, "out", out, len)?;
    let end = span.start.saturating_add(span.len);
    Ok(check::product(op, &[end])? as usize)
}

/// `keys`: the most that a query has; dispatches are not too long for one submission.
fn run(
    r: &mut Recorder,
    params: &[Param],
    views: &[View<'_>],
    (shape, span): (AttentionShape, SpanRows),
    (rate, top_k, keys): (usize, usize, usize),
) -> Result<(), GpuError> {
    let window = shape.window.and_then(|window| u32::try_from(window).ok());
    let window = window.map_or(NO_WINDOW, |window| window.min(NO_WINDOW));
    let group = shape.heads / shape.kv_heads;
    let rows = params.iter().find(|(name, _)| *name == "ROWS");
    let tiles = group.div_ceil(rows.map_or(1, |&(_, rows)| rows as usize));
    let width = (shape.heads * shape.head_dim) as u64;
    let each = (2 * keys as u64).saturating_mul(width);
    let most = (MOST_WORK / each.max(1)).clamp(1, MOST_QUERIES as u64) as usize;
    for first in (0..span.len).step_by(most) {
        let queries = most.min(span.len - first);
        r.dispatch(&Dispatch {
            shader: &SHADER,
            params,
            views,
            immediates: &[
                (span.first_row + first) as u32,
                (span.start + first) as u32,
                shape.scale.to_bits(),
                window,
                rate as u32,
                top_k as u32,
            ],
            groups: [queries as u32, (shape.kv_heads * tiles) as u32, 1],
        })?;
        r.note_work(each.saturating_mul(queries as u64));
    }
    Ok(())
}
