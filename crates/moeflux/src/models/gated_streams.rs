//! Hyper-connections by gates: the residual is several streams; a block reads the mean of the
//! normed streams, each element behind a gate, and its result is added to every stream by a weight.
//!
//! Reference: `transformers/models/qwen4_exp/modeling_qwen4_exp.py`.

use moeflux_kernels::Piece;

use super::blueprint::{BlueprintBuilder, MatrixClass};
use crate::Error;
use crate::config::Config;
use crate::graph::{BufferId, Op, StreamOp};

/// More streams are a mistake in the file.
const MOST_STREAMS: usize = 64;

/// A residual of streams.
#[derive(Clone, Copy, Debug)]
pub(super) struct GatedStreams {
    /// Number of streams.
    pub streams: usize,
    /// Elements between the two matrices that make gates.
    rank: usize,
}

/// Makes a buffer with as many rows as the streams have.
type NewBuffer<'a> = &'a dyn Fn(&mut BlueprintBuilder, &'static str, usize) -> BufferId;

impl GatedStreams {
    /// `hc_count` and `hc_lowrank`.
    pub(super) fn read(c: &Config) -> Result<GatedStreams, Error> {
        let streams = match c.has("hc_count") {
            true => c.size_up_to("hc_count", MOST_STREAMS)?,
            false => 4,
        };
        if streams < 2 {
            return Err(c.error("hc_count", "is 1; a residual has two streams or more"));
        }
        Ok(GatedStreams {
            streams,
            rank: c.size_or("hc_lowrank", 320)?,
        })
    }

    /// All streams alike.
    pub(super) fn of(&self, b: &mut BlueprintBuilder, x: BufferId) -> BufferId {
        let whole = Piece {
            input: 0,
            start: 0,
            len: b.hidden,
        };
        b.rearrange(&[x], std::iter::repeat_n(whole, self.streams), "streams")
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
        let new = |b: &mut BlueprintBuilder, label, width| b.graph.buffer(label, width);
        let (normed, one) = self.mixed(b, x, name, &new);
        let weights = (
            format!("{name}.block_inject_weight"),
            self.streams,
            "injection",
        );
        let [weights] = b.project(normed, MatrixClass::Sensitive, [weights]);
        let block = block(b, one);
        let out = b.graph.buffer("streams", self.streams * b.hidden);
        b.graph.push(Op::Streams(StreamOp::Inject {
            x,
            block,
            weights,
            streams: self.streams,
            out,
        }));
        out
    }

    /// One of the streams at the positions whose logits are wanted.
    pub(super) fn last(&self, b: &mut BlueprintBuilder, x: BufferId, name: &str) -> BufferId {
        let new = |b: &mut BlueprintBuilder, label, width| b.graph.output_buffer(label, width);
        let width = self.streams * b.hidden;
        let last = new(b, "last streams", width);
        b.graph.push(Op::SelectOutputs { x, out: last });
        self.mixed(b, last, name, &new).1
    }

    /// The normed streams, and the one that a block gets.
    fn mixed(
        &self,
        b: &mut BlueprintBuilder,
        x: BufferId,
        name: &str,
        new: NewBuffer<'_>,
    ) -> (BufferId, BufferId) {
        let (hidden, width) = (b.hidden, self.streams * b.hidden);
        let normed = new(b, "streams normed", width);
        self.norm_into(b, x, format!("{name}.hc_norm.weight"), normed);
        let product = |b: &mut BlueprintBuilder, x, end: &str, (rows, cols), label| {
            let name = format!("{name}.{end}");
            let weight = b.matrix(name, rows, cols, MatrixClass::Dense);
            let out = new(b, label, rows);
            b.graph.push(Op::Matmul {
                x,
                outputs: vec![(weight, out)],
                exact: false,
            });
            out
        };
        let down = (self.rank, width);
        let down = product(b, normed, "input_mix_weight_down", down, "gates down");
        let act = new(b, "gates activation", self.rank);
        b.graph.push(Op::Streams(StreamOp::ScaledSilu {
            x: down,
            divisor: self.streams as f32,
            out: act,
        }));
        let up = (width, self.rank);
        let gates = product(b, act, "input_mix_weight_up", up, "gates");
        let one = new(b, "mixed", hidden);
        b.graph.push(Op::Streams(StreamOp::Mix {
            x: normed,
            gates,
            streams: self.streams,
            out: one,
        }));
        (normed, one)
    }

    /// The norm of each stream by itself; the weight `name` has elements for all of them.
    pub(super) fn norm(&self, b: &mut BlueprintBuilder, x: BufferId, name: String) -> BufferId {
        let out = b.graph.buffer("streams normed", self.streams * b.hidden);
        self.norm_into(b, x, name, out);
        out
    }

    fn norm_into(&self, b: &mut BlueprintBuilder, x: BufferId, name: String, out: BufferId) {
        let weight = b.vector(name, &[self.streams * b.hidden], b.norm_fold);
        b.graph.push(Op::Streams(StreamOp::Norm {
            x,
            weight,
            len: b.hidden,
            eps: b.eps,
            out,
        }));
    }
}
