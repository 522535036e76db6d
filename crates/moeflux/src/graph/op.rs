//! The operations. Each is specified by the function of the same name in
//! [`moeflux_kernels::reference`]; what they read and write is in `uses.rs`.

mod entries;
mod streams;

use std::sync::Arc;

use moeflux_kernels::{
    AttentionShape, DeltaShape, Glu, GroupedRouting, HeadRows, NgramRule, Piece, RopeStyle,
};

use super::{BufferId, ExpertForm, StateId, WeightId};
pub use entries::EntryOp;
pub use streams::StreamOp;

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
    /// The rows of a table that hashes of a token and those before it name, one after another.
    NgramRows {
        /// Table `[rows, width / hashes]`.
        table: WeightId,
        /// How tokens become rows.
        rule: NgramRule,
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
    /// The same without a weight.
    RmsNormalize {
        /// `[pieces * len]`.
        x: BufferId,
        /// Elements of a piece.
        len: usize,
        /// Added to the mean square.
        eps: f32,
        /// As `x`.
        out: BufferId,
    },
    /// Pieces as long as the weight without their mean, in unit size, times the weight, plus a bias.
    LayerNorm {
        /// `[pieces * len]`.
        x: BufferId,
        /// Weight and bias, `[len]` each.
        weight_and_bias: [WeightId; 2],
        /// Added to the mean square.
        eps: f32,
        /// As `x`.
        out: BufferId,
    },
    /// Root-mean-square norm, then times `silu(gate)`.
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
    /// Rows put together from pieces of other rows: splits, joins and new orders.
    Rearrange {
        /// The rows that pieces are taken from.
        inputs: Vec<BufferId>,
        /// Pieces of the result's row, in order; each names its input by its place in `inputs`.
        pieces: Arc<[Piece]>,
        /// As long as all pieces together.
        out: BufferId,
    },
    /// Products of each head with rows of its own, of one matrix; activations stay f32.
    HeadMatmul {
        /// `[heads, cols]`, or `[heads, rows]` if transposed.
        x: BufferId,
        /// Matrix `[heads * stride, cols]`.
        weight: WeightId,
        /// Which rows belong to a head, and how they are used.
        shape: HeadRows,
        /// `[heads, rows]`, or `[heads, cols]` if transposed.
        out: BufferId,
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
        /// Heads, scale and window.
        shape: AttentionShape,
        /// Scores that take part without a value, `[heads]`.
        sinks: Option<WeightId>,
        /// `[heads, head_dim]`.
        out: BufferId,
    },
    /// On entries that stand for windows of positions, or on blocks of these.
    Entries(EntryOp),
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
        /// Decay input, `[value_heads]`, or `[value_heads, key_dim]`, as the shape's decay says.
        a: BufferId,
        /// Learning-rate input, `[value_heads]`.
        b: BufferId,
        /// Logarithm of the decay, `[value_heads]`.
        a_log: WeightId,
        /// Added to `a`, shaped as it.
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
    /// A choice by corrected scores, among the experts of the best groups.
    GroupedRouter {
        /// `[experts]`.
        logits: BufferId,
        /// Added to scores where they are ranked, `[experts]`.
        bias: Option<WeightId>,
        /// How experts are chosen.
        rule: GroupedRouting,
        /// Chosen experts, `[top_k]` of u32.
        ids: BufferId,
        /// Their weights, `[top_k]`.
        weights: BufferId,
    },
    /// Experts that a table has for each token; scores as of [`Op::GroupedRouter`] weigh them.
    TokenRouter {
        /// `[experts]`.
        logits: BufferId,
        /// `[vocab, top_k]`, whole numbers.
        table: WeightId,
        /// What scores are made of.
        rule: GroupedRouting,
        /// The experts, `[top_k]` of u32.
        ids: BufferId,
        /// Their weights, `[top_k]`.
        weights: BufferId,
    },
    /// Asks for the chosen experts, to be read meanwhile; without it [`Op::Experts`] asks.
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
    /// Has experts read that a layer's router would choose of its first input, when nothing else is.
    Lookahead {
        /// The residual stream at the layer's start, `[hidden]`.
        x: BufferId,
        /// Weight of the norm before the router, `[hidden]`.
        norm: WeightId,
        /// The norm's epsilon.
        eps: f32,
        /// The router, `[experts, hidden]`.
        router: WeightId,
        /// What is added to its scores, `[experts]`.
        bias: Option<WeightId>,
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
        /// What they compute beside their matrices.
        form: ExpertForm,
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
    /// The gated activation of an MLP in another form.
    Glu {
        /// `[width]`.
        gate: BufferId,
        /// `[width]`.
        up: BufferId,
        /// The form.
        rule: Glu,
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
    /// On a residual of several streams.
    Streams(StreamOp),
    /// `x + bias`, the same bias for every token.
    AddBias {
        /// `[width]`.
        x: BufferId,
        /// `[width]`.
        bias: WeightId,
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
