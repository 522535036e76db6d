//! The operations. Each is specified by the function of the same name in
//! [`moeflux_kernels::reference`].

use std::sync::Arc;

use moeflux_kernels::{AttentionShape, DeltaShape, RopeStyle};

use super::{BufferId, StateId, WeightId};

/// One operation of a graph. Shapes are of one row (one token).
#[derive(Clone, Debug)]
pub enum Op {
    /// The rows of an embedding table that the step's tokens name.
    Embed {
        /// Matrix `[vocab, width]`.
        weight: WeightId,
        /// `[width]`.
        out: BufferId,
    },
    /// Root-mean-square norm over pieces as long as the weight.
    RmsNorm {
        /// `[pieces * len]`.
        x: BufferId,
        /// `[len]`.
        weight: WeightId,
        /// Added to the mean square.
        eps: f32,
        /// As `x`.
        out: BufferId,
    },
    /// The same, then times `silu(gate)`.
    RmsNormGated {
        /// `[pieces * len]`.
        x: BufferId,
        /// As `x`.
        gate: BufferId,
        /// `[len]`.
        weight: WeightId,
        /// Added to the mean square.
        eps: f32,
        /// As `x`.
        out: BufferId,
    },
    /// Products of one input with several matrices.
    Matmul {
        /// `[cols]`.
        x: BufferId,
        /// Matrices `[rows, cols]` with their results `[rows]`.
        outputs: Vec<(WeightId, BufferId)>,
        /// Keep the activations in f32 whatever the weights' codec (routers and gates).
        exact: bool,
    },
    /// Splits `[heads, 2, dim]` into two of `[heads, dim]`.
    SplitPairs {
        /// `[heads, 2, dim]`.
        x: BufferId,
        /// Number of heads.
        heads: usize,
        /// Elements of a half.
        dim: usize,
        /// The first halves.
        first: BufferId,
        /// The second halves.
        second: BufferId,
    },
    /// Rotary position embedding.
    Rope {
        /// `[heads, head_dim]`.
        x: BufferId,
        /// Number of heads.
        heads: usize,
        /// Elements of a head.
        head_dim: usize,
        /// Frequencies, one for each rotated pair.
        inv_freq: Arc<[f32]>,
        /// Factor on sine and cosine.
        attention_scale: f32,
        /// Which elements form a pair.
        style: RopeStyle,
        /// As `x`.
        out: BufferId,
    },
    /// Appends keys and values to the session's cache.
    KvAppend {
        /// `[kv_heads, head_dim]`.
        k: BufferId,
        /// `[kv_heads, head_dim]`.
        v: BufferId,
        /// The cache.
        state: StateId,
    },
    /// Causal attention over the session's cache.
    Attention {
        /// `[heads, head_dim]`.
        q: BufferId,
        /// The cache, with this step's keys and values in it.
        state: StateId,
        /// Heads and scale.
        shape: AttentionShape,
        /// `[heads, head_dim]`.
        out: BufferId,
    },
    /// Depthwise causal convolution, then SiLU.
    Conv1dSilu {
        /// `[channels]`.
        x: BufferId,
        /// `[kernel, channels]`, oldest tap first.
        weight: WeightId,
        /// The last `kernel - 1` inputs, `[kernel - 1, channels]`.
        state: StateId,
        /// Number of channels.
        channels: usize,
        /// `[channels]`.
        out: BufferId,
    },
    /// Gated delta rule, token by token.
    GatedDelta {
        /// `[q | k | v]`.
        qkv: BufferId,
        /// Decay input, `[value_heads]`.
        a: BufferId,
        /// Learning-rate input, `[value_heads]`.
        b: BufferId,
        /// Logarithm of the decay, `[value_heads]`.
        a_log: WeightId,
        /// Added to `a`, `[value_heads]`.
        dt_bias: WeightId,
        /// `[value_heads, key_dim, value_dim]`.
        state: StateId,
        /// Heads and their sizes.
        shape: DeltaShape,
        /// `[value_heads, value_dim]`.
        out: BufferId,
    },
    /// Softmax over all experts, then the top k.
    Router {
        /// `[experts]`.
        logits: BufferId,
        /// Number of experts.
        experts: usize,
        /// Experts that a token uses.
        top_k: usize,
        /// Whether the chosen weights are divided by their sum.
        renormalize: bool,
        /// Chosen experts, `[top_k]` of u32.
        ids: BufferId,
        /// Their weights, `[top_k]`.
        weights: BufferId,
    },
    /// Asks for the experts that the tokens chose, so that they are read while other operations
    /// run. Without it [`Op::Experts`] asks.
    RequestExperts {
        /// Chosen experts, `[top_k]` of u32.
        ids: BufferId,
        /// Their weights, `[top_k]`.
        weights: BufferId,
        /// Experts that a token uses.
        top_k: usize,
        /// The layer whose experts these are.
        layer: usize,
    },
    /// Guesses which experts a layer will choose, by its router on what the layer begins with, and
    /// has them read when nothing else is to be read. No result depends on it.
    Lookahead {
        /// The residual stream at the layer's start, `[hidden]`.
        x: BufferId,
        /// Weight of the norm before the router, `[hidden]`.
        norm: WeightId,
        /// The norm's epsilon.
        eps: f32,
        /// The router, `[experts, hidden]`.
        router: WeightId,
        /// Number of experts.
        experts: usize,
        /// Experts that a token uses.
        top_k: usize,
        /// The layer.
        layer: usize,
    },
    /// The routed experts: each token's, summed with their weights in ascending expert id.
    Experts {
        /// `[hidden]`.
        x: BufferId,
        /// Chosen experts, `[top_k]` of u32.
        ids: BufferId,
        /// Their weights, `[top_k]`.
        weights: BufferId,
        /// Experts that a token uses.
        top_k: usize,
        /// The layer whose experts these are.
        layer: usize,
        /// `[hidden]`.
        out: BufferId,
    },
    /// `silu(gate) * up`.
    Swiglu {
        /// `[width]`.
        gate: BufferId,
        /// `[width]`.
        up: BufferId,
        /// `[width]`.
        out: BufferId,
    },
    /// `x * sigmoid(gate)`, element by element.
    SigmoidMul {
        /// `[width]`.
        x: BufferId,
        /// `[width]`.
        gate: BufferId,
        /// `[width]`.
        out: BufferId,
    },
    /// `x * sigmoid(gate)` with one gate a token.
    ScaleBySigmoid {
        /// `[width]`.
        x: BufferId,
        /// `[1]`.
        gate: BufferId,
        /// `[width]`.
        out: BufferId,
    },
    /// `a + b`.
    Add {
        /// `[width]`.
        a: BufferId,
        /// `[width]`.
        b: BufferId,
        /// `[width]`.
        out: BufferId,
    },
    /// The rows of the positions whose logits were asked for.
    SelectOutputs {
        /// `[width]`, a row a token.
        x: BufferId,
        /// `[width]`, a row an output.
        out: BufferId,
    },
}

