//! The entries that each query attends to: those with the best scores by an index of their own.

use moeflux::KvType;
use moeflux_kernels::IndexShape;

use super::{SpanRows, check};
use crate::kv_layout::{BLOCK, KvShape};
use crate::recorder::MOST_WORK;
use crate::state::DeviceKv;
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

const OP: &str = "choose_entries";
static SCORES: Shader = Shader {
    name: "entry_scores",
    parts: &[include_str!("entry_scores.wgsl")],
};
static CHOICE: Shader = Shader {
    name: OP,
    parts: &[include_str!("choose_entries.wgsl")],
};
/// Memory for scores; queries that need more take turns.
const SCORE_BYTES: usize = 64 << 20;
/// Queries of one dispatch: every device counts workgroups so far.
const MOST_QUERIES: usize = 65_535;

fn score_params(shape: IndexShape, kv_type: KvType, weighted: bool) -> [Param; 5] {
    [
        ("HEADS", shape.heads as u32),
        ("DIM", shape.dim as u32),
        ("RATE", shape.rate as u32),
        ("F16", u32::from(kv_type == KvType::F16)),
        ("WEIGHTED", u32::from(weighted)),
    ]
}

fn choice_params(shape: IndexShape) -> [Param; 2] {
    [("RATE", shape.rate as u32), ("TOP_K", shape.top_k as u32)]
}

pub(super) fn kernels() -> [(&'static Shader, Vec<Vec<Param>>); 2] {
    let shapes = [(64, 128, 4, 512), (8, 10, 1, 3)].map(|(heads, dim, rate, top_k)| IndexShape {
        heads,
        dim,
        rate,
        top_k,
    });
    let mut scores = Vec::new();
    for shape in shapes {
        for kv_type in [KvType::F16, KvType::F32] {
            scores.extend([false, true].map(|w| score_params(shape, kv_type, w).to_vec()));
        }
    }
    let choices = shapes.map(|shape| choice_params(shape).to_vec());
    [(&SCORES, scores), (&CHOICE, choices.to_vec())]
}

/// The entries that the queries of a span attend to, `out` `[rows of the step, top_k]` of u32, by
/// `q` `[rows, heads, dim]` and `weights` `[rows, heads]` (`None`: ones).
///
/// # Errors
/// A buffer too small, entries of another shape, and what [`Recorder::dispatch`] says.
pub fn choose_entries(
    r: &mut Recorder,
    (q, weights, out): (View<'_>, Option<View<'_>>, View<'_>),
    entries: &DeviceKv,
    shape: IndexShape,
    span: SpanRows,
) -> Result<(), GpuError> {
    let KvShape {
        kv_heads, head_dim, ..
    } = entries.shape();
    if (kv_heads, head_dim) != (1, shape.dim) || shape.rate == 0 || shape.top_k == 0 {
        let problem = format!("{shape:?} over {kv_heads} heads of {head_dim} elements");
        return Err(GpuError::Unsupported { op: OP, problem });
    }
    if span.len == 0 {
        return Ok(());
    }
    let rows = span.first_row + span.len;
    let len = check::product(OP, &[rows, shape.heads, shape.dim])? as usize;
    check::holds(OP, "q", &q, len)?;
    let len = check::product(OP, &[rows, shape.top_k])? as usize;
    check::holds(OP, "out", &out, len)?;
    if let Some(weights) = &weights {
        check::holds(OP, "weights", weights, rows * shape.heads)?;
    }
    let end = check::product(OP, &[span.start.saturating_add(span.len)])? as usize;
    let complete = end / shape.rate;
    let (keys, _) = entries.views(OP, complete)?;
    let each = (complete as u64).saturating_mul((shape.heads * shape.dim) as u64);
    let by_work = (MOST_WORK / each.max(1)).clamp(1, MOST_QUERIES as u64) as usize;
    let most = (SCORE_BYTES / 4 / complete.max(1)).clamp(1, by_work);
    let scores = r.scratch(OP, (most.min(span.len) * complete.max(1) * 4) as u64)?;
    let scores = View::from(&*scores);
    for first in (0..span.len).step_by(most) {
        let queries = most.min(span.len - first);
        let sizes = [span.first_row + first, span.start + first, complete].map(|n| n as u32);
        if complete > shape.top_k {
            let mut views = vec![q, keys, scores];
            views.extend(weights);
            let weighted = weights.is_some();
            r.dispatch(&Dispatch {
                shader: &SCORES,
                params: &score_params(shape, entries.shape().kv_type, weighted),
                views: &views,
                immediates: &sizes,
                groups: [queries as u32, complete.div_ceil(BLOCK) as u32, 1],
            })?;
            r.note_work(each.saturating_mul(queries as u64));
        }
        r.dispatch(&Dispatch {
            shader: &CHOICE,
            params: &choice_params(shape),
            views: &[scores, out],
            immediates: &sizes,
            groups: [queries as u32, 1, 1],
        })?;
    }
    Ok(())
}
