//! The least work of a step, operation by operation: bytes that memory has to deliver, and
//! multiply-adds. Floors are computed from it, and profiles divided by it.
//!
//! Buffers between operations are left out: they are small beside the weights and stay in the
//! processor's caches.

mod names;

use std::collections::BTreeMap;

use moeflux_formats::Codec;
use moeflux_kernels::KvType;

use crate::graph::{BufferId, EntryOp, Op, Rows, StateDecl, StateId, StreamOp};
use crate::models::{Blueprint, ExpertLayer, WeightKind};
use crate::weights::{ExpertLayout, Weights};
use names::{joined, without_layer};

/// Bytes of an element of a table of rows, as they are published: binary16 or bfloat16.
const TABLE_ELEMENT_BYTES: u64 = 2;

/// The shape of one step of one session.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepShape {
    /// Tokens of the session before the step.
    pub start: usize,
    /// Tokens of the step.
    pub tokens: usize,
    /// Positions whose logits are wanted.
    pub outputs: usize,
    /// Distinct experts that the step's tokens use in a layer, in the mean.
    pub experts: f64,
}

/// Work that no implementation can do without.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Bytes of weights and state, read or written.
    pub bytes: f64,
    /// Multiply-adds in weight matrices.
    pub multiply_adds: f64,
    /// Multiply-adds in attention and recurrences, always in f32.
    pub float_multiply_adds: f64,
}

impl std::ops::AddAssign for Work {
    fn add_assign(&mut self, other: Work) {
        self.bytes += other.bytes;
        self.multiply_adds += other.multiply_adds;
        self.float_multiply_adds += other.float_multiply_adds;
    }
}

/// Which arithmetic a product with a weight matrix takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProductKind {
    /// How the weights are coded.
    pub codec: Codec,
    /// Whether activations stay f32 whatever the codec (routers and gates).
    pub exact: bool,
}

/// What an operation costs at least.
#[derive(Clone, Debug)]
pub struct OpCost {
    /// The operation and its matrices without their layer: `matmul self_attn.{q,k,v}_proj`. The
    /// same for the same operation in every layer.
    pub name: String,
    /// Products with weight matrices: multiply-adds a row by kind.
    pub products: Vec<(ProductKind, u64)>,
    /// Whether the operation has a row for each wanted position instead of each token.
    outputs: bool,
    /// Bytes of resident weights, read once a step.
    weight_bytes: u64,
    /// Bytes for each row: of an embedding, or of keys and values written.
    row_bytes: u64,
    /// Bytes of recurrent state, read and written once a step.
    state_bytes: u64,
    /// Bytes of keys and values of a position, read once a step.
    position_bytes: u64,
    /// Bytes of one routed expert.
    expert_bytes: u64,
    /// Positions that a token attends to; `None`: all.
    window: Option<usize>,
    /// Multiply-adds for each token, in f32.
    token_floats: u64,
    /// Multiply-adds for each pair of a token and a position it attends to, in f32.
    pair_floats: u64,
    /// Entries that stand for windows of positions.
    entries: Option<EntryCost>,
}

/// What entries cost a token that has to do with them.
#[derive(Clone, Copy, Debug)]
struct EntryCost {
    /// Positions that an entry stands for.
    rate: usize,
    /// Entries that a token meets at most.
    most: usize,
    /// With no more than these it has nothing to do.
    least: usize,
    /// Bytes of an entry, read once a step.
    bytes: u64,
    /// Multiply-adds for each pair of a token and an entry, in f32.
    floats: u64,
}

impl EntryCost {
    fn work(&self, step: StepShape) -> Work {
        let met = |position: usize| match (position + 1) / self.rate.max(1) {
            complete if complete <= self.least => 0,
            complete => complete.min(self.most),
        };
        let end = step.start + step.tokens;
        let pairs: usize = (step.start..end).map(met).sum();
        Work {
            bytes: (self.bytes * pairs.min(end / self.rate.max(1)) as u64) as f64,
            float_multiply_adds: self.floats as f64 * pairs as f64,
            ..Work::default()
        }
    }
}

impl OpCost {
    /// The work in a step.
    pub fn work(&self, step: StepShape) -> Work {
        let rows = self.rows(step) as f64;
        if rows == 0.0 {
            return Work::default();
        }
        let seen = |position: usize| self.window.map_or(position + 1, |w| w.min(position + 1));
        let end = step.start + step.tokens;
        let pairs = (step.start..end).map(seen).sum::<usize>() as f64;
        let positions = (seen(step.start) + step.tokens - 1) as f64;
        let mut work = self.entries.map_or_else(Work::default, |e| e.work(step));
        work += Work {
            bytes: self.weight_bytes as f64
                + self.row_bytes as f64 * rows
                + self.state_bytes as f64
                + self.position_bytes as f64 * positions
                + self.expert_bytes as f64 * step.experts,
            multiply_adds: self.products.iter().map(|p| p.1 as f64 * rows).sum(),
            float_multiply_adds: self.token_floats as f64 * rows + self.pair_floats as f64 * pairs,
        };
        work
    }

