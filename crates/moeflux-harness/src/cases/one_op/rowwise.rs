//! Operations on rows, with vectors or none.

use std::sync::Arc;

use moeflux::Want;
use moeflux::graph::{BufferId, GraphBuilder, Op, WeightId};
use moeflux::kernels::{Glu, RopeStyle};
use moeflux::weights::WeightPart;

use super::{graph_of, inputs};
use crate::{Case, Random, Tolerance};

/// Position of the first rotated token.
const ROPE_START: usize = 4000;

/// Norm over pieces of a row.
pub(super) fn rms_norm(random: &mut Random) -> Case {
    let (pieces, len) = (random.within(1, 5), random.within(1, 300));
    let mut g = GraphBuilder::default();
    let (x, out) = (g.buffer("x", pieces * len), g.buffer("out", pieces * len));
    let op = Op::RmsNorm {
        x,
        weight: WeightId::new(0),
        eps: 1e-6,
        out,
    };
    let mut case = Case::new("rms_norm", graph_of(g, op, out));
    case.weights
        .push(WeightPart::Vector(random.floats(len, 1.5)));
    with_rows(random, case, &[(x, pieces * len, 3.0)])
}

/// Norm without a weight.
pub(super) fn rms_normalize(random: &mut Random) -> Case {
    let (pieces, len) = (random.within(1, 5), random.within(1, 300));
    let mut g = GraphBuilder::default();
    let (x, out) = (g.buffer("x", pieces * len), g.buffer("out", pieces * len));
    let eps = 1e-6;
    let op = Op::RmsNormalize { x, len, eps, out };
    let case = Case::new("rms_normalize", graph_of(g, op, out));
    with_rows(random, case, &[(x, pieces * len, 3.0)])
}

/// Norm of pieces without their mean.
pub(super) fn layer_norm(random: &mut Random) -> Case {
    let (pieces, len) = (random.within(1, 5), random.within(8, 300));
    let mut g = GraphBuilder::default();
    let (x, out) = (g.buffer("x", pieces * len), g.buffer("out", pieces * len));
    let op = Op::LayerNorm {
        x,
        weight_and_bias: [WeightId::new(0), WeightId::new(1)],
        eps: 1e-6,
        out,
    };
    let mut case = Case::new("layer_norm", graph_of(g, op, out));
    for _ in 0..2 {
        let values = random.floats(len, 1.5);
        case.weights.push(WeightPart::Vector(values));
    }
    with_rows(random, case, &[(x, pieces * len, 3.0)])
}

/// Norm with a gate.
pub(super) fn rms_norm_gated(random: &mut Random) -> Case {
    let (pieces, len) = (random.within(1, 5), random.within(1, 300));
    let width = pieces * len;
    let mut g = GraphBuilder::default();
    let (x, gate, out) = (
        g.buffer("x", width),
        g.buffer("gate", width),
        g.buffer("out", width),
    );
    let op = Op::RmsNormGated {
        x,
        gate,
        weight: WeightId::new(0),
        eps: 1e-6,
        out,
    };
    let mut case = Case::new("rms_norm_gated", graph_of(g, op, out));
    case.weights
        .push(WeightPart::Vector(random.floats(len, 1.5)));
    with_rows(random, case, &[(x, width, 3.0), (gate, width, 6.0)])
}

/// Queries and gates apart.
pub(super) fn split_pairs(random: &mut Random) -> Case {
    let (heads, dim) = (random.within(1, 9), random.within(1, 70));
    let mut g = GraphBuilder::default();
    let x = g.buffer("x", heads * 2 * dim);
    let (first, second) = (
        g.buffer("first", heads * dim),
        g.buffer("second", heads * dim),
    );
    let op = Op::SplitPairs {
        x,
        heads,
        dim,
        first,
        second,
    };
    let case = Case::new("split_pairs", graph_of(g, op, first));
    with_rows(random, exact(case), &[(x, heads * 2 * dim, 1.0)])
}

/// Rotation of a part of each head, of either style, far from the start.
pub(super) fn rope(random: &mut Random) -> Case {
    let style = random.one_of(&[RopeStyle::HalfSplit, RopeStyle::Interleaved]);
    rope_of(random, style)
}

/// The same of the last elements.
pub(super) fn tail_rope(random: &mut Random) -> Case {
    rope_of(random, RopeStyle::InterleavedTail)
}

fn rope_of(random: &mut Random, style: RopeStyle) -> Case {
    let (heads, head_dim) = (random.within(1, 6), 2 * random.within(1, 64));
    let pairs = random.within(1, head_dim / 2);
    let frequency = |i: usize| 10_000.0_f64.powf(-(i as f64) / pairs as f64) as f32;
    let inv_freq: Arc<[f32]> = (0..pairs).map(frequency).collect();
    let mut g = GraphBuilder::default();
    let (x, out) = (
        g.buffer("x", heads * head_dim),
        g.buffer("out", heads * head_dim),
    );
    let op = Op::Rope {
        x,
        heads,
        head_dim,
        inv_freq,
        attention_scale: 1.25,
        style,
        out,
    };
    let case = Case::new(format!("rope {style:?}"), graph_of(g, op, out));
    let mut case = case.step_of(0..0, ROPE_START, vec![]);
    // The angle is rounded to f32, of which 4,000 radians leave 12 bits behind the point.
    case.tolerance.f32 = 1e-4;
    with_rows(random, case, &[(x, heads * head_dim, 1.0)])
}

