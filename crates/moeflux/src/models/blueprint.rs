//! What follows from a model's configuration alone: its graph, the weights it needs and the state
//! it carries. Loading, packing and inspecting all work from this one description.

use std::sync::Arc;

use moeflux_kernels::{AttentionShape, Piece, RopeStyle};

use super::lookahead;
use crate::graph::{BufferId, Graph, GraphBuilder, Op, StateDecl, StateId, WeightId};

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
    /// The logarithm of the negated value: the file stores `-exp` of it.
    LogOfNegated,
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

/// The routed experts of one layer. Each is `down(silu(gate x) * (up x))`.
#[derive(Clone, Debug)]
pub struct ExpertLayer {
    /// The layer.
    pub layer: usize,
    /// What their tensors' names begin with, without the model's prefix: `layers.3.mlp.experts`.
    pub name: String,
    /// What an expert's gate, up and down matrices are called in a checkpoint.
    pub matrices: [&'static str; 3],
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
    /// The resident weights, by [`WeightId`].
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
            WeightKind::Matrix { rows, cols, .. } => (rows * cols) as u64,
            WeightKind::Vector { shape, .. } => shape.iter().product::<usize>() as u64,
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
        let name = |layer| format!("model.layers.{layer}.");
        self.skipped
            .extend(extra.map(|layer| (name(layer), "multi-token prediction head")));
        self
    }
}

/// More layers of a multi-token prediction head are a mistake in the file.
const MOST_EXTRA_LAYERS: usize = 64;

/// Puts a blueprint together. Its methods emit the operations that several architectures share.
pub struct BlueprintBuilder {
    /// The graph so far.
    pub graph: GraphBuilder,
    weights: Vec<WeightDecl>,
    pub(super) experts: Vec<ExpertLayer>,
    /// Elements of the residual stream.
    pub hidden: usize,
    /// Of every norm.
    pub eps: f32,
    /// How norm weights are stored.
    pub norm_fold: VectorFold,
    /// What an expert's gate, up and down matrices are called.
    pub expert_matrices: [&'static str; 3],
}

impl BlueprintBuilder {
    /// An empty blueprint.
    pub fn new(hidden: usize, eps: f32, norm_fold: VectorFold) -> BlueprintBuilder {
        BlueprintBuilder {
            graph: GraphBuilder::default(),
            weights: Vec::new(),
            experts: Vec::new(),
            hidden,
            eps,
            norm_fold,
            expert_matrices: ["gate_proj", "up_proj", "down_proj"],
        }
    }

    fn weight(&mut self, name: String, kind: WeightKind) -> WeightId {
        self.weights.push(WeightDecl { name, kind });
        WeightId(self.weights.len() as u32 - 1)
    }

    /// Declares a matrix; `name` is without `.weight`.
    pub fn matrix(
        &mut self,
        name: impl Into<String>,
        rows: usize,
        cols: usize,
        class: MatrixClass,
    ) -> WeightId {
        self.weight(name.into(), WeightKind::Matrix { rows, cols, class })
    }

    /// Declares a vector (or any small tensor); `name` is whole.
    pub fn vector(
        &mut self,
        name: impl Into<String>,
        shape: &[usize],
        fold: VectorFold,
    ) -> WeightId {
        self.weight(
            name.into(),
            WeightKind::Vector {
                shape: shape.to_vec(),
                fold,
            },
        )
    }

    /// Declares a piece of state.
    pub fn state(&mut self, decl: StateDecl) -> StateId {
        self.graph.state(decl)
    }

    /// Token embeddings; gives the residual stream and the table.
    pub fn embed(&mut self, vocab: usize) -> (BufferId, WeightId) {
        let weight = self.matrix("embed_tokens", vocab, self.hidden, MatrixClass::Embedding);
        let out = self.graph.buffer("hidden", self.hidden);
        self.graph.push(Op::Embed { weight, out });
        (out, weight)
    }

    /// RMSNorm of `x` in pieces of `len` with the weight `name`.
    pub fn rms_norm(
        &mut self,
        x: BufferId,
        name: String,
        len: usize,
        label: &'static str,
    ) -> BufferId {
        let eps = self.eps;
        self.rms_norm_with(x, name, (len, eps), label)
    }

    /// The same with an epsilon of its own.
    pub fn rms_norm_with(
        &mut self,
        x: BufferId,
        name: String,
        (len, eps): (usize, f32),
        label: &'static str,
    ) -> BufferId {
        let weight = self.vector(name, &[len], self.norm_fold);
        let out = self.graph.buffer(label, self.graph.width(x));
        self.graph.push(Op::RmsNorm {
            x,
            weight,
            eps,
            out,
        });
        out
    }

