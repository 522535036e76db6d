//! The operations on a residual of several streams.

use moeflux_kernels::StreamRule;

use crate::graph::{BufferId, WeightId};

/// An operation on a residual of several streams.
#[derive(Clone, Debug)]
pub enum StreamOp {
    /// Weights that collapse, spread and mix a residual's streams.
    Weights {
        /// Projections of the streams, `[rule.width()]`.
        projected: BufferId,
        /// Factors `[rule.scales()]` and offsets `[rule.width()]` of the projections.
        scale_and_base: [WeightId; 2],
        /// How they are made.
        rule: StreamRule,
        /// `[rule.width()]`.
        out: BufferId,
    },
    /// A block's input: the weighted sum of the streams.
    Collapse {
        /// `[streams, hidden]`.
        x: BufferId,
        /// As [`StreamOp::Weights`] makes them.
        weights: BufferId,
        /// By which rule.
        rule: StreamRule,
        /// `[hidden]`.
        out: BufferId,
    },
    /// The streams behind a block: mixed, and with its result.
    Spread {
        /// `[streams, hidden]`.
        x: BufferId,
        /// The block's result, `[hidden]`.
        block: BufferId,
        /// As [`StreamOp::Weights`] makes them.
        weights: BufferId,
        /// By which rule.
        rule: StreamRule,
        /// `[streams, hidden]`.
        out: BufferId,
    },
    /// The mean of the streams.
    Mean {
        /// `[streams, hidden]`.
        x: BufferId,
        /// Number of streams.
        streams: usize,
        /// Elements of a stream.
        hidden: usize,
        /// `[hidden]`.
        out: BufferId,
    },
    /// Root-mean-square norm over pieces that have weights of their own.
    Norm {
        /// `[pieces * len]`.
        x: BufferId,
        /// `[pieces * len]`.
        weight: WeightId,
        /// Elements of a piece.
        len: usize,
        /// Added to the mean square.
        eps: f32,
        /// As `x`.
        out: BufferId,
    },
    /// `silu(x / divisor)`.
    ScaledSilu {
        /// `[width]`.
        x: BufferId,
        /// What `x` is divided by.
        divisor: f32,
        /// `[width]`.
        out: BufferId,
    },
    /// A block's input: the mean of gated streams.
    Mix {
        /// `[streams, hidden]`.
        x: BufferId,
        /// Gates before their sigmoid, `[streams, hidden]`.
        gates: BufferId,
        /// Number of streams.
        streams: usize,
        /// `[hidden]`.
        out: BufferId,
    },
    /// The streams behind a block: its result is added to each by a weight.
    Inject {
        /// `[streams, hidden]`.
        x: BufferId,
        /// The block's result, `[hidden]`.
        block: BufferId,
        /// Weights before their sigmoid, `[streams]`.
        weights: BufferId,
        /// Number of streams.
        streams: usize,
        /// `[streams, hidden]`.
        out: BufferId,
    },
    /// One value for all streams, gated by how each stream's query meets its key.
    Gate {
        /// `[streams, hidden]`.
        keys: BufferId,
        /// `[streams, hidden]`.
        queries: BufferId,
        /// `[hidden]`.
        values: BufferId,
        /// Number of streams.
        streams: usize,
        /// `[streams, hidden]`.
        out: BufferId,
    },
}

impl StreamOp {
    /// Its name in profiles and errors.
    pub fn name(&self) -> &'static str {
        match self {
            StreamOp::Weights { .. } => "stream_weights",
            StreamOp::Collapse { .. } => "collapse_streams",
            StreamOp::Spread { .. } => "spread_streams",
            StreamOp::Mean { .. } => "mean_streams",
            StreamOp::Norm { .. } => "rms_norm_pieces",
            StreamOp::ScaledSilu { .. } => "scaled_silu",
            StreamOp::Mix { .. } => "mix_streams",
            StreamOp::Inject { .. } => "inject_streams",
            StreamOp::Gate { .. } => "gate_streams",
        }
    }

    /// The resident weights that it needs.
    pub fn weights(&self) -> Vec<WeightId> {
        match self {
            StreamOp::Weights { scale_and_base, .. } => scale_and_base.to_vec(),
            StreamOp::Norm { weight, .. } => vec![*weight],
            StreamOp::Collapse { .. }
            | StreamOp::Spread { .. }
            | StreamOp::Mean { .. }
            | StreamOp::ScaledSilu { .. }
            | StreamOp::Mix { .. }
            | StreamOp::Inject { .. }
            | StreamOp::Gate { .. } => vec![],
        }
    }

    /// The buffers it reads.
    pub fn reads(&self) -> Vec<BufferId> {
        match self {
            StreamOp::Weights { projected: x, .. }
            | StreamOp::Mean { x, .. }
            | StreamOp::Norm { x, .. }
            | StreamOp::ScaledSilu { x, .. } => vec![*x],
            StreamOp::Collapse { x, weights, .. } => vec![*x, *weights],
            StreamOp::Mix { x, gates, .. } => vec![*x, *gates],
            StreamOp::Spread {
                x, block, weights, ..
            }
            | StreamOp::Inject {
                x, block, weights, ..
            } => vec![*x, *block, *weights],
            StreamOp::Gate {
                keys,
                queries,
                values,
                ..
            } => vec![*keys, *queries, *values],
        }
    }

    /// The buffer it writes, whole.
    pub fn out(&self) -> BufferId {
        match self {
            StreamOp::Weights { out, .. }
            | StreamOp::Collapse { out, .. }
            | StreamOp::Spread { out, .. }
            | StreamOp::Mean { out, .. }
            | StreamOp::Norm { out, .. }
            | StreamOp::ScaledSilu { out, .. }
            | StreamOp::Mix { out, .. }
            | StreamOp::Inject { out, .. }
            | StreamOp::Gate { out, .. } => *out,
        }
    }
}
