//! A graph that runs by itself, without a model's files: for tests that compare backends and for
//! measuring operations.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use super::step::{Rowset, Span};
use moeflux_kernels::KvType;

use crate::Error;
use crate::backend::{Backend, ExpertStage};
use crate::graph::{BufferId, BufferPool, Graph, Op};
use crate::session::{Session, SessionShape};
use crate::weights::Weights;

/// A graph with weights and experts on one backend. Its steps are those of an
/// [`Engine`](super::Engine), except that the caller fills the graph's inputs and may run a part
/// of its operations.
pub struct GraphRunner {
    graph: Graph,
    weights: Weights,
    stage: ExpertStage,
    backend: Box<dyn Backend>,
    buffers: BufferPool,
    /// Tokens and outputs that the buffers have room for.
    room: (usize, usize),
    shape: Arc<SessionShape>,
}

impl GraphRunner {
    /// Puts a graph together with what it runs on; keys and values are kept as `kv_type`.
    pub fn new(
        graph: Graph,
        weights: Weights,
        stage: ExpertStage,
        backend: Box<dyn Backend>,
        kv_type: KvType,
    ) -> GraphRunner {
        let shape = Arc::new(SessionShape {
            identity: 0,
            states: graph.states.clone(),
            kv_type,
            context_tokens: usize::MAX,
            state_bytes: Arc::new(AtomicU64::new(0)),
            remote: backend.states(),
        });
        GraphRunner {
            buffers: BufferPool::new(&graph, 0, 0),
            room: (0, 0),
            graph,
            weights,
            stage,
            backend,
            shape,
        }
    }

    /// A new, empty session.
    pub fn session(&self) -> Session {
        Session::new(Arc::clone(&self.shape))
    }

    /// Runs the operations `ops` of the graph for all spans and commits the sessions. `inputs`
    /// are the buffers that these operations read and none of them writes; `observe` sees each
    /// operation's results as it ends.
    ///
    /// # Errors
    /// [`Error::ForeignSession`]; [`Error::Internal`] for an input of the wrong length or
    /// operations that the graph does not have; whatever the backend says. Sessions are then as
    /// they were.
    pub fn step(
        &mut self,
        spans: &mut [Span<'_>],
        ops: Range<usize>,
        inputs: &[(BufferId, &[f32])],
        observe: &mut dyn FnMut(usize, &Op, &BufferPool),
    ) -> Result<(), Error> {
        if !spans.iter().all(|s| s.session.belongs_to(&self.shape)) {
            return Err(Error::ForeignSession);
        }
        let unknown = || Error::Internal(format!("the graph has no operations {ops:?}"));
        let chosen = self.graph.ops.get(ops.clone()).ok_or_else(unknown)?;
        let rows = Rowset::of(spans);
        let (tokens, outputs) = (rows.tokens.len(), rows.outputs.len());
        if tokens > self.room.0 || outputs > self.room.1 {
            self.room = (tokens.max(self.room.0), outputs.max(self.room.1));
            self.buffers = BufferPool::new(&self.graph, self.room.0, self.room.1);
        }
        self.buffers.begin(tokens, outputs);
        for &(buffer, values) in inputs {
            self.buffers.upload(buffer, values)?;
        }
        for span in spans.iter_mut() {
            span.session.reserve(span.tokens.len())?;
        }
        self.stage.begin_step(tokens, false);
        self.backend.begin_step();
        let mut step = rows.step(spans);
        for (op, index) in chosen.iter().zip(ops) {
            let (weights, stage) = (&self.weights, &mut self.stage);
            self.backend
                .run(op, &mut step, weights, &mut self.buffers, stage)?;
            self.backend.fetch(&op.writes(), &mut self.buffers)?;
            observe(index, op, &self.buffers);
        }
        drop(step);
        self.backend.end_step()?;
        for span in spans {
            span.session.commit(span.tokens);
        }
        Ok(())
    }
}