    /// Rows that the operation computes in a step.
    pub fn rows(&self, step: StepShape) -> usize {
        if self.outputs {
            step.outputs
        } else {
            step.tokens
        }
    }

    /// The codecs of the operation's matrices, or nothing.
    pub fn codecs(&self) -> String {
        let mut names: Vec<String> = Vec::new();
        for (kind, _) in &self.products {
            let name = kind.codec.to_string();
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.join("+")
    }
}

/// The costs of a model's operations, in order.
pub(crate) fn of(
    blueprint: &Blueprint,
    weights: &Weights,
    experts: &BTreeMap<usize, ExpertLayout>,
    kv_type: KvType,
) -> Vec<OpCost> {
    let model = Model {
        blueprint,
        weights,
        experts,
        kv_type,
    };
    let ops = blueprint.graph.ops.iter();
    ops.map(|op| model.cost(op)).collect()
}

struct Model<'a> {
    blueprint: &'a Blueprint,
    weights: &'a Weights,
    experts: &'a BTreeMap<usize, ExpertLayout>,
    kv_type: KvType,
}

impl Model<'_> {
    fn cost(&self, op: &Op) -> OpCost {
        let mut cost = self.resident(op);
        match op {
            Op::Embed { weight, .. } => {
                let rows = match self.blueprint.weights[weight.index()].kind {
                    WeightKind::Matrix { rows, .. } => rows as u64,
                    WeightKind::Vector { .. } | WeightKind::Table { .. } => 1,
                };
                cost.row_bytes = cost.weight_bytes / rows.max(1);
                cost.weight_bytes = 0;
                cost.products.clear();
                cost.name = op.name().to_owned();
            }
            Op::Experts { layer, top_k, .. } => self.routed(*layer, *top_k, &mut cost),
            Op::Attention { state, shape, .. } => {
                cost.position_bytes = self.position_bytes(*state);
                cost.window = shape.window;
                cost.pair_floats = (2 * shape.heads * shape.head_dim) as u64;
            }
            Op::KvAppend { state, .. } => cost.row_bytes = self.position_bytes(*state),
            Op::Entries(EntryOp::Compress { .. })
            | Op::Entries(EntryOp::Choose { .. })
            | Op::Entries(EntryOp::SparseAttention { .. }) => {
                self.of_entries(op, &mut cost);
            }
            Op::NgramRows { out, .. } => cost.row_bytes = TABLE_ELEMENT_BYTES * self.width(*out),
            Op::Entries(EntryOp::BlockAttention {
                state,
                chosen,
                rate,
                shape,
                ..
            }) => {
                cost.position_bytes = self.position_bytes(*state);
                cost.window = Some((self.width(*chosen) as usize * rate).max(1));
                cost.pair_floats = (2 * shape.heads * shape.head_dim) as u64;
            }
            Op::Streams(StreamOp::Collapse { x, .. })
            | Op::Streams(StreamOp::Mean { x, .. })
            | Op::Streams(StreamOp::Mix { x, .. })
            | Op::Streams(StreamOp::Inject { x, .. }) => cost.token_floats = self.width(*x),
            Op::Streams(StreamOp::Gate { keys, .. }) => cost.token_floats = 2 * self.width(*keys),
            Op::Streams(StreamOp::Spread { x, rule, .. }) => {
                cost.token_floats = self.width(*x) * (rule.streams as u64 + 1);
            }
            Op::Conv1dSilu { state, .. } => cost.state_bytes = self.recurrent_bytes(*state),
            Op::GatedDelta { state, shape, .. } => {
                cost.state_bytes = self.recurrent_bytes(*state);
                // Keys meet the state, it is decayed and updated, queries meet it.
                let state = shape.value_heads * shape.key_dim * shape.value_dim;
                cost.token_floats = 3 * state as u64;
            }
            _ => {}
        }
        cost
    }

    /// What operations on entries cost.
    fn of_entries(&self, op: &Op, cost: &mut OpCost) {
        let entry = |state: StateId, rate: usize| EntryCost {
            rate,
            most: usize::MAX,
            least: 0,
            bytes: self.position_bytes(state) * rate as u64,
            floats: 0,
        };
        match op {
            Op::Entries(EntryOp::Compress { state, entries, .. }) => {
                cost.state_bytes = self.recurrent_bytes(*state);
                cost.row_bytes = self.position_bytes(*entries);
            }
            Op::Entries(EntryOp::Choose { entries, shape, .. }) => {
                cost.entries = Some(EntryCost {
                    least: shape.top_k,
                    floats: (shape.heads * shape.dim) as u64,
                    ..entry(*entries, shape.rate)
                });
            }
            Op::Entries(EntryOp::SparseAttention {
                state,
                entries,
                rate,
                chosen,
                shape,
                ..
            }) => {
                let floats = (2 * shape.heads * shape.head_dim) as u64;
                cost.position_bytes = self.position_bytes(*state);
                (cost.window, cost.pair_floats) = (shape.window, floats);
                let most = chosen.map_or(usize::MAX, |ids| self.width(ids) as usize);
                cost.entries = Some(EntryCost {
                    most,
                    floats,
                    ..entry(*entries, *rate)
                });
            }
            _ => {}
        }
    }

    /// Elements of a buffer's row.
    fn width(&self, buffer: BufferId) -> u64 {
        self.blueprint.graph.buffers[buffer.index()].width as u64
    }

    /// The part that follows from the operation's resident weights.
    fn resident(&self, op: &Op) -> OpCost {
        let exact = matches!(op, Op::Matmul { exact: true, .. } | Op::HeadMatmul { .. });
        // Of a head's rows, those that the operation uses.
        let (used, of) = match op {
            Op::HeadMatmul { shape, .. } => (shape.rows, shape.stride.max(1)),
            _ => (1, 1),
        };
        let (mut weight_bytes, mut names) = (0, Vec::new());
        let mut products = Vec::new();
        for id in op.weights() {
            let decl = &self.blueprint.weights[id.index()];
            match (&decl.kind, self.weights.layout(id)) {
                (WeightKind::Matrix { rows, cols, .. }, Some(layout)) => {
                    let codec = layout.codec();
                    weight_bytes += (layout.bytes() * used / of) as u64;
                    names.push(without_layer(&decl.name));
                    let used = rows * cols * used / of;
                    add(&mut products, ProductKind { codec, exact }, used);
                }
                (WeightKind::Vector { shape, fold }, _) => {
                    weight_bytes += 4 * fold.elements(shape) as u64;
                }
                _ => {}
            }
        }
        let name = match names.is_empty() {
            true => op.name().to_owned(),
            false => format!("{} {}", op.name(), joined(&names)),
        };
        let graph = &self.blueprint.graph;
        let first = op.writes().first().copied();
        OpCost {
            name,
            products,
            outputs: first.is_some_and(|out| graph.buffers[out.index()].rows == Rows::Outputs),
            weight_bytes,
            row_bytes: 0,
            state_bytes: 0,
            position_bytes: 0,
            expert_bytes: 0,
            window: None,
            token_floats: 0,
            pair_floats: 0,
            entries: None,
        }
    }

    fn routed(&self, layer: usize, top_k: usize, cost: &mut OpCost) {
        let found = self.blueprint.experts.iter().find(|e| e.layer == layer);
        let (Some(layout), Some(shape)) = (self.experts.get(&layer), found) else {
            return;
        };
        let &ExpertLayer {
            experts,
            hidden,
            intermediate,
            ..
        } = shape;
        // What is resident of them, biases, is read by expert too.
        let biases = std::mem::take(&mut cost.weight_bytes) / experts.max(1) as u64;
        cost.expert_bytes = layout.bytes() as u64 + biases;
        for matrix in [&layout.gate, &layout.up, &layout.down] {
            let codec = matrix.codec();
            let kind = ProductKind {
                codec,
                exact: false,
            };
            add(&mut cost.products, kind, hidden * intermediate * top_k);
        }
    }

    fn position_bytes(&self, state: StateId) -> u64 {
        let state = self.blueprint.graph.states.get(state.index());
        state.map_or(0, |state| state.position_bytes(self.kv_type))
    }

    fn recurrent_bytes(&self, state: StateId) -> u64 {
        match self.blueprint.graph.states.get(state.index()) {
            Some(StateDecl::Recurrent { len }) => 2 * 4 * *len as u64,
            _ => 0,
        }
    }
}

fn add(products: &mut Vec<(ProductKind, u64)>, kind: ProductKind, multiply_adds: usize) {
    match products.iter_mut().find(|(known, _)| *known == kind) {
        Some((_, sum)) => *sum += multiply_adds as u64,
        None => products.push((kind, multiply_adds as u64)),
    }
}
