//! Backends run a graph's operations. [`HostBackend`] runs them on the processor, on either of
//! two sets of kernels: the optimized ones, or the plain reference that specifies their bits.

mod buckets;
mod entry_ops;
mod expert_compute;
mod experts;
mod host;
mod kernel_set;
mod lookahead;
mod ngrams;
mod router;
mod squares;
mod state_ops;
mod stream_ops;
mod tier;

pub use buckets::{Buckets, RoutedTokens};
pub use experts::ExpertStage;
pub use host::HostBackend;
pub use kernel_set::{KernelSet, Reference};
pub use ngrams::ngram_rows;
pub use squares::{ExpertSquares, LayerSquares, add_squares};
pub use tier::TierStats;

use std::mem;
use std::sync::Arc;

use moeflux_kernels::Settled;

use crate::Error;
use crate::graph::{BufferId, BufferPool, Graph, Op, Recurrence};
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

impl StepSpan<'_> {
    /// Its rows of all the step's, which have `width` elements each.
    fn rows<'a, T>(&self, all: &'a [T], width: usize) -> &'a [T] {
        &all[self.first_row * width..(self.first_row + self.len) * width]
    }
}

impl Step<'_> {
    /// Each span's rows of all the step's, which have `width` elements each.
    fn rows_mut<'a, T>(&self, mut all: &'a mut [T], width: usize) -> Vec<&'a mut [T]> {
        let own = |span: &StepSpan<'_>| {
            let (own, rest) = mem::take(&mut all).split_at_mut(span.len * width);
            all = rest;
            own
        };
        self.spans.iter().map(own).collect()
    }
}

/// Is shown what a recurrence reads, in the pool.
pub type Record<'a> = &'a mut dyn FnMut(&Recurrence, &BufferPool);

/// Puts what a recurrence reads into the pool.
pub type Inputs<'a> = &'a mut dyn FnMut(&Recurrence, &mut BufferPool) -> Result<(), Error>;

/// Runs operations one after another.
pub trait Backend: Send {
    /// Keeps the calling thread where it computes best while the result lives.
    fn settle(&self) -> Settled {
        Settled::free()
    }

    /// Tokens of a step that is as fast, a token, as any longer one, if nothing has to be read.
    fn cached_tokens(&self) -> usize {
        512
    }

    /// Gives back the scratch memory that large steps need; a step takes what it needs.
    fn give_back_scratch(&mut self) {}

    /// Makes sessions' state where the backend keeps it; `None`: in the host's memory.
    fn states(&self) -> Option<Arc<dyn RemoteStates>> {
        None
    }

    /// What its own memory for experts has done; `None`: it has none.
    fn tier(&self) -> Option<TierStats> {
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

    /// [`Backend::run_graph`] where only the most likely token of each row of the step's logits is
    /// wanted, the lowest one among equals: those, where a backend finds them without bringing the
    /// logits into the pool; `None` otherwise, also where one is not finite. A backend may begin with
    /// the step that follows if the answer goes on with that token.
    ///
    /// # Errors
    /// As [`Backend::run`].
    fn run_best(
        &mut self,
        graph: &Graph,
        step: &mut Step<'_>,
        weights: &Weights,
        buffers: &mut BufferPool,
        experts: &mut ExpertStage,
    ) -> Result<Option<Vec<u32>>, Error> {
        self.run_graph(graph, step, weights, buffers, experts, None)?;
        Ok(None)
    }

    /// Runs a step's operations. Only sessions' state and the graph's result need to be there
    /// afterwards. `record` is shown what the recurrences read, one after another.
    ///
    /// # Errors
    /// As [`Backend::run`].
    fn run_graph(
        &mut self,
        graph: &Graph,
        step: &mut Step<'_>,
        weights: &Weights,
        buffers: &mut BufferPool,
        experts: &mut ExpertStage,
        mut record: Option<Record<'_>>,
    ) -> Result<(), Error> {
        let recurrences = match record {
            Some(_) => graph.recurrences(),
            None => Vec::new(),
        };
        let mut rest = recurrences.iter().peekable();
        for (at, op) in graph.ops.iter().enumerate() {
            self.run(op, step, weights, buffers, experts)?;
            if let (Some(next), Some(record)) = (rest.next_if(|r| r.op == at), &mut record) {
                self.fetch(&next.inputs, buffers)?;
                record(next, buffers);
            }
        }
        Ok(())
    }

    /// Runs a graph's recurrences alone; `inputs` puts what each of them reads into the pool.
    ///
    /// # Errors
    /// As [`Backend::run`].
    fn run_recurrences(
        &mut self,
        graph: &Graph,
        step: &mut Step<'_>,
        weights: &Weights,
        buffers: &mut BufferPool,
        experts: &mut ExpertStage,
        inputs: Inputs<'_>,
    ) -> Result<(), Error> {
        for recurrence in graph.recurrences() {
            inputs(&recurrence, buffers)?;
            self.run(&graph.ops[recurrence.op], step, weights, buffers, experts)?;
        }
        Ok(())
    }

    /// Forgets the experts that it keeps in memory of its own.
    fn cool(&mut self) {}

    /// Brings experts nearer to where they are computed, as far as there is room.
    ///
    /// # Errors
    /// An expert that cannot be read, or a lost device.
    fn warm(&mut self, _experts: &mut ExpertStage) -> Result<(), Error> {
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
