//! Operations on entries that stand for windows of positions, over several steps.

use std::sync::Arc;

use moeflux::graph::{BufferId, EntryForm, GraphBuilder, Op, StateDecl, StateId, WeightId};
use moeflux::kernels::{AttentionShape, CompressShape, IndexShape};
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
    let (rate, width) = (shape.rate, shape.width());
    let mut graph = GraphBuilder::default();
    let (values, gates) = (graph.buffer("values", width), graph.buffer("gates", width));
    let pools = graph.state(StateDecl::Recurrent {
        len: shape.state_len(),
    });
    let state = graph.state(StateDecl::entries(dim, rate));
    let pairs = random.within(0, dim / 2);
    let frequency = |i: usize| 0.3_f64.powf(i as f64) as f32;
    let inv_freq: Arc<[f32]> = (0..pairs).map(frequency).collect();
    let weights = [rate * width, dim].map(|len| WeightPart::Vector(random.floats(len, 1.5)));
    graph.push(Op::Compress {
        values,
        gates,
        state: pools,
        entries: state,
        form: EntryForm {
            shape,
            bias: WeightId::new(0),
            norm: WeightId::new(1),
            eps: 1e-6,
            inv_freq,
            attention_scale: 1.25,
        },
    });
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
    let op = Op::ChooseEntries {
        q,
        weights,
        entries: state,
        shape: IndexShape {
            heads,
            dim,
            rate,
            top_k,
        },
        out,
    };
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
        g.push(Op::ChooseEntries {
            q,
            weights,
            entries: made.state,
            shape: IndexShape {
                heads,
                dim: made.dim,
                rate: made.rate,
                top_k,
            },
            out,
        });
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
    let op = Op::SparseAttention {
        q,
        state,
        entries: made.state,
        rate: made.rate,
        chosen,
        shape: AttentionShape {
            heads,
            kv_heads: 1,
            head_dim,
            scale: 1.0 / (head_dim as f32).sqrt(),
            window,
        },
        sinks: Some(WeightId::new(2)),
        out,
    };
    made.weights
        .push(WeightPart::Vector(random.floats(heads, 3.0)));
    let kind = if is_indexed { "chosen" } else { "all" };
    let name = format!("attention to a window and {kind} entries");
    let mut case = Case::new(name, graph_of(made.graph, op, out));
    case.weights = made.weights;
    with_steps(random, case, &made.data)
}
