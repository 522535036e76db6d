//! What the Qwen models of mixed layers share: gated attention in some layers, the gated delta rule
//! in the others.
//!
//! Gated delta networks: arXiv 2412.06464.

use std::sync::Arc;

use moeflux_kernels::{Decay, DeltaShape, HeadOrder, Piece};

use super::blueprint::{BlueprintBuilder, MatrixClass, VectorFold};
use super::fields::{check_heads, layer_types, rope_frequencies};
use crate::Error;
use crate::config::Config;
use crate::graph::{BufferId, Op, StateDecl, WeightId};

/// How the inputs of the delta rule are projected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Projections {
    /// `in_proj_qkv`, `in_proj_z`, `in_proj_b`, `in_proj_a`.
    Apart,
    /// `in_proj_qkvz` and `in_proj_ba`, their rows in order of key heads.
    ByKeyHead,
    /// `in_proj_qkv`, `in_proj_z` and `in_proj_ba`, the last one's rows in order of key heads.
    BetaAlphaByKeyHead,
}

/// What gates the results of the delta rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutputGate {
    /// `silu`.
    Silu,
    /// `sigmoid`.
    Sigmoid,
}

/// Sizes of both kinds of layers.
pub(super) struct Hybrid {
    pub hidden: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub inv_freq: Arc<[f32]>,
    delta: DeltaShape,
    conv_kernel: usize,
    projections: Projections,
    pub gate: OutputGate,
}

impl Hybrid {
    /// The fields, under the names that all configurations give them.
    pub(super) fn read(c: &Config, projections: Projections) -> Result<Hybrid, Error> {
        let head_dim = c.size_or("head_dim", 256)?;
        let model = Hybrid {
            hidden: c.size("hidden_size")?,
            heads: c.size("num_attention_heads")?,
            kv_heads: c.size("num_key_value_heads")?,
            head_dim,
            inv_freq: rope_frequencies(c, head_dim, Some(0.25))?,
            delta: DeltaShape {
                key_heads: c.size_or("linear_num_key_heads", 16)?,
                value_heads: c.size_or("linear_num_value_heads", 32)?,
                key_dim: c.size_or("linear_key_head_dim", 128)?,
                value_dim: c.size_or("linear_value_head_dim", 128)?,
                head_order: HeadOrder::Grouped,
                decay: Decay::Head,
            },
            conv_kernel: c.size_or("linear_conv_kernel_dim", 4)?,
            projections,
            gate: OutputGate::Silu,
        };
        check_heads(c, "num_attention_heads", model.heads, model.kv_heads)?;
        check_heads(
            c,
            "linear_num_value_heads",
            model.delta.value_heads,
            model.delta.key_heads,
        )?;
        Ok(model)
    }
}

/// Softmax attention with normed and partly rotated heads, its output gated by `sigmoid`.
pub(super) fn gated_attention(
    b: &mut BlueprintBuilder,
    m: &Hybrid,
    x: BufferId,
    name: &str,
) -> BufferId {
    gated_attention_by(b, m, (x, name), |b, qkv| {
        b.attention(qkv, m.heads, m.kv_heads, m.head_dim)
    })
}

