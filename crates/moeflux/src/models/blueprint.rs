//! What follows from a model's configuration alone: its graph, the weights it needs and the state
//! it carries. Loading, packing and inspecting all work from this one description.

mod builder;

pub use builder::BlueprintBuilder;

use crate::graph::Graph;

/// What a matrix does, which decides how many bits it keeps when packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MatrixClass {
    /// Token embeddings: one row is read a token.
    Embedding,
    /// Output projection to the vocabulary.
    Head,
    /// Attention, recurrent and dense or shared MLP projections.
    Dense,
    /// Small projections that steer (router, gates, decays): kept in more bits and in f32 math.
    Sensitive,
}

/// What happens to a vector's values when it is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VectorFold {
    /// Nothing.
    None,
    /// One is added: the checkpoint stores the norm's weight minus one.
    AddOne,
    /// `[channels, 1, kernel]` (or without the 1) becomes `[kernel, channels]`.
    TransposeConv,
    /// `[channels, 1, kernel]` becomes `[(kernel - 1) * apart + 1, channels]`, with zeros between the
    /// taps: a convolution over every `apart`-th position.
    DilateConv {
        /// Positions from one tap to the next.
        apart: usize,
    },
    /// The logarithm of the negated value: the file stores `-exp` of it.
    LogOfNegated,
    /// The first of every two values.
    Even,
    /// The second of every two values.
    Odd,
    /// Whole numbers below `count`, of a tensor of integers.
    Numbers {
        /// Numbers that there are.
        count: usize,
    },
}

impl VectorFold {
    /// Values that remain of a tensor of `shape`.
    pub fn elements(self, shape: &[usize]) -> usize {
        let all: usize = shape.iter().product();
        match self {
            VectorFold::Even | VectorFold::Odd => all / 2,
            VectorFold::DilateConv { apart } => {
                let kernel = shape.last().copied().unwrap_or(1).max(1);
                all / kernel * ((kernel - 1) * apart + 1)
            }
            _ => all,
        }
    }
}

/// Whether a weight is a matrix, which may be coded, or a vector, which becomes f32.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WeightKind {
    /// `[rows, cols]`.
    Matrix {
        /// Output elements.
        rows: usize,
        /// Input elements.
        cols: usize,
        /// What it does.
        class: MatrixClass,
    },
    /// `[rows, cols]`, too large for memory: rows are read when they are needed. In one tensor, or
    /// in tensors `shard_0`, `shard_1` and so on, one after another.
    Table {
        /// Rows of all tensors.
        rows: usize,
        /// Elements of a row.
        cols: usize,
    },
    /// A tensor of any shape, small.
    Vector {
        /// Its shape in the checkpoint.
        shape: Vec<usize>,
        /// What happens to its values.
        fold: VectorFold,
    },
}

/// A resident weight.
#[derive(Clone, Debug)]
pub struct WeightDecl {
    /// Its tensor's name in the checkpoint without the model's prefix; of a matrix without
    /// `.weight`.
    pub name: String,
    /// What it is.
    pub kind: WeightKind,
}

/// The routed experts of one layer. Each is `down(act(gate x, up x))`.
#[derive(Clone, Debug)]
pub struct ExpertLayer {
    /// The layer.
    pub layer: usize,
    /// What their tensors' names begin with, without the model's prefix: `layers.3.mlp.experts`.
    pub name: String,
    /// What an expert's gate, up and down matrices are called in a checkpoint.
    pub matrices: [&'static str; 3],
    /// Whether a tensor of all experts holds them transposed, rows of gate and up in turn.
    pub is_turned: bool,
    /// Number of experts.
    pub experts: usize,
    /// Input and output elements.
    pub hidden: usize,
    /// Elements in between.
    pub intermediate: usize,
}

/// A model as its configuration describes it.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// The configuration's `model_type`.
    pub model_type: String,
    /// Elements of the residual stream.
    pub hidden: usize,
    /// Number of layers.
    pub layers: usize,
    /// Rows of the embedding table.
    pub vocab: usize,
    /// The longest sequence that the model was made for.
    pub context_tokens: usize,
    /// Routed experts that a token uses in each layer of experts.
    pub top_k: usize,
    /// The computation.
    pub graph: Graph,
    /// The resident weights, by [`WeightId`](crate::graph::WeightId).
    pub weights: Vec<WeightDecl>,
    /// The layers with routed experts.
    pub experts: Vec<ExpertLayer>,
    /// Prefixes that the weights' names may have; the first one that fits is taken.
    pub prefixes: &'static [&'static str],
    /// Beginnings of names of tensors that are left out on purpose, and what they are.
    pub skipped: Vec<(String, &'static str)>,
}

impl Blueprint {
    /// Weights in all tensors.
    pub fn parameters(&self) -> u64 {
        let resident = self.weights.iter().map(|decl| match &decl.kind {
            WeightKind::Matrix { rows, cols, .. } | WeightKind::Table { rows, cols } => {
                (rows * cols) as u64
            }
            WeightKind::Vector {
                shape,
                fold: VectorFold::DilateConv { .. },
            } => shape.iter().product::<usize>() as u64,
            WeightKind::Vector { shape, fold } => fold.elements(shape) as u64,
        });
        let routed = self.experts.iter();
        let routed = routed.map(|e| (e.experts * 3 * e.hidden * e.intermediate) as u64);
        resident.sum::<u64>() + routed.sum::<u64>()
    }
}

impl Blueprint {
    /// Leaves out `extra` layers behind the model's own: a multi-token prediction head.
    pub(super) fn without_extra_layers(mut self, extra: usize) -> Blueprint {
        let extra = self.layers..self.layers.saturating_add(extra.min(MOST_EXTRA_LAYERS));
        for layer in extra {
            let names = self.prefixes.iter();
            let names = names.map(|prefix| format!("{prefix}layers.{layer}."));
            let what = "multi-token prediction head";
            self.skipped.extend(names.map(|name| (name, what)));
        }
        self
    }
}

/// More layers of a multi-token prediction head are a mistake in the file.
const MOST_EXTRA_LAYERS: usize = 64;
