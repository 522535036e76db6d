//! The operations on entries that stand for windows of positions, and on blocks of positions.

use std::iter::once;

use moeflux_kernels::{AttentionShape, IndexShape};

use crate::graph::{BufferId, EntryForm, StateId, WeightId};

/// An operation on entries that stand for windows of positions, or on blocks of positions.
#[derive(Clone, Debug)]
pub enum EntryOp {
    /// Pools windows of positions into entries, which are normed, rotated and kept.
    Compress {
        /// What entries are made of, `[width]`.
        values: BufferId,
        /// What that is weighted by, `[width]`; `None`: all alike.
        gates: Option<BufferId>,
        /// The windows under way.
        state: StateId,
        /// The cache of entries.
        entries: StateId,
        /// How they are made.
        form: EntryForm,
    },
    /// The entries that each token attends to.
    Choose {
        /// `[heads, dim]`.
        q: BufferId,
        /// Weights of the heads, `[heads]`; `None`: one each.
        weights: Option<BufferId>,
        /// The cache of the entries' keys.
        entries: StateId,
        /// How they are ranked.
        shape: IndexShape,
        /// `[top_k]` of u32.
        out: BufferId,
    },
    /// Attention over the session's cache, mostly within a window, and over entries.
    SparseAttention {
        /// `[heads, head_dim]`.
        q: BufferId,
        /// The cache, with this step's keys and values in it.
        state: StateId,
        /// The cache of entries, with those that this step completes.
        entries: StateId,
        /// Positions that an entry stands for.
        rate: usize,
        /// The entries that each token attends to, `[top_k]` of u32; `None`: all.
        chosen: Option<BufferId>,
        /// Heads, scale and window.
        shape: AttentionShape,
        /// Scores that take part without a value, `[heads]`.
        sinks: Option<WeightId>,
        /// `[heads, head_dim]`.
        out: BufferId,
    },
    /// Attention to chosen blocks of positions, and to those behind the last whole block.
    BlockAttention {
        /// `[heads, head_dim]`.
        q: BufferId,
        /// The cache, with this step's keys and values in it.
        state: StateId,
        /// The blocks that each token attends to, `[top_k]` of u32.
        chosen: BufferId,
        /// Positions of a block.
        rate: usize,
        /// Heads and scale.
        shape: AttentionShape,
        /// `[heads, head_dim]`.
        out: BufferId,
    },
}

impl EntryOp {
    /// Its name in profiles and errors.
    pub fn name(&self) -> &'static str {
        match self {
            EntryOp::Compress { .. } => "compress",
            EntryOp::Choose { .. } => "choose_entries",
            EntryOp::SparseAttention { .. } => "sparse_attention",
            EntryOp::BlockAttention { .. } => "block_attention",
        }
    }

    /// The resident weights that it needs.
    pub fn weights(&self) -> Vec<WeightId> {
        match self {
            EntryOp::Compress { form, .. } => form.bias.into_iter().chain(form.norm).collect(),
            EntryOp::SparseAttention { sinks, .. } => sinks.iter().copied().collect(),
            EntryOp::Choose { .. } | EntryOp::BlockAttention { .. } => vec![],
        }
    }

    /// The buffers it reads.
    pub fn reads(&self) -> Vec<BufferId> {
        match self {
            EntryOp::Compress { values, gates, .. } => once(*values).chain(*gates).collect(),
            EntryOp::Choose { q, weights, .. } => once(*q).chain(*weights).collect(),
            EntryOp::SparseAttention { q, chosen, .. } => once(*q).chain(*chosen).collect(),
            EntryOp::BlockAttention { q, chosen, .. } => vec![*q, *chosen],
        }
    }

    /// The buffer it writes, whole.
    pub fn out(&self) -> Option<BufferId> {
        match self {
            EntryOp::Compress { .. } => None,
            EntryOp::Choose { out, .. }
            | EntryOp::SparseAttention { out, .. }
            | EntryOp::BlockAttention { out, .. } => Some(*out),
        }
    }
}