impl Op {
    /// The op's name, for reports.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embed { .. } => "embed",
            Op::RmsNorm { .. } => "rms_norm",
            Op::RmsNormGated { .. } => "rms_norm_gated",
            Op::Matmul { .. } => "matmul",
            Op::SplitPairs { .. } => "split_pairs",
            Op::Rope { .. } => "rope",
            Op::KvAppend { .. } => "kv_append",
            Op::Attention { .. } => "attention",
            Op::Conv1dSilu { .. } => "conv1d_silu",
            Op::GatedDelta { .. } => "gated_delta",
            Op::Router { .. } => "router",
            Op::RequestExperts { .. } => "request_experts",
            Op::Lookahead { .. } => "lookahead",
            Op::Experts { .. } => "experts",
            Op::Swiglu { .. } => "swiglu",
            Op::SigmoidMul { .. } => "sigmoid_mul",
            Op::ScaleBySigmoid { .. } => "scale_by_sigmoid",
            Op::Add { .. } => "add",
            Op::SelectOutputs { .. } => "select_outputs",
        }
    }

    /// The resident weights that its results need.
    pub fn weights(&self) -> Vec<WeightId> {
        match self {
            Op::Embed { weight, .. }
            | Op::RmsNorm { weight, .. }
            | Op::RmsNormGated { weight, .. }
            | Op::Conv1dSilu { weight, .. } => vec![*weight],
            Op::Matmul { outputs, .. } => outputs.iter().map(|&(weight, _)| weight).collect(),
            Op::GatedDelta { a_log, dt_bias, .. } => vec![*a_log, *dt_bias],
            Op::SplitPairs { .. }
            | Op::Rope { .. }
            | Op::KvAppend { .. }
            | Op::Attention { .. }
            | Op::Router { .. }
            | Op::RequestExperts { .. }
            | Op::Lookahead { .. }
            | Op::Experts { .. }
            | Op::Swiglu { .. }
            | Op::SigmoidMul { .. }
            | Op::ScaleBySigmoid { .. }
            | Op::Add { .. }
            | Op::SelectOutputs { .. } => vec![],
        }
    }

    /// The buffers it reads.
    pub fn reads(&self) -> Vec<BufferId> {
        match self {
            Op::Embed { .. } => vec![],
            Op::RmsNorm { x, .. }
            | Op::Matmul { x, .. }
            | Op::SplitPairs { x, .. }
            | Op::Rope { x, .. }
            | Op::Conv1dSilu { x, .. }
            | Op::Lookahead { x, .. }
            | Op::SelectOutputs { x, .. } => vec![*x],
            Op::RmsNormGated { x, gate, .. }
            | Op::SigmoidMul { x, gate, .. }
            | Op::ScaleBySigmoid { x, gate, .. } => vec![*x, *gate],
            Op::KvAppend { k, v, .. } => vec![*k, *v],
            Op::Attention { q, .. } => vec![*q],
            Op::GatedDelta { qkv, a, b, .. } => vec![*qkv, *a, *b],
            Op::Router { logits, .. } => vec![*logits],
            Op::RequestExperts { ids, weights, .. } => vec![*ids, *weights],
            Op::Experts {
                x, ids, weights, ..
            } => vec![*x, *ids, *weights],
            Op::Swiglu { gate, up, .. } => vec![*gate, *up],
            Op::Add { a, b, .. } => vec![*a, *b],
        }
    }

    /// The buffers it writes, whole.
    pub fn writes(&self) -> Vec<BufferId> {
        match self {
            Op::Matmul { outputs, .. } => outputs.iter().map(|&(_, out)| out).collect(),
            Op::SplitPairs { first, second, .. } => vec![*first, *second],
            Op::Router { ids, weights, .. } => vec![*ids, *weights],
            Op::KvAppend { .. } | Op::RequestExperts { .. } | Op::Lookahead { .. } => vec![],
            Op::Embed { out, .. }
            | Op::RmsNorm { out, .. }
            | Op::RmsNormGated { out, .. }
            | Op::Rope { out, .. }
            | Op::Attention { out, .. }
            | Op::Conv1dSilu { out, .. }
            | Op::GatedDelta { out, .. }
            | Op::Experts { out, .. }
            | Op::Swiglu { out, .. }
            | Op::SigmoidMul { out, .. }
            | Op::ScaleBySigmoid { out, .. }
            | Op::Add { out, .. }
            | Op::SelectOutputs { out, .. } => vec![*out],
        }
    }
}
