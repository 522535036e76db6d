//! Operations on entries that stand for windows of positions, over several steps.

use std::sync::Arc;

use moeflux::graph::{
    BufferId, EntryForm, EntryOp, GraphBuilder, Op, StateDecl, StateId, WeightId,
};
use moeflux::kernels::{AttentionShape, CompressShape, IndexShape, RopeStyle};
use moeflux::weights::WeightPart;

use super::{graph_of, inputs};
use crate::{Case, Random};

/// Allowed where an entry may be rounded to binary16 the other way.
const ROUNDED: f64 = 1e-3;

/// A graph that makes entries, and what it is fed with.
struct Entries {
    graph: GraphBuilder,
    weights: Vec<WeightPart>,
    /// Buffers with their widths and scales.
    data: Vec<(BufferId, usize, f32)>,
    rate: usize,
    dim: usize,
    state: StateId,
}

/// Entries of windows of any length, with the windows before them or without.
fn entries(random: &mut Random, dim: usize) -> Entries {
    let shape = CompressShape {
        rate: random.within(1, 9),
        dim,
        overlaps: random.one_of(&[false, true]),
    };
    let pairs = random.within(0, dim / 2);
    entries_of(random, shape, Some(pairs))
}

/// The same of windows of some shape: normed, with pairs that rotate, or as they are pooled.
fn entries_of(random: &mut Random, shape: CompressShape, pairs: Option<usize>) -> Entries {
    let (rate, dim) = (shape.rate, shape.dim);
    let width = shape.width();
    let mut graph = GraphBuilder::default();
    let (values, gates) = (graph.buffer("values", width), graph.buffer("gates", width));
    let pools = graph.state(StateDecl::Recurrent {
        len: shape.state_len(),
    });
    let state = graph.state(StateDecl::entries(dim, rate));
    let frequency = |i: usize| 0.3_f64.powf(i as f64) as f32;
    let inv_freq: Arc<[f32]> = (0..pairs.unwrap_or(0)).map(frequency).collect();
    let weights = [rate * width, dim].map(|len| WeightPart::Vector(random.floats(len, 1.5)));
    graph.push(Op::Entries(EntryOp::Compress {
        values,
        gates: Some(gates),
        state: pools,
        entries: state,
        form: EntryForm {
            shape,
            bias: Some(WeightId::new(0)),
            norm: pairs.map(|_| WeightId::new(1)),
            eps: 1e-6,
            inv_freq,
            style: RopeStyle::InterleavedTail,
            attention_scale: 1.25,
        },
    }));
    Entries {
        graph,
        weights: weights.to_vec(),
        data: vec![(values, width, 1.0), (gates, width, 3.0)],
        rate,
        dim,
        state,
    }
}

/// Steps across the borders of windows, and some within one.
fn with_steps(random: &mut Random, mut case: Case, data: &[(BufferId, usize, f32)]) -> Case {
    case.tolerance.f32 = ROUNDED;
    for n in [1, random.within(30, 60), 1, random.within(30, 90)] {
        let data = inputs(random, n, data);
        case = case.step(n, data);
    }
    case
}

/// An index of entries of `dim` elements for `rate` positions each.
fn index(heads: usize, (dim, rate): (usize, usize), top_k: usize) -> IndexShape {
    IndexShape {
        heads,
        dim,
        rate,
        top_k,
    }
}

/// The choice of entries by queries, and weights of their heads.
fn choose(
    (q, weights): (BufferId, Option<BufferId>),
    entries: StateId,
    shape: IndexShape,
    out: BufferId,
) -> Op {
    Op::Entries(EntryOp::Choose {
        q,
        weights,
        entries,
        shape,
        out,
    })
}

/// Attention with the usual scale.
fn attention(
    (heads, kv_heads): (usize, usize),
    head_dim: usize,
    window: Option<usize>,
) -> AttentionShape {
    AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        window,
    }
}

/// Entries alone: the state is the result.
pub(super) fn compress(random: &mut Random) -> Case {
    let dim = random.within(1, 90);
    let made = entries(random, dim);
    let out = made.data[0].0;
    let mut case = Case::new("compress", made.graph.finish(out));
    case.weights = made.weights;
    with_steps(random, case, &made.data)
}

/// The entries that score best.
pub(super) fn choose_entries(random: &mut Random) -> Case {
    let dim = random.within(1, 60);
    let Entries {
        mut graph,
        weights: vectors,
        mut data,
        rate,
        dim,
        state,
    } = entries(random, dim);
    let (heads, top_k) = (random.within(8, 12), random.within(1, 12));
    let q = graph.buffer("q", heads * dim);
    let weights = graph.buffer("weights", heads);
    let out = graph.buffer("chosen", top_k);
    data.extend([(q, heads * dim, 1.0), (weights, heads, 1.0)]);
    let shape = index(heads, (dim, rate), top_k);
    let op = choose((q, Some(weights)), state, shape, out);
    let mut case = Case::new("choose_entries", graph_of(graph, op, out));
    case.weights = vectors;
    with_steps(random, case, &data)
}

