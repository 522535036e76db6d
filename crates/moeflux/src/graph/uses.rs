//! What each operation reads and writes.

use moeflux_kernels::{Decay, RopeStyle, Scores};

use super::{BufferId, ExpertForm, Op, WeightId};

impl Op {
    /// The op's name, for reports.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embed { .. } => "embed",
            Op::RmsNorm { .. } => "rms_norm",
            Op::RmsNormalize { .. } => "rms_normalize",
            Op::RmsNormGated { .. } => "rms_norm_gated",
            Op::Matmul { .. } => "matmul",
            Op::SplitPairs { .. } => "split_pairs",
            Op::Rearrange { .. } => "rearrange",
            Op::HeadMatmul { .. } => "head_matmul",
            Op::Rope { style, .. } => match style {
                RopeStyle::HalfSplit | RopeStyle::Interleaved => "rope",
                RopeStyle::InterleavedTail => "tail_rope",
            },
            Op::KvAppend { .. } => "kv_append",
            Op::Attention { shape, sinks, .. } => match (shape.window, sinks) {
                (None, None) => "attention",
                _ => "windowed_attention",
            },
            Op::Compress { .. } => "compress",
            Op::ChooseEntries { .. } => "choose_entries",
            Op::SparseAttention { .. } => "sparse_attention",
            Op::Conv1dSilu { .. } => "conv1d_silu",
            Op::GatedDelta { shape, .. } => match shape.decay {
                Decay::Head => "gated_delta",
                Decay::Key => "keyed_delta",
            },
            Op::Router { .. } => "router",
            Op::GroupedRouter { rule, .. } => match rule.scores {
                Scores::Sigmoid | Scores::Softmax => "grouped_router",
                Scores::SqrtSoftplus => "softplus_router",
            },
            Op::TokenRouter { .. } => "token_router",
            Op::RequestExperts { .. } => "request_experts",
            Op::Lookahead { .. } => "lookahead",
            Op::Experts { form, .. } => match *form == ExpertForm::default() {
                true => "experts",
                false => "biased_experts",
            },
            Op::Swiglu { .. } => "swiglu",
            Op::Glu { .. } => "glu",
            Op::SigmoidMul { .. } => "sigmoid_mul",
            Op::ScaleBySigmoid { .. } => "scale_by_sigmoid",
            Op::StreamWeights { .. } => "stream_weights",
            Op::CollapseStreams { .. } => "collapse_streams",
            Op::SpreadStreams { .. } => "spread_streams",
            Op::AddBias { .. } => "add_bias",
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
            | Op::HeadMatmul { weight, .. }
            | Op::Conv1dSilu { weight, .. } => vec![*weight],
            Op::AddBias { bias, .. } => vec![*bias],
            Op::Experts { form, .. } => form.biases.iter().flatten().copied().collect(),
            Op::Attention { sinks, .. } | Op::SparseAttention { sinks, .. } => {
                sinks.iter().copied().collect()
            }
            Op::Compress { form, .. } => vec![form.bias, form.norm],
            Op::StreamWeights { scale_and_base, .. } => scale_and_base.to_vec(),
            Op::TokenRouter { table, .. } => vec![*table],
            Op::GroupedRouter { bias, .. } => bias.iter().copied().collect(),
            Op::Matmul { outputs, .. } => outputs.iter().map(|&(weight, _)| weight).collect(),
            Op::GatedDelta { a_log, dt_bias, .. } => vec![*a_log, *dt_bias],
            Op::SplitPairs { .. }
            | Op::RmsNormalize { .. }
            | Op::Rearrange { .. }
            | Op::Rope { .. }
            | Op::KvAppend { .. }
            | Op::ChooseEntries { .. }
            | Op::Router { .. }
            | Op::RequestExperts { .. }
            | Op::Lookahead { .. }
            | Op::Swiglu { .. }
            | Op::Glu { .. }
            | Op::CollapseStreams { .. }
            | Op::SpreadStreams { .. }
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
            | Op::RmsNormalize { x, .. }
            | Op::Matmul { x, .. }
            | Op::SplitPairs { x, .. }
            | Op::HeadMatmul { x, .. }
            | Op::AddBias { x, .. }
            | Op::Rope { x, .. }
            | Op::Conv1dSilu { x, .. }
            | Op::Lookahead { x, .. }
            | Op::SelectOutputs { x, .. } => vec![*x],
            Op::RmsNormGated { x, gate, .. }
            | Op::SigmoidMul { x, gate, .. }
            | Op::ScaleBySigmoid { x, gate, .. } => vec![*x, *gate],
            Op::Rearrange { inputs, .. } => inputs.clone(),
            Op::KvAppend { k, v, .. } => vec![*k, *v],
            Op::Attention { q, .. } => vec![*q],
            Op::Compress { values, gates, .. } => vec![*values, *gates],
            Op::ChooseEntries { q, weights, .. } => vec![*q, *weights],
            Op::SparseAttention { q, chosen, .. } => std::iter::once(*q).chain(*chosen).collect(),
            Op::StreamWeights { projected, .. } => vec![*projected],
            Op::CollapseStreams { x, weights, .. } => vec![*x, *weights],
            Op::SpreadStreams {
                x, block, weights, ..
            } => vec![*x, *block, *weights],
            Op::GatedDelta { qkv, a, b, .. } => vec![*qkv, *a, *b],
            Op::Router { logits, .. }
            | Op::GroupedRouter { logits, .. }
            | Op::TokenRouter { logits, .. } => vec![*logits],
            Op::RequestExperts { ids, weights, .. } => vec![*ids, *weights],
            Op::Experts {
                x, ids, weights, ..
            } => vec![*x, *ids, *weights],
            Op::Swiglu { gate, up, .. } | Op::Glu { gate, up, .. } => vec![*gate, *up],
            Op::Add { a, b, .. } => vec![*a, *b],
        }
    }

    /// The buffers it writes, whole.
    pub fn writes(&self) -> Vec<BufferId> {
        match self {
            Op::Matmul { outputs, .. } => outputs.iter().map(|&(_, out)| out).collect(),
            Op::SplitPairs { first, second, .. } => vec![*first, *second],
            Op::Router { ids, weights, .. }
            | Op::GroupedRouter { ids, weights, .. }
            | Op::TokenRouter { ids, weights, .. } => vec![*ids, *weights],
            Op::KvAppend { .. }
            | Op::Compress { .. }
            | Op::RequestExperts { .. }
            | Op::Lookahead { .. } => vec![],
            Op::Embed { out, .. }
            | Op::RmsNorm { out, .. }
            | Op::RmsNormalize { out, .. }
            | Op::RmsNormGated { out, .. }
            | Op::Rope { out, .. }
            | Op::Rearrange { out, .. }
            | Op::HeadMatmul { out, .. }
            | Op::AddBias { out, .. }
            | Op::Attention { out, .. }
            | Op::ChooseEntries { out, .. }
            | Op::SparseAttention { out, .. }
            | Op::Conv1dSilu { out, .. }
            | Op::GatedDelta { out, .. }
            | Op::Experts { out, .. }
            | Op::Swiglu { out, .. }
            | Op::Glu { out, .. }
            | Op::StreamWeights { out, .. }
            | Op::CollapseStreams { out, .. }
            | Op::SpreadStreams { out, .. }
            | Op::SigmoidMul { out, .. }
            | Op::ScaleBySigmoid { out, .. }
            | Op::Add { out, .. }
            | Op::SelectOutputs { out, .. } => vec![*out],
        }
    }
}
