//! Puts blueprints together: the small pieces that architectures share.

use std::sync::Arc;

use moeflux_kernels::{AttentionShape, Piece, RopeStyle};

use super::{ExpertLayer, MatrixClass, VectorFold, WeightDecl, WeightKind};
use crate::graph::{BufferId, Graph, GraphBuilder, Op, StateDecl, StateId, WeightId};
use crate::models::lookahead;

/// Puts a blueprint together. Its methods emit the operations that several architectures share.
pub struct BlueprintBuilder {
    /// The graph so far.
    pub graph: GraphBuilder,
    weights: Vec<WeightDecl>,
    pub(in crate::models) experts: Vec<ExpertLayer>,
    /// Elements of the residual stream.
    pub hidden: usize,
    /// Of every norm.
    pub eps: f32,
    /// How norm weights are stored.
    pub norm_fold: VectorFold,
    /// What an expert's gate, up and down matrices are called.
    pub expert_matrices: [&'static str; 3],
    /// Whether a tensor of all experts holds them transposed, rows of gate and up in turn.
    pub has_turned_experts: bool,
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
            has_turned_experts: false,
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

    /// Declares a table that is read by rows; `name` is without `.weight`.
    pub fn table(&mut self, name: impl Into<String>, rows: usize, cols: usize) -> WeightId {
        self.weight(name.into(), WeightKind::Table { rows, cols })
    }

    /// Declares a piece of state.
    pub fn state(&mut self, decl: StateDecl) -> StateId {
        self.graph.state(decl)
    }

    /// Token embeddings; gives the residual stream and the table.
    pub fn embed(&mut self, vocab: usize) -> (BufferId, WeightId) {
        self.embed_as("embed_tokens", vocab)
    }

    /// The same by a table of another name.
    pub fn embed_as(&mut self, name: &str, vocab: usize) -> (BufferId, WeightId) {
        let weight = self.matrix(name, vocab, self.hidden, MatrixClass::Embedding);
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
        self.rope_scaled(x, head_dim, (inv_freq, 1.0))
    }

    /// The same with a factor on sine and cosine.
    pub fn rope_scaled(
        &mut self,
        x: BufferId,
        head_dim: usize,
        (inv_freq, attention_scale): (&Arc<[f32]>, f32),
    ) -> BufferId {
        let width = self.graph.width(x);
        let out = self.graph.buffer("rotated", width);
        self.graph.push(Op::Rope {
            x,
            heads: width / head_dim,
            head_dim,
            inv_freq: Arc::clone(inv_freq),
            attention_scale,
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
            is_joint: k == v,
            stride: 1,
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
        self.logits_of(last, vocab, tied, "lm_head")
    }

    /// The same of rows that are selected already; `head` is the projection's name.
    pub fn logits_of(
        &mut self,
        last: BufferId,
        vocab: usize,
        tied: Option<WeightId>,
        head: &str,
    ) -> BufferId {
        let weight = self.vector("norm.weight", &[self.hidden], self.norm_fold);
        let normed = self.graph.output_buffer("last normed", self.hidden);
        self.graph.push(Op::RmsNorm {
            x: last,
            weight,
            eps: self.eps,
            out: normed,
        });
        self.head_of(normed, vocab, tied, head)
    }

    /// The output projection alone.
    pub fn head_of(
        &mut self,
        x: BufferId,
        vocab: usize,
        tied: Option<WeightId>,
        head: &str,
    ) -> BufferId {
        let head = tied.unwrap_or_else(|| self.matrix(head, vocab, self.hidden, MatrixClass::Head));
        let logits = self.graph.output_buffer("logits", vocab);
        self.graph.push(Op::Matmul {
            x,
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