    /// Products of `x` with several matrices of the same class, `(name, rows, label)` each.
    pub fn project<const N: usize>(
        &mut self,
        x: BufferId,
        class: MatrixClass,
        matrices: [(String, usize, &'static str); N],
    ) -> [BufferId; N] {
        let cols = self.graph.width(x);
        let outputs = matrices.map(|(name, rows, label)| {
            (
                self.matrix(name, rows, cols, class),
                self.graph.buffer(label, rows),
            )
        });
        let exact = class == MatrixClass::Sensitive;
        self.graph.push(Op::Matmul {
            x,
            outputs: outputs.to_vec(),
            exact,
        });
        outputs.map(|(_, out)| out)
    }

    /// `x` plus the vector `name`.
    pub fn add_bias(&mut self, x: BufferId, name: String, label: &'static str) -> BufferId {
        let width = self.graph.width(x);
        let bias = self.vector(name, &[width], VectorFold::None);
        let out = self.graph.buffer(label, width);
        self.graph.push(Op::AddBias { x, bias, out });
        out
    }

    /// `pieces` of `inputs`, each input named by its place there, one after another.
    pub fn rearrange(
        &mut self,
        inputs: &[BufferId],
        pieces: impl Iterator<Item = Piece>,
        label: &'static str,
    ) -> BufferId {
        let pieces: Arc<[Piece]> = pieces.collect();
        let out = self
            .graph
            .buffer(label, pieces.iter().map(|piece| piece.len).sum());
        self.graph.push(Op::Rearrange {
            inputs: inputs.to_vec(),
            pieces,
            out,
        });
        out
    }

    /// Rotary embedding over the first `2 * inv_freq.len()` elements of each head, half-split.
    pub fn rope(&mut self, x: BufferId, head_dim: usize, inv_freq: &Arc<[f32]>) -> BufferId {
        let width = self.graph.width(x);
        let out = self.graph.buffer("rotated", width);
        self.graph.push(Op::Rope {
            x,
            heads: width / head_dim,
            head_dim,
            inv_freq: Arc::clone(inv_freq),
            attention_scale: 1.0,
            style: RopeStyle::HalfSplit,
            out,
        });
        out
    }

    /// Appends keys and values to a cache and attends over it, scores divided by
    /// `sqrt(head_dim)`.
    pub fn attention(
        &mut self,
        (q, k, v): (BufferId, BufferId, BufferId),
        heads: usize,
        kv_heads: usize,
        head_dim: usize,
    ) -> BufferId {
        let scale = (1.0 / (head_dim as f64).sqrt()) as f32;
        let shape = AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale,
            window: None,
        };
        self.attention_with((q, k, v), shape, None)
    }

    /// The same in any shape; where keys are the values too, they are kept once.
    pub fn attention_with(
        &mut self,
        (q, k, v): (BufferId, BufferId, BufferId),
        shape: AttentionShape,
        sinks: Option<WeightId>,
    ) -> BufferId {
        let state = self.state(StateDecl::KeyValue {
            kv_heads: shape.kv_heads,
            head_dim: shape.head_dim,
            window: shape.window,
            is_shared: k == v,
        });
        self.graph.push(Op::KvAppend { k, v, state });
        let out = self.graph.buffer("attended", shape.heads * shape.head_dim);
        self.graph.push(Op::Attention {
            q,
            state,
            shape,
            sinks,
            out,
        });
        out
    }

    /// A gated MLP: `down(silu(gate x) * (up x))`, its matrices' names beginning with `name`.
    pub fn mlp(&mut self, x: BufferId, name: &str, intermediate: usize) -> BufferId {
        let [gate, up] = self.project(
            x,
            MatrixClass::Dense,
            [
                (format!("{name}.gate_proj"), intermediate, "mlp gate"),
                (format!("{name}.up_proj"), intermediate, "mlp up"),
            ],
        );
        let act = self.graph.buffer("mlp activation", intermediate);
        self.graph.push(Op::Swiglu { gate, up, out: act });
        let hidden = self.hidden;
        let [down] = self.project(
            act,
            MatrixClass::Dense,
            [(format!("{name}.down_proj"), hidden, "mlp out")],
        );
        down
    }

    /// `a + b`.
    pub fn add(&mut self, a: BufferId, b: BufferId, label: &'static str) -> BufferId {
        let out = self.graph.buffer(label, self.graph.width(a));
        self.graph.push(Op::Add { a, b, out });
        out
    }

    /// Last norm and output projection; `tied` is the embedding table if it serves as that too.
    pub fn logits(&mut self, x: BufferId, vocab: usize, tied: Option<WeightId>) -> BufferId {
        let last = self.graph.output_buffer("last hidden", self.hidden);
        self.graph.push(Op::SelectOutputs { x, out: last });
        let weight = self.vector("norm.weight", &[self.hidden], self.norm_fold);
        let normed = self.graph.output_buffer("last normed", self.hidden);
        self.graph.push(Op::RmsNorm {
            x: last,
            weight,
            eps: self.eps,
            out: normed,
        });
        let head =
            tied.unwrap_or_else(|| self.matrix("lm_head", vocab, self.hidden, MatrixClass::Head));
        let logits = self.graph.output_buffer("logits", vocab);
        self.graph.push(Op::Matmul {
            x: normed,
            outputs: vec![(head, logits)],
            exact: false,
        });
        logits
    }

    /// The parts: graph, weights and expert layers.
    pub fn finish(self, logits: BufferId) -> (Graph, Vec<WeightDecl>, Vec<ExpertLayer>) {
        let mut graph = self.graph.finish(logits);
        lookahead::insert(&mut graph);
        (graph, self.weights, self.experts)
    }
}
