//! Operations with state, over several steps.

use moeflux::graph::{GraphBuilder, Op, StateDecl, WeightId};
use moeflux::kernels::{AttentionShape, Decay, DeltaShape, HeadOrder};
use moeflux::weights::WeightPart;

use super::{graph_of, inputs};
use crate::{Case, Random, Tolerance};

/// Keys and values alone: the state is the result.
pub(super) fn kv_append(random: &mut Random) -> Case {
    let (kv_heads, head_dim) = (random.within(1, 4), random.within(1, 40));
    let width = kv_heads * head_dim;
    let mut g = GraphBuilder::default();
    let (k, v) = (g.buffer("k", width), g.buffer("v", width));
    let state = g.state(StateDecl::key_value(kv_heads, head_dim));
    let mut case = Case::new("kv_append", graph_of(g, Op::KvAppend { k, v, state }, k));
    case.tolerance = Tolerance {
        f32: 0.0,
        int8: 0.0,
    };
    for n in [1, random.within(1, 70), random.within(1, 70)] {
        let data = inputs(random, n, &[(k, width, 1.0), (v, width, 1.0)]);
        case = case.step(n, data);
    }
    case
}

/// Attention with grouped heads, over steps that cross the borders of key blocks.
pub(super) fn attention(random: &mut Random) -> Case {
    attention_of(random, "attention", (None, false))
}

/// The same with a window, and scores without values.
pub(super) fn windowed_attention(random: &mut Random) -> Case {
    let window = Some(random.within(1, 100));
    attention_of(random, "attention with a window and sinks", (window, true))
}

fn attention_of(
    random: &mut Random,
    name: &str,
    (window, has_sinks): (Option<usize>, bool),
) -> Case {
    let (kv_heads, head_dim) = (random.within(1, 3), 8 * random.within(1, 12));
    let heads = kv_heads * random.within(1, 6);
    let (q_width, kv_width) = (heads * head_dim, kv_heads * head_dim);
    let mut g = GraphBuilder::default();
    let (q, out) = (g.buffer("q", q_width), g.buffer("out", q_width));
    let (k, v) = (g.buffer("k", kv_width), g.buffer("v", kv_width));
    let state = g.state(StateDecl::KeyValue {
        kv_heads,
        head_dim,
        window,
        is_joint: false,
        stride: 1,
    });
    g.push(Op::KvAppend { k, v, state });
    let shape = AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale: 1.0 / (head_dim as f32).sqrt(),
        window,
    };
    let op = Op::Attention {
        q,
        state,
        shape,
        sinks: has_sinks.then(|| WeightId::new(0)),
        out,
    };
    let mut case = Case::new(name, graph_of(g, op, out));
    if has_sinks {
        let sinks = random.floats(heads, 3.0);
        case.weights.push(WeightPart::Vector(sinks));
    }
    for n in [random.within(1, 90), 1, random.within(1, 70), 1] {
        let buffers = [(q, q_width, 2.0), (k, kv_width, 2.0), (v, kv_width, 1.0)];
        let data = inputs(random, n, &buffers);
        case = case.step(n, data);
    }
    case
}

/// Steps of 1, 2, 4 and 16 tokens.
pub(super) fn conv1d_silu(random: &mut Random) -> Case {
    let (channels, taps) = (random.within(1, 300), random.within(2, 5));
    let mut g = GraphBuilder::default();
    let (x, out) = (g.buffer("x", channels), g.buffer("out", channels));
    let state = g.state(StateDecl::Recurrent {
        len: (taps - 1) * channels,
    });
    let op = Op::Conv1dSilu {
        x,
        weight: WeightId::new(0),
        state,
        channels,
        out,
    };
    let mut case = Case::new("conv1d_silu", graph_of(g, op, out));
    let weight = random.floats(taps * channels, 1.0);
    case.weights.push(WeightPart::Vector(weight));
    for n in [1, 2, 4, 16] {
        let data = inputs(random, n, &[(x, channels, 2.0)]);
        case = case.step(n, data);
    }
    case
}

/// Steps of 1, 4 and 16 tokens.
pub(super) fn gated_delta(random: &mut Random) -> Case {
    delta_of(random, Decay::Head)
}

/// The same where each key element decays by itself.
pub(super) fn keyed_delta(random: &mut Random) -> Case {
    delta_of(random, Decay::Key)
}

/// The same where the decay is bounded.
pub(super) fn bounded_delta(random: &mut Random) -> Case {
    delta_of(random, Decay::BoundedKey(-3.0))
}

fn delta_of(random: &mut Random, decay: Decay) -> Case {
    let key_heads = random.within(1, 3);
    let shape = DeltaShape {
        key_heads,
        value_heads: key_heads * random.within(1, 4),
        key_dim: random.within(1, 70),
        value_dim: random.within(1, 70),
        head_order: random.one_of(&[HeadOrder::Grouped, HeadOrder::Tiled]),
        decay,
    };
    let decays = shape.value_heads * shape.head_decays();
    let value_len = shape.value_heads * shape.value_dim;
    let qkv_len = 2 * key_heads * shape.key_dim + value_len;
    let mut g = GraphBuilder::default();
    let (qkv, out) = (g.buffer("qkv", qkv_len), g.buffer("out", value_len));
    let (a, b) = (g.buffer("a", decays), g.buffer("b", shape.value_heads));
    let state = g.state(StateDecl::Recurrent {
        len: value_len * shape.key_dim,
    });
    let op = Op::GatedDelta {
        qkv,
        a,
        b,
        a_log: WeightId::new(0),
        dt_bias: WeightId::new(1),
        state,
        shape,
        out,
    };
    let mut case = Case::new(op.name(), graph_of(g, op.clone(), out));
    for len in [shape.value_heads, decays] {
        let values = random.floats(len, 2.0);
        case.weights.push(WeightPart::Vector(values));
    }
    for n in [1, 4, 16] {
        let heads = shape.value_heads;
        let data = inputs(
            random,
            n,
            &[(qkv, qkv_len, 1.0), (a, decays, 3.0), (b, heads, 3.0)],
        );
        case = case.step(n, data);
    }
    case
}
