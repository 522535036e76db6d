//! Operations on a residual of several streams.

use moeflux::graph::{GraphBuilder, Op, StreamOp, WeightId};
use moeflux::kernels::StreamRule;
use moeflux::weights::WeightPart;

use super::graph_of;
use super::rowwise::with_rows;
use crate::{Case, Random};

fn rule(random: &mut Random, iterations: usize) -> StreamRule {
    StreamRule {
        streams: random.within(1, 5),
        iterations,
        eps: 1e-6,
    }
}

/// Weights to collapse, to spread and to mix.
pub(super) fn stream_weights(random: &mut Random) -> Case {
    let iterations = random.within(0, 20);
    let rule = rule(random, iterations);
    let width = rule.width();
    let mut g = GraphBuilder::default();
    let (projected, out) = (g.buffer("projected", width), g.buffer("out", width));
    let op = Op::Streams(StreamOp::Weights {
        projected,
        scale_and_base: [WeightId::new(0), WeightId::new(1)],
        rule,
        out,
    });
    let mut case = Case::new("stream_weights", graph_of(g, op, out));
    for len in [rule.scales(), width] {
        let values = random.floats(len, 1.0);
        case.weights.push(WeightPart::Vector(values));
    }
    with_rows(random, case, &[(projected, width, 3.0)])
}

/// Streams become one.
pub(super) fn collapse_streams(random: &mut Random) -> Case {
    let iterations = random.within(0, 1);
    let (rule, hidden) = (rule(random, iterations), random.within(1, 300));
    let mut g = GraphBuilder::default();
    let x = g.buffer("x", rule.streams * hidden);
    let (weights, out) = (g.buffer("weights", rule.width()), g.buffer("out", hidden));
    let op = Op::Streams(StreamOp::Collapse {
        x,
        weights,
        rule,
        out,
    });
    let case = Case::new("collapse_streams", graph_of(g, op, out));
    let data = [
        (x, rule.streams * hidden, 2.0),
        (weights, rule.width(), 1.0),
    ];
    with_rows(random, case, &data)
}

/// The mean of streams.
pub(super) fn mean_streams(random: &mut Random) -> Case {
    let (streams, hidden) = (random.within(1, 6), random.within(1, 300));
    let mut g = GraphBuilder::default();
    let (x, out) = (g.buffer("x", streams * hidden), g.buffer("out", hidden));
    let op = Op::Streams(StreamOp::Mean {
        x,
        streams,
        hidden,
        out,
    });
    let case = Case::new("mean_streams", graph_of(g, op, out));
    with_rows(random, case, &[(x, streams * hidden, 2.0)])
}

/// A block's result is spread over streams that are mixed.
pub(super) fn spread_streams(random: &mut Random) -> Case {
    let (rule, hidden) = (rule(random, 1), random.within(1, 300));
    let all = rule.streams * hidden;
    let mut g = GraphBuilder::default();
    let (x, out) = (g.buffer("x", all), g.buffer("out", all));
    let (block, weights) = (g.buffer("block", hidden), g.buffer("weights", rule.width()));
    let op = Op::Streams(StreamOp::Spread {
        x,
        block,
        weights,
        rule,
        out,
    });
    let case = Case::new("spread_streams", graph_of(g, op, out));
    let data = [
        (x, all, 2.0),
        (block, hidden, 2.0),
        (weights, rule.width(), 1.0),
    ];
    with_rows(random, case, &data)
}
