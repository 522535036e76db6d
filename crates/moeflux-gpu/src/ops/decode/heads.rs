//! What comes before attention: heads normed and rotated, keys and values appended.

use moeflux::KvType;
use moeflux_kernels::RopeStyle;

use super::super::check::{holds, product};
use super::super::{RopeShape, SpanRows};
use crate::kv_layout::KvShape;
use crate::state::DeviceKv;
use crate::{Dispatch, GpuError, Param, Recorder, Shader, View};

static SHADER: Shader = Shader {
    name: "heads",
    parts: &[
        include_str!("../common.wgsl"),
        "//#if NORMED",
        include_str!("../reduce.wgsl"),
        "//#endif",
        include_str!("../turn.wgsl"),
        include_str!("heads.wgsl"),
    ],
};

/// Heads of queries, keys and values of a step, and where they go.
pub struct Heads<'a> {
    /// The buffer that all lie in.
    pub x: View<'a>,
    /// Where queries `[rows of the step, heads, len]` begin there, in elements.
    pub q: usize,
    /// Whether a head of queries is followed by as many other elements.
    pub is_paired: bool,
    /// Where keys `[rows of the step, kv_heads, len]` begin.
    pub k: usize,
    /// Where values begin, as keys.
    pub v: usize,
    /// Weights of the queries' and of the keys' norm, one after the other, and what is added to
    /// the mean square.
    pub norms: Option<(View<'a>, f32)>,
    /// `[pairs]`.
    pub inv_freq: View<'a>,
    /// Of queries.
    pub shape: RopeShape,
    /// The queries, `[rows of the step, heads, len]`.
    pub out: View<'a>,
}

fn params(shape: &RopeShape, kv: KvShape, is_paired: bool, is_normed: bool) -> Vec<Param> {
    vec![
        ("HEADS", shape.heads as u32),
        ("KV_HEADS", kv.kv_heads as u32),
        ("LEN", shape.head_dim as u32),
        ("PAIRS", shape.pairs as u32),
        ("F16", u32::from(kv.kv_type == KvType::F16)),
        ("PAIRED", u32::from(is_paired)),
        ("NORMED", u32::from(is_normed)),
        (
            "INTERLEAVED",
            u32::from(shape.style == RopeStyle::Interleaved),
        ),
    ]
}

pub(super) fn kernels() -> (&'static Shader, Vec<Vec<Param>>) {
    let mut all = Vec::new();
    for (heads, kv_heads, head_dim, pairs) in [(16, 2, 256, 32), (32, 4, 128, 64), (3, 3, 10, 4)] {
        for (kv_type, style, flag) in [
            (KvType::F16, RopeStyle::HalfSplit, true),
            (KvType::F32, RopeStyle::Interleaved, false),
        ] {
            let shape = RopeShape {
                heads,
                head_dim,
                pairs,
                style,
                attention_scale: 1.0,
            };
            let kv = KvShape {
                kv_type,
                kv_heads,
                head_dim,
            };
            all.push(params(&shape, kv, flag, flag));
        }
    }
    (&SHADER, all)
}

/// Runs it for a span.
///
/// # Errors
/// Views that are too small, no room for the span in `kv`, and what [`Recorder::dispatch`] says.
pub fn heads(
    r: &mut Recorder,
    h: &Heads<'_>,
    kv: &DeviceKv,
    span: SpanRows,
) -> Result<(), GpuError> {
    let name = SHADER.name;
    let (shape, kv_shape) = (&h.shape, kv.shape());
    let rows = span.first_row + span.len;
    let len = product(name, &[rows, shape.heads, shape.head_dim, 2])? as usize / 2;
    let kv_len = product(name, &[rows, kv_shape.kv_heads, shape.head_dim])? as usize;
    holds(name, "q", &h.x, h.q + len * (1 + usize::from(h.is_paired)))?;
    holds(name, "k", &h.x, h.k + kv_len)?;
    holds(name, "v", &h.x, h.v + kv_len)?;
    holds(name, "inv_freq", &h.inv_freq, shape.pairs)?;
    holds(name, "out", &h.out, len)?;
    if let Some((norms, _)) = &h.norms {
        holds(name, "norms", norms, 2 * shape.head_dim)?;
    }
    if 2 * shape.pairs > shape.head_dim || kv_shape.head_dim != shape.head_dim {
        let problem = format!("heads of shape {shape:?} over keys of {kv_shape:?}");
        return Err(GpuError::Unsupported { op: name, problem });
    }
    let (keys, values) = kv.views(name, span.start + span.len)?;
    let mut views = vec![h.x, h.inv_freq, h.out, keys, values];
    views.extend(h.norms.map(|(view, _)| view));
    let eps = h.norms.map_or(0.0, |(_, eps)| eps);
    r.dispatch(&Dispatch {
        shader: &SHADER,
        params: &params(shape, kv_shape, h.is_paired, h.norms.is_some()),
        views: &views,
        immediates: &[
            span.first_row as u32,
            span.start as u32,
            eps.to_bits(),
            shape.attention_scale.to_bits(),
            h.q as u32,
            h.k as u32,
            h.v as u32,
        ],
        groups: [
            (shape.heads + 2 * kv_shape.kv_heads) as u32,
            span.len as u32,
            1,
        ],
    })
}