/// Attention to a window and to all entries, or to those that an index has chosen.
pub(super) fn sparse_attention(random: &mut Random, is_indexed: bool) -> Case {
    let head_dim = 8 * random.within(1, 10);
    let mut made = entries(random, head_dim);
    let (heads, top_k) = (random.within(1, 20), random.within(1, 12));
    let width = heads * head_dim;
    let g = &mut made.graph;
    let (q, kv) = (g.buffer("q", width), g.buffer("kv", head_dim));
    made.data.extend([(q, width, 1.0), (kv, head_dim, 2.0)]);
    let chosen = is_indexed.then(|| {
        let weights = g.buffer("weights", heads);
        made.data.push((weights, heads, 1.0));
        let out = g.buffer("chosen", top_k);
        let shape = index(heads, (made.dim, made.rate), top_k);
        g.push(choose((q, Some(weights)), made.state, shape, out));
        out
    });
    let window = Some(random.within(1, 80));
    let state = g.state(StateDecl::KeyValue {
        kv_heads: 1,
        head_dim,
        window,
        is_joint: true,
        stride: 1,
    });
    g.push(Op::KvAppend {
        k: kv,
        v: kv,
        state,
    });
    let out = g.buffer("out", width);
    let op = Op::Entries(EntryOp::SparseAttention {
        q,
        state,
        entries: made.state,
        rate: made.rate,
        chosen,
        shape: attention((heads, 1), head_dim, window),
        sinks: Some(WeightId::new(2)),
        out,
    });
    made.weights
        .push(WeightPart::Vector(random.floats(heads, 3.0)));
    let kind = if is_indexed { "chosen" } else { "all" };
    let name = format!("attention to a window and {kind} entries");
    let mut case = Case::new(name, graph_of(made.graph, op, out));
    case.weights = made.weights;
    with_steps(random, case, &made.data)
}

/// Entries that are the means of blocks, normed and rotated; the norm is weight 0.
fn means(
    random: &mut Random,
    g: &mut GraphBuilder,
    values: BufferId,
    (rate, dim): (usize, usize),
) -> StateId {
    let shape = CompressShape {
        rate,
        dim,
        overlaps: false,
    };
    let len = shape.state_len();
    let pools = g.state(StateDecl::Recurrent { len });
    let entries = g.state(StateDecl::entries(dim, rate));
    let pairs = random.within(0, dim / 2);
    let frequency = |i: usize| 0.3_f64.powf(i as f64) as f32;
    g.push(Op::Entries(EntryOp::Compress {
        values,
        gates: None,
        state: pools,
        entries,
        form: EntryForm {
            shape,
            bias: None,
            norm: Some(WeightId::new(0)),
            eps: 1e-6,
            inv_freq: (0..pairs).map(frequency).collect(),
            style: RopeStyle::HalfSplit,
            attention_scale: 1.0,
        },
    }));
    entries
}

/// Attention to the blocks that an index has chosen, whose keys are plain means.
pub(super) fn block_attention(random: &mut Random) -> Case {
    let (rate, top_k) = (random.within(1, 9), random.within(1, 12));
    let (index_heads, dim) = (random.within(8, 12), random.within(2, 60));
    let (kv_heads, head_dim) = (random.within(1, 3), 8 * random.within(1, 6));
    let heads = kv_heads * random.within(1, 4);
    let (width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let mut g = GraphBuilder::default();
    let (values, index_q) = (
        g.buffer("values", dim),
        g.buffer("index q", index_heads * dim),
    );
    let (q, k, v) = (
        g.buffer("q", width),
        g.buffer("k", kv_width),
        g.buffer("v", kv_width),
    );
    let entries = means(random, &mut g, values, (rate, dim));
    let chosen = g.buffer("chosen", top_k);
    let shape = index(index_heads, (dim, rate), top_k);
    g.push(choose((index_q, None), entries, shape, chosen));
    let state = g.state(StateDecl::key_value(kv_heads, head_dim));
    g.push(Op::KvAppend { k, v, state });
    let out = g.buffer("out", width);
    let op = Op::Entries(EntryOp::BlockAttention {
        q,
        state,
        chosen,
        rate,
        shape: attention((heads, kv_heads), head_dim, None),
        out,
    });
    let mut case = Case::new("attention to chosen blocks", graph_of(g, op, out));
    case.weights = vec![WeightPart::Vector(random.floats(dim, 1.5))];
    let data = [
        (values, dim, 1.0),
        (index_q, index_heads * dim, 1.0),
        (q, width, 1.0),
        (k, kv_width, 2.0),
        (v, kv_width, 2.0),
    ];
    with_steps(random, case, &data)
}

/// The same where keys are the values too, and the index has its keys as they are pooled.
pub(super) fn latent_block_attention(random: &mut Random) -> Case {
    let (rate, dim) = (random.within(1, 9), random.within(1, 60));
    let overlaps = false;
    let windows = CompressShape {
        rate,
        dim,
        overlaps,
    };
    let mut made = entries_of(random, windows, None);
    let (index_heads, top_k) = (random.within(8, 12), random.within(1, 6));
    let (heads, head_dim) = (random.within(1, 20), 8 * random.within(1, 10));
    let (index_width, width) = (index_heads * dim, heads * head_dim);
    let g = &mut made.graph;
    let index_q = g.buffer("index q", index_width);
    let weights = g.buffer("weights", index_heads);
    let chosen = g.buffer("chosen", top_k);
    let shape = index(index_heads, (dim, rate), top_k);
    g.push(choose((index_q, Some(weights)), made.state, shape, chosen));
    let (q, kv) = (g.buffer("q", width), g.buffer("kv", head_dim));
    let state = g.state(StateDecl::entries(head_dim, 1));
    g.push(Op::KvAppend {
        k: kv,
        v: kv,
        state,
    });
    let out = g.buffer("out", width);
    let op = Op::Entries(EntryOp::BlockAttention {
        q,
        state,
        chosen,
        rate,
        shape: attention((heads, 1), head_dim, None),
        out,
    });
    made.data.extend([
        (index_q, index_width, 1.0),
        (weights, index_heads, 1.0),
        (q, width, 1.0),
        (kv, head_dim, 2.0),
    ]);
    let mut case = Case::new(
        "attention to chosen blocks of latents",
        graph_of(made.graph, op, out),
    );
    case.weights = made.weights;
    with_steps(random, case, &made.data)
}
