//! Hyper-connections: the residual is several streams, which every block reads as one and writes
//! back to all, by weights that it makes of them.
//!
//! Manifold-constrained hyper-connections, as in
//! `transformers/models/deepseek_v4/modeling_deepseek_v4.py`.

use moeflux_kernels::{Piece, StreamRule};

use super::blueprint::{BlueprintBuilder, MatrixClass, VectorFold};
use crate::Error;
use crate::config::Config;
use crate::graph::{BufferId, Op, StreamOp};

/// More streams are a mistake in the file.
const MOST_STREAMS: usize = 64;
/// More rounds are, too: mixing weights are as good as they get before.
const MOST_ROUNDS: usize = 1000;

/// A residual of streams.
pub(super) struct Streams {
    rule: StreamRule,
}

impl Streams {
    /// `hc_mult`, `hc_sinkhorn_iters` and `hc_eps`.
    pub(super) fn read(c: &Config) -> Result<Streams, Error> {
        let streams = match c.has("hc_mult") {
            true => c.size_up_to("hc_mult", MOST_STREAMS)?,
            false => 4,
        };
        Ok(Streams {
            rule: StreamRule {
                streams,
                iterations: match c.has("hc_sinkhorn_iters") {
                    true => c.size_up_to("hc_sinkhorn_iters", MOST_ROUNDS)?,
                    false => 20,
                },
                eps: c.positive_or("hc_eps", 1e-6)? as f32,
            },
        })
    }

    /// All streams alike.
    pub(super) fn of(&self, b: &mut BlueprintBuilder, x: BufferId) -> BufferId {
        let whole = Piece {
            input: 0,
            start: 0,
            len: b.hidden,
        };
        let pieces = std::iter::repeat_n(whole, self.rule.streams);
        b.rearrange(&[x], pieces, "streams")
    }

    /// The streams behind a block, which gets one of the streams before it; the weights' names
    /// begin with `name`.
    pub(super) fn around(
        &self,
        b: &mut BlueprintBuilder,
        x: BufferId,
        name: &str,
        block: impl FnOnce(&mut BlueprintBuilder, BufferId) -> BufferId,
    ) -> BufferId {
        let (rule, hidden) = (self.rule, b.hidden);
        let new = |b: &mut BlueprintBuilder, label, width| b.graph.buffer(label, width);
        let weights = weights(b, x, (name, rule), &new);
        let one = b.graph.buffer("collapsed", hidden);
        b.graph.push(Op::Streams(StreamOp::Collapse {
            x,
            weights,
            rule,
            out: one,
        }));
        let block = block(b, one);
        let out = b.graph.buffer("streams", rule.streams * hidden);
        b.graph.push(Op::Streams(StreamOp::Spread {
            x,
            block,
            weights,
            rule,
            out,
        }));
        out
    }

    /// The mean of the streams at the positions whose logits are wanted.
    pub(super) fn last_mean(&self, b: &mut BlueprintBuilder, x: BufferId) -> BufferId {
        let (streams, hidden) = (self.rule.streams, b.hidden);
        let last = b.graph.output_buffer("last streams", streams * hidden);
        b.graph.push(Op::SelectOutputs { x, out: last });
        let out = b.graph.output_buffer("last hidden", hidden);
        b.graph.push(Op::Streams(StreamOp::Mean {
            x: last,
            streams,
            hidden,
            out,
        }));
        out
    }

    /// One of the streams at the positions whose logits are wanted.
    pub(super) fn last(&self, b: &mut BlueprintBuilder, x: BufferId, name: &str) -> BufferId {
        let hidden = b.hidden;
        let rule = StreamRule {
            iterations: 0,
            ..self.rule
        };
        let new = |b: &mut BlueprintBuilder, label, width| b.graph.output_buffer(label, width);
        let last = new(b, "last streams", rule.streams * hidden);
        b.graph.push(Op::SelectOutputs { x, out: last });
        let weights = weights(b, last, (name, rule), &new);
        let out = new(b, "last hidden", hidden);
        b.graph.push(Op::Streams(StreamOp::Collapse {
            x: last,
            weights,
            rule,
            out,
        }));
        out
    }
}

/// Weights made of the streams `x`; `new` makes buffers with as many rows.
fn weights(
    b: &mut BlueprintBuilder,
    x: BufferId,
    (name, rule): (&str, StreamRule),
    new: &dyn Fn(&mut BlueprintBuilder, &'static str, usize) -> BufferId,
) -> BufferId {
    let (width, rows) = (rule.streams * b.hidden, rule.width());
    let normed = new(b, "streams normed", width);
    b.graph.push(Op::RmsNormalize {
        x,
        len: width,
        eps: b.eps,
        out: normed,
    });
    let projected = new(b, "streams projected", rows);
    let matrix = b.matrix(format!("{name}_fn"), rows, width, MatrixClass::Sensitive);
    b.graph.push(Op::Matmul {
        x: normed,
        outputs: vec![(matrix, projected)],
        exact: true,
    });
    let scale = b.vector(format!("{name}_scale"), &[rule.scales()], VectorFold::None);
    let base = b.vector(format!("{name}_base"), &[rows], VectorFold::None);
    let out = new(b, "stream weights", rows);
    b.graph.push(Op::Streams(StreamOp::Weights {
        projected,
        scale_and_base: [scale, base],
        rule,
        out,
    }));
    out
}
