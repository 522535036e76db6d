//! Operations on a residual of streams that are mixed by gates.

use moeflux::graph::{GraphBuilder, Op, StreamOp, WeightId};
use moeflux::weights::WeightPart;

use super::graph_of;
use super::rowwise::with_rows;
use crate::{Case, Random};

/// Where a dot product is near zero, the gate's root makes much of how it is rounded.
const ROOTED: f64 = 1e-3;

fn sizes(random: &mut Random) -> (usize, usize) {
    (random.within(1, 5), random.within(1, 300))
}

/// Norm of each stream, with weights of its own.
pub(super) fn rms_norm_pieces(random: &mut Random) -> Case {
    let (streams, len) = sizes(random);
    let all = streams * len;
    let mut g = GraphBuilder::default();
    let (x, out) = (g.buffer("x", all), g.buffer("out", all));
    let op = Op::Streams(StreamOp::Norm {
        x,
        weight: WeightId::new(0),
        len,
        eps: 1e-6,
        out,
    });
    let mut case = Case::new("rms_norm_pieces", graph_of(g, op, out));
    case.weights
        .push(WeightPart::Vector(random.floats(all, 1.5)));
    with_rows(random, case, &[(x, all, 3.0)])
}

/// SiLU of a part.
pub(super) fn scaled_silu(random: &mut Random) -> Case {
    let (streams, width) = sizes(random);
    let mut g = GraphBuilder::default();
    let (x, out) = (g.buffer("x", width), g.buffer("out", width));
    let divisor = streams as f32;
    let op = Op::Streams(StreamOp::ScaledSilu { x, divisor, out });
    let case = Case::new("scaled_silu", graph_of(g, op, out));
    with_rows(random, case, &[(x, width, 12.0)])
}

/// Streams become one.
pub(super) fn mix_streams(random: &mut Random) -> Case {
    let (streams, hidden) = sizes(random);
    let all = streams * hidden;
    let mut g = GraphBuilder::default();
    let (x, gates) = (g.buffer("x", all), g.buffer("gates", all));
    let out = g.buffer("out", hidden);
    let op = Op::Streams(StreamOp::Mix {
        x,
        gates,
        streams,
        out,
    });
    let case = Case::new("mix_streams", graph_of(g, op, out));
    with_rows(random, case, &[(x, all, 2.0), (gates, all, 4.0)])
}

/// A block's result is added to streams.
pub(super) fn inject_streams(random: &mut Random) -> Case {
    let (streams, hidden) = sizes(random);
    let all = streams * hidden;
    let mut g = GraphBuilder::default();
    let (x, out) = (g.buffer("x", all), g.buffer("out", all));
    let (block, weights) = (g.buffer("block", hidden), g.buffer("weights", streams));
    let op = Op::Streams(StreamOp::Inject {
        x,
        block,
        weights,
        streams,
        out,
    });
    let case = Case::new("inject_streams", graph_of(g, op, out));
    let data = [(x, all, 2.0), (block, hidden, 2.0), (weights, streams, 8.0)];
    with_rows(random, case, &data)
}

/// A value is gated for each stream.
pub(super) fn gate_streams(random: &mut Random) -> Case {
    let (streams, hidden) = sizes(random);
    let all = streams * hidden;
    let mut g = GraphBuilder::default();
    let (keys, queries) = (g.buffer("keys", all), g.buffer("queries", all));
    let (values, out) = (g.buffer("values", hidden), g.buffer("out", all));
    let op = Op::Streams(StreamOp::Gate {
        keys,
        queries,
        values,
        streams,
        out,
    });
    let mut case = Case::new("gate_streams", graph_of(g, op, out));
    case.tolerance.f32 = ROOTED;
    let data = [(keys, all, 2.0), (queries, all, 2.0), (values, hidden, 2.0)];
    with_rows(random, case, &data)
}