/// The same where `attend` says what queries, keys and values become.
pub(super) fn gated_attention_by(
    b: &mut BlueprintBuilder,
    m: &Hybrid,
    (x, name): (BufferId, &str),
    attend: impl FnOnce(&mut BlueprintBuilder, (BufferId, BufferId, BufferId)) -> BufferId,
) -> BufferId {
    let (q_len, kv_len) = (m.heads * m.head_dim, m.kv_heads * m.head_dim);
    let [qg, k, v] = b.project(
        x,
        MatrixClass::Dense,
        [
            (format!("{name}.q_proj"), 2 * q_len, "q and gate"),
            (format!("{name}.k_proj"), kv_len, "k"),
            (format!("{name}.v_proj"), kv_len, "v"),
        ],
    );
    let q = b.graph.buffer("q", q_len);
    let gate = b.graph.buffer("attention gate", q_len);
    b.graph.push(Op::SplitPairs {
        x: qg,
        heads: m.heads,
        dim: m.head_dim,
        first: q,
        second: gate,
    });
    let q = b.rms_norm(q, format!("{name}.q_norm.weight"), m.head_dim, "q normed");
    let k = b.rms_norm(k, format!("{name}.k_norm.weight"), m.head_dim, "k normed");
    let q = b.rope(q, m.head_dim, &m.inv_freq);
    let k = b.rope(k, m.head_dim, &m.inv_freq);
    let attended = attend(b, (q, k, v));
    let gated = b.graph.buffer("attention gated", q_len);
    b.graph.push(Op::SigmoidMul {
        x: attended,
        gate,
        out: gated,
    });
    let hidden = m.hidden;
    let [out] = b.project(
        gated,
        MatrixClass::Dense,
        [(format!("{name}.o_proj"), hidden, "attention out")],
    );
    out
}

/// Convolution, gated delta rule, gated norm.
pub(super) fn gated_delta_net(
    b: &mut BlueprintBuilder,
    m: &Hybrid,
    x: BufferId,
    name: &str,
) -> BufferId {
    let shape = m.delta;
    let value_len = shape.value_heads * shape.value_dim;
    let channels = 2 * shape.key_heads * shape.key_dim + value_len;
    let [qkv, z] = match m.projections {
        Projections::ByKeyHead => qkvz_by_key_head(b, &shape, x, name),
        Projections::Apart | Projections::BetaAlphaByKeyHead => qkvz_apart(b, &shape, x, name),
    };
    let [beta, alpha] = match m.projections {
        Projections::Apart => beta_alpha_apart(b, &shape, x, name),
        _ => beta_alpha_by_key_head(b, &shape, x, name),
    };
    let weight = b.vector(
        format!("{name}.conv1d.weight"),
        &[channels, 1, m.conv_kernel],
        VectorFold::TransposeConv,
    );
    let state = b.state(StateDecl::Recurrent {
        len: (m.conv_kernel - 1) * channels,
    });
    let convolved = b.graph.buffer("qkv convolved", channels);
    b.graph.push(Op::Conv1dSilu {
        x: qkv,
        weight,
        state,
        channels,
        out: convolved,
    });
    let a_log = b.vector(
        format!("{name}.A_log"),
        &[shape.value_heads],
        VectorFold::None,
    );
    let dt_bias = b.vector(
        format!("{name}.dt_bias"),
        &[shape.value_heads],
        VectorFold::None,
    );
    let state = b.state(StateDecl::Recurrent {
        len: shape.value_heads * shape.key_dim * shape.value_dim,
    });
    let delta = b.graph.buffer("delta out", value_len);
    b.graph.push(Op::GatedDelta {
        qkv: convolved,
        a: alpha,
        b: beta,
        a_log,
        dt_bias,
        state,
        shape,
        out: delta,
    });
    let weight = b.vector(
        format!("{name}.norm.weight"),
        &[shape.value_dim],
        VectorFold::None,
    );
    let gated = delta_gated(b, m.gate, (delta, z), weight);
    let out = (format!("{name}.out_proj"), m.hidden, "mixer out");
    let [out] = b.project(gated, MatrixClass::Dense, [out]);
    out
}

/// The results of the delta rule, normed and gated by z.
fn delta_gated(
    b: &mut BlueprintBuilder,
    gate: OutputGate,
    (x, z): (BufferId, BufferId),
    weight: WeightId,
) -> BufferId {
    let (width, eps) = (b.graph.width(x), b.eps);
    let out = b.graph.buffer("delta gated", width);
    if gate == OutputGate::Silu {
        b.graph.push(Op::RmsNormGated {
            x,
            gate: z,
            weight,
            eps,
            out,
        });
        return out;
    }
    let normed = b.graph.buffer("delta normed", width);
    b.graph.push(Op::RmsNorm {
        x,
        weight,
        eps,
        out: normed,
    });
    b.graph.push(Op::SigmoidMul {
        x: normed,
        gate: z,
        out,
    });
    out
}

