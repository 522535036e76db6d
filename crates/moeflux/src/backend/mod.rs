//! Backends run a graph's operations. [`HostBackend`] runs them on the processor, on either of
//! two sets of kernels: the optimized ones, or the plain reference that specifies their bits.

mod buckets;
mod expert_compute;
mod experts;
mod host;
mod kernel_set;
mod lookahead;
mod router;
mod state_ops;

pub use buckets::{Buckets, RoutedTokens};
pub use experts::ExpertStage;
pub use host::HostBackend;
pub use kernel_set::{KernelSet, Reference};

use std::sync::Arc;

use moeflux_kernels::Settled;

use crate::Error;
use crate::graph::{BufferId, BufferPool, Op};
use crate::session::{RemoteStates, Session};
use crate::weights::Weights;

/// Tokens of one session in a step.
pub struct StepSpan<'a> {
    /// The session, with room made for the tokens.
    pub session: &'a mut Session,
    /// Position of the first token.
    pub start: usize,
    /// Row of the first token in the step's buffers.
    pub first_row: usize,
    /// Number of tokens.
    pub len: usize,
    /// Whether they are of a prompt.
    pub is_prompt: bool,
}

/// Everything about a step that is not in its buffers.
pub struct Step<'a> {
    /// The sessions' spans, in row order.
    pub spans: Vec<StepSpan<'a>>,
    /// Token of each row.
    pub tokens: &'a [u32],
    /// Position of each row in its session.
    pub positions: &'a [u32],
    /// Rows whose logits are wanted, ascending.
    pub outputs: &'a [u32],
}

/// Runs operations one after another.
pub trait Backend: Send {
    /// Keeps the calling thread where it computes best while the result lives.
    fn settle(&self) -> Settled {
        Settled::free()
    }

    /// Gives back the scratch memory that large steps need; a step takes what it needs.
    fn give_back_scratch(&mut self) {}

    /// Makes sessions' state where the backend keeps it; `None`: in the host's memory.
    fn states(&self) -> Option<Arc<dyn RemoteStates>> {
        None
    }

    /// A step begins: buffers that none of its operations wrote are found in the pool.
    fn begin_step(&mut self) {}

    /// Brings results of this step into the pool, where a backend keeps them elsewhere.
    ///
    /// # Errors
    /// If a device is lost.
    fn fetch(&mut self, _wanted: &[BufferId], _buffers: &mut BufferPool) -> Result<(), Error> {
        Ok(())
    }

    /// The step's operations are over, and its results fetched.
    ///
    /// # Errors
    /// If a device is lost.
    fn end_step(&mut self) -> Result<(), Error> {
        Ok(())
    }

    /// Runs one operation of a step.
    ///
    /// # Errors
    /// When an expert cannot be read. Sessions' committed state is untouched.
    fn run(
        &mut self,
        op: &Op,
        step: &mut Step<'_>,
        weights: &Weights,
        buffers: &mut BufferPool,
        experts: &mut ExpertStage,
    ) -> Result<(), Error>;
}