/// The gated unit.
pub(super) fn swiglu(random: &mut Random) -> Case {
    pair(random, "swiglu", |gate, up, out| Op::Swiglu {
        gate,
        up,
        out,
    })
}

/// The clamped unit.
pub(super) fn glu(random: &mut Random) -> Case {
    let rule = Glu::Clamped {
        limit: 1.5,
        alpha: 1.0,
        offset: 0.0,
    };
    pair(random, "glu", |gate, up, out| Op::Glu {
        gate,
        up,
        rule,
        out,
    })
}

/// A gate for each element.
pub(super) fn sigmoid_mul(random: &mut Random) -> Case {
    pair(random, "sigmoid_mul", |gate, x, out| Op::SigmoidMul {
        x,
        gate,
        out,
    })
}

/// The sum, exact.
pub(super) fn add(random: &mut Random) -> Case {
    exact(pair(random, "add", |a, b, out| Op::Add { a, b, out }))
}

/// A vector added to each row.
pub(super) fn add_bias(random: &mut Random) -> Case {
    let width = random.within(1, 1500);
    let mut g = GraphBuilder::default();
    let (x, out) = (g.buffer("x", width), g.buffer("out", width));
    let bias = WeightId::new(0);
    let graph = graph_of(g, Op::AddBias { x, bias, out }, out);
    let mut case = exact(Case::new("add_bias", graph));
    case.weights
        .push(WeightPart::Vector(random.floats(width, 3.0)));
    with_rows(random, case, &[(x, width, 2.0)])
}

fn pair(random: &mut Random, name: &str, op: impl Fn(BufferId, BufferId, BufferId) -> Op) -> Case {
    let width = random.within(1, 1500);
    let mut g = GraphBuilder::default();
    let (a, b, out) = (
        g.buffer("a", width),
        g.buffer("b", width),
        g.buffer("out", width),
    );
    let case = Case::new(name, graph_of(g, op(a, b, out), out));
    with_rows(random, case, &[(a, width, 8.0), (b, width, 2.0)])
}

/// One gate a token.
pub(super) fn scale_by_sigmoid(random: &mut Random) -> Case {
    let width = random.within(1, 1500);
    let mut g = GraphBuilder::default();
    let (x, gate, out) = (
        g.buffer("x", width),
        g.buffer("gate", 1),
        g.buffer("out", width),
    );
    let case = Case::new(
        "scale_by_sigmoid",
        graph_of(g, Op::ScaleBySigmoid { x, gate, out }, out),
    );
    with_rows(random, case, &[(x, width, 2.0), (gate, 1, 6.0)])
}

/// The last row, or all.
pub(super) fn select_outputs(random: &mut Random) -> Case {
    let width = random.within(1, 400);
    let mut g = GraphBuilder::default();
    let (x, out) = (g.buffer("x", width), g.output_buffer("out", width));
    let case = Case::new(
        "select_outputs",
        graph_of(g, Op::SelectOutputs { x, out }, out),
    );
    let mut case = with_rows(random, exact(case), &[(x, width, 1.0)]);
    case.steps[0].spans[0].want = random.one_of(&[Want::Last, Want::All]);
    case
}

/// A chain of operations whose buffers share memory.
pub(super) fn shared_slots(random: &mut Random) -> Case {
    let width = random.within(1, 300);
    let mut g = GraphBuilder::default();
    let (first, kept) = (g.buffer("first", width), g.buffer("kept", width));
    let mut x = first;
    for _ in 0..5 {
        let (product, sum) = (g.buffer("product", width), g.buffer("sum", width));
        g.push(Op::Swiglu {
            gate: x,
            up: kept,
            out: product,
        });
        g.push(Op::Add {
            a: product,
            b: kept,
            out: sum,
        });
        x = sum;
    }
    let case = Case::new("shared_slots", g.finish(x));
    with_rows(random, case, &[(first, width, 1.0), (kept, width, 2.0)])
}

/// Adds a step of 1 to 20 tokens with random rows.
pub(super) fn with_rows(
    random: &mut Random,
    case: Case,
    buffers: &[(BufferId, usize, f32)],
) -> Case {
    let n = random.within(1, 20);
    let data = inputs(random, n, buffers);
    case.step(n, data)
}

/// Demands equality.
pub(super) fn exact(mut case: Case) -> Case {
    case.tolerance = Tolerance {
        f32: 0.0,
        int8: 0.0,
    };
    case
}
