//! A model as data: operations over typed buffers, the same for every backend.
//!
//! A graph does not depend on the device nor on the number of tokens in a step: a buffer states
//! its width, and has one row for each token (or for each position whose logits were asked for).

mod forms;
mod op;
mod pool;
mod recurrence;
mod uses;

use moeflux_kernels::{KV_PAGE_TOKENS, KvPage, KvType};

pub use forms::{EntryForm, ExpertForm};
pub use op::{EntryOp, Op, StreamOp};
pub use pool::BufferPool;
pub use recurrence::Recurrence;

/// A buffer of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub(crate) u32);

/// A resident weight of a model, by its place in [`Blueprint::weights`](crate::models::Blueprint).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightId(pub(crate) u32);

/// A piece of a session's state, by its place in [`Graph::states`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateId(pub(crate) u32);

impl BufferId {
    /// Its place in [`Graph::buffers`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl WeightId {
    /// The weight at `index` of a list of weights.
    pub fn new(index: usize) -> WeightId {
        WeightId(index as u32)
    }

    /// Its place in the list of weights.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl StateId {
    /// The state at `index` of [`Graph::states`].
    pub fn new(index: usize) -> StateId {
        StateId(index as u32)
    }

    /// Its place in [`Graph::states`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// How many rows a buffer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// One for each token of the step.
    Tokens,
    /// One for each position whose logits were asked for.
    Outputs,
}

/// A buffer: rows of `width` f32 (or u32, in the same four bytes).
#[derive(Clone, Debug)]
pub struct BufferDecl {
    /// What it holds, for people.
    pub name: &'static str,
    /// Elements in a row.
    pub width: usize,
    /// How many rows.
    pub rows: Rows,
}

/// A piece of state that a session carries from one step to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StateDecl {
    /// Keys and values of every position so far.
    KeyValue {
        /// Heads of keys and of values.
        kv_heads: usize,
        /// Elements of a head.
        head_dim: usize,
        /// Positions that a query sees, its own included; those before may be forgotten. `None`:
        /// all.
        window: Option<usize>,
        /// Whether keys are the values too, so that they are kept once.
        is_joint: bool,
        /// Positions that have one key and value together, there when the last of them is; 1: each
        /// has its own.
        stride: usize,
    },
    /// A recurrent state of fixed size, all zeros at the start.
    Recurrent {
        /// Elements, f32.
        len: usize,
    },
}

impl StateDecl {
    /// Keys and values of every position, each kept by itself.
    pub fn key_value(kv_heads: usize, head_dim: usize) -> StateDecl {
        StateDecl::KeyValue {
            kv_heads,
            head_dim,
            window: None,
            is_joint: false,
            stride: 1,
        }
    }

    /// Keys that are the values too, one for every `stride` positions.
    pub fn entries(head_dim: usize, stride: usize) -> StateDecl {
        StateDecl::KeyValue {
            kv_heads: 1,
            head_dim,
            window: None,
            is_joint: true,
            stride,
        }
    }

    /// Keys and values of the first `positions` positions.
    pub fn kept(&self, positions: usize) -> usize {
        match *self {
            StateDecl::KeyValue { stride, .. } => positions / stride.max(1),
            StateDecl::Recurrent { .. } => positions,
        }
    }

    /// The first position that a query at `position`, and any after it, needs.
    pub fn first_needed(&self, position: usize) -> usize {
        match *self {
            StateDecl::KeyValue { window, .. } => {
                window.map_or(0, |window| (position + 1).saturating_sub(window))
            }
            StateDecl::Recurrent { .. } => 0,
        }
    }

    /// Whether old positions are forgotten.
    pub fn has_window(&self) -> bool {
        matches!(
            self,
            StateDecl::KeyValue {
                window: Some(_),
                ..
            }
        )
    }

    /// Bytes of keys and values of a position, in the mean; 0 for a recurrent state.
    pub fn position_bytes(&self, kv_type: KvType) -> u64 {
        let positions = match *self {
            StateDecl::KeyValue { stride, .. } => stride.max(1) * KV_PAGE_TOKENS,
            StateDecl::Recurrent { .. } => KV_PAGE_TOKENS,
        };
        self.page_bytes(kv_type) / positions as u64
    }

    /// Bytes of a page of keys and values; 0 for a recurrent state.
    pub fn page_bytes(&self, kv_type: KvType) -> u64 {
        match *self {
            StateDecl::KeyValue {
                kv_heads,
                head_dim,
                is_joint,
                ..
            } => match is_joint {
                true => KvPage::joint_bytes(kv_type, kv_heads, head_dim),
                false => KvPage::bytes(kv_type, kv_heads, head_dim),
            },
            StateDecl::Recurrent { .. } => 0,
        }
    }
}

/// Operations in order, and what they work on.
#[derive(Clone, Debug)]
pub struct Graph {
    /// The buffers, by [`BufferId`].
    pub buffers: Vec<BufferDecl>,
    /// The state, by [`StateId`].
    pub states: Vec<StateDecl>,
    /// The operations, in order.
    pub ops: Vec<Op>,
    /// The buffer with the logits at the end.
    pub logits: BufferId,
}

/// Puts a graph together; used by the model files.
#[derive(Default)]
pub struct GraphBuilder {
    buffers: Vec<BufferDecl>,
    states: Vec<StateDecl>,
    ops: Vec<Op>,
}

impl GraphBuilder {
    /// A new buffer with one row a token.
    pub fn buffer(&mut self, name: &'static str, width: usize) -> BufferId {
        self.add_buffer(BufferDecl {
            name,
            width,
            rows: Rows::Tokens,
        })
    }

    /// A new buffer with one row for each position whose logits were asked for.
    pub fn output_buffer(&mut self, name: &'static str, width: usize) -> BufferId {
        self.add_buffer(BufferDecl {
            name,
            width,
            rows: Rows::Outputs,
        })
    }

    fn add_buffer(&mut self, decl: BufferDecl) -> BufferId {
        self.buffers.push(decl);
        BufferId(self.buffers.len() as u32 - 1)
    }

    /// A new piece of state.
    pub fn state(&mut self, decl: StateDecl) -> StateId {
        self.states.push(decl);
        StateId(self.states.len() as u32 - 1)
    }

    /// Elements in a row of `buffer`.
    pub fn width(&self, buffer: BufferId) -> usize {
        self.buffers[buffer.index()].width
    }

    /// Appends an operation.
    pub fn push(&mut self, op: Op) {
        self.ops.push(op);
    }

    /// The finished graph, whose last result is `logits`.
    pub fn finish(self, logits: BufferId) -> Graph {
        Graph {
            buffers: self.buffers,
            states: self.states,
            ops: self.ops,
            logits,
        }
    }
}