/// `[q | k | v]` and z, each by a matrix of its own.
fn qkvz_apart(
    b: &mut BlueprintBuilder,
    shape: &DeltaShape,
    x: BufferId,
    name: &str,
) -> [BufferId; 2] {
    let value_len = shape.value_heads * shape.value_dim;
    let channels = 2 * shape.key_heads * shape.key_dim + value_len;
    b.project(
        x,
        MatrixClass::Dense,
        [
            (format!("{name}.in_proj_qkv"), channels, "qkv"),
            (format!("{name}.in_proj_z"), value_len, "z"),
        ],
    )
}

/// b and a, each by a matrix of its own.
fn beta_alpha_apart(
    b: &mut BlueprintBuilder,
    shape: &DeltaShape,
    x: BufferId,
    name: &str,
) -> [BufferId; 2] {
    b.project(
        x,
        MatrixClass::Sensitive,
        [
            (format!("{name}.in_proj_b"), shape.value_heads, "b"),
            (format!("{name}.in_proj_a"), shape.value_heads, "a"),
        ],
    )
}

/// `[q | k | v]` and z from one matrix: for each key head `[q | k | v | z]` with the value heads
/// that belong to it.
fn qkvz_by_key_head(
    b: &mut BlueprintBuilder,
    shape: &DeltaShape,
    x: BufferId,
    name: &str,
) -> [BufferId; 2] {
    let (groups, key) = (shape.key_heads, shape.key_dim);
    let value = shape.value_heads / groups * shape.value_dim;
    let width = 2 * (key + value);
    let [qkvz] = b.project(
        x,
        MatrixClass::Dense,
        [(format!("{name}.in_proj_qkvz"), groups * width, "qkvz")],
    );
    let qkv = every(groups, width, 0, key)
        .chain(every(groups, width, key, key))
        .chain(every(groups, width, 2 * key, value));
    let z = every(groups, width, 2 * key + value, value);
    [
        b.rearrange(&[qkvz], qkv, "qkv"),
        b.rearrange(&[qkvz], z, "z"),
    ]
}

/// b and a from one matrix: `[b | a]` for each key head.
fn beta_alpha_by_key_head(
    b: &mut BlueprintBuilder,
    shape: &DeltaShape,
    x: BufferId,
    name: &str,
) -> [BufferId; 2] {
    let (groups, heads) = (shape.key_heads, shape.value_heads / shape.key_heads);
    let rows = 2 * shape.value_heads;
    let [ba] = b.project(
        x,
        MatrixClass::Sensitive,
        [(format!("{name}.in_proj_ba"), rows, "b and a")],
    );
    [
        b.rearrange(&[ba], every(groups, 2 * heads, 0, heads), "b"),
        b.rearrange(&[ba], every(groups, 2 * heads, heads, heads), "a"),
    ]
}

/// The same piece of every group of `width`.
fn every(groups: usize, width: usize, start: usize, len: usize) -> impl Iterator<Item = Piece> {
    (0..groups).map(move |group| Piece {
        input: 0,
        start: group * width + start,
        len,
    })
}

/// For each layer whether it is one of full attention.
pub(super) fn full_attention_layers(c: &Config, layers: usize) -> Result<Vec<bool>, Error> {
    let Some(types) = layer_types(c, layers)? else {
        let interval = c.size_or("full_attention_interval", 4)?;
        return Ok((1..=layers).map(|i| i.is_multiple_of(interval)).collect());
    };
    types
        .iter()
        .map(|t| match t.as_str() {
            "full_attention" => Ok(true),
            "linear_attention" => Ok(false),
            other => Err(c.error("layer_types", format!("has an unknown type `{other}`"))),
        })
        .collect()
}
