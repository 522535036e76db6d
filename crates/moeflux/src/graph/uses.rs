//! What each operation reads and writes.

use moeflux_kernels::{Decay, RopeStyle, Scores};

use super::{BufferId, ExpertForm, Op, WeightId};

impl Op {
    /// The op's name, for reports.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Embed { .. } => "embed",
            Op::NgramRows { .. } => "ngram_rows",
            Op::RmsNorm { .. } => "rms_norm",
            Op::RmsNormalize { .. } => "rms_normalize",
            Op::LayerNorm { .. } => "layer_norm",
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
            Op::Conv1dSilu { .. } => "conv1d_silu",
            Op::GatedDelta { shape, .. } => match shape.decay {
                Decay::Head => "gated_delta",
                Decay::Key => "keyed_delta",
                Decay::BoundedKey(_) => "bounded_delta",
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
            Op::AddBias { .. } => "add_bias",
            Op::Add { .. } => "add",
            Op::SelectOutputs { .. } => "select_outputs",
            Op::Entries(op) => op.name(),
            Op::Streams(op) => op.name(),
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
            Op::NgramRows { table, .. } => vec![*table],
            Op::AddBias { bias, .. } => vec![*bias],
            Op::Experts { form, .. } => form.biases.iter().flatten().copied().collect(),
            Op::Attention { sinks, .. } => sinks.iter().copied().collect(),
            Op::Entries(op) => op.weights(),
            Op::Streams(op) => op.weights(),
            Op::LayerNorm {
                weight_and_bias, ..
            } => weight_and_bias.to_vec(),
            Op::TokenRouter { table, .. } => vec![*table],
            Op::GroupedRouter { bias, .. } => bias.iter().copied().collect(),
            Op::Matmul { outputs, .. } => outputs.iter().map(|&(weight, _)| weight).collect(),
            Op::GatedDelta { a_log, dt_bias, .. } => vec![*a_log, *dt_bias],
            Op::SplitPairs { .. }
            | Op::RmsNormalize { .. }
            | Op::Rearrange { .. }
            | Op::Rope { .. }
            | Op::KvAppend { .. }
            | Op::Router { .. }
            | Op::RequestExperts { .. }
            | Op::Lookahead { .. }
            | Op::Swiglu { .. }
            | Op::Glu { .. }
            | Op::SigmoidMul { .. }
            | Op::ScaleBySigmoid { .. }
            | Op::Add { .. }
            | Op::SelectOutputs { .. } => vec![],
        }
    }

    /// The buffers it reads.
    pub fn reads(&self) -> Vec<BufferId> {
        match self {
            Op::Embed { .. } | Op::NgramRows { .. } => vec![],
            Op::RmsNorm { x, .. }
            | Op::RmsNormalize { x, .. }
            | Op::LayerNorm { x, .. }
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
            Op::Entries(op) => op.reads(),
            Op::Streams(op) => op.reads(),
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
            Op::Entries(op) => op.out().into_iter().collect(),
            Op::Streams(op) => vec![op.out()],
            Op::Router { ids, weights, .. }
            | Op::GroupedRouter { ids, weights, .. }
            | Op::TokenRouter { ids, weights, .. } => vec![*ids, *weights],
            Op::KvAppend { .. } | Op::RequestExperts { .. } | Op::Lookahead { .. } => vec![],
            Op::Embed { out, .. }
            | Op::NgramRows { out, .. }
            | Op::RmsNorm { out, .. }
            | Op::RmsNormalize { out, .. }
            | Op::LayerNorm { out, .. }
            | Op::RmsNormGated { out, .. }
            | Op::Rope { out, .. }
            | Op::Rearrange { out, .. }
            | Op::HeadMatmul { out, .. }
            | Op::AddBias { out, .. }
            | Op::Attention { out, .. }
            | Op::Conv1dSilu { out, .. }
            | Op::GatedDelta { out, .. }
            | Op::Experts { out, .. }
            | Op::Swiglu { out, .. }
            | Op::Glu { out, .. }
            | Op::SigmoidMul { out, .. }
            | Op::ScaleBySigmoid { out, .. }
            | Op::Add { out, .. }
            | Op::SelectOutputs { out, .. } => vec![*out],
        }
    }
}
