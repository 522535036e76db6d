//! The engine: a loaded model that runs steps of tokens for any number of sessions.

mod budget;
mod governor;
mod graph_runner;
mod open;
mod pace;
mod prefill;
mod rates;
mod resume;
mod step;
mod trial;
mod warm_start;

pub use budget::MemoryPlan;
use governor::Governor;
pub use graph_runner::GraphRunner;
use pace::Pace;
pub use rates::KernelRate;
use step::Rowset;
pub use step::{Best, Logits, Span, Want};

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use moeflux_kernels::{Isa, KvType};

use self::warm_start::WarmStart;
use crate::backend::{Backend, ExpertStage, Record, TierStats};
use crate::cost::OpCost;
use crate::graph::{BufferPool, Graph, Op};
use crate::info::ModelInfo;
use crate::memory::Locked;
use crate::session::{Session, SessionShape};
use crate::weights::Weights;
use crate::{Activations, Error};

/// What the engine has done and what it occupies.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stats {
    /// Expert residency: hits, reads, waiting.
    pub experts: moeflux_experts::Stats,
    /// What a backend's own memory for experts has done, where there is one.
    pub tier: Option<TierStats>,
    /// How the memory bound is spent.
    pub memory: MemoryPlan,
    /// The memory bound now: less than the plan's where the system has less.
    pub limit_bytes: u64,
    /// Bytes of state in all sessions now.
    pub state_bytes: u64,
    /// Whether the resident weights are locked in memory.
    pub locked: Locked,
    /// Instruction set in use.
    pub isa: Isa,
    /// Compute threads.
    pub threads: usize,
    /// How activations meet integer-coded weights.
    pub activations: Activations,
    /// What keys and values are kept as.
    pub kv: KvType,
    /// Whether experts are guessed a layer ahead at present.
    pub guesses: bool,
}

/// A loaded model. Shareable between threads; steps run one at a time.
pub struct Engine {
    info: ModelInfo,
    shape: Arc<SessionShape>,
    graph: Graph,
    costs: Vec<OpCost>,
    weights: Weights,
    plan: MemoryPlan,
    isa: Isa,
    threads: usize,
    activations: Activations,
    executor: Arc<Mutex<Executor>>,
    warm_start: Option<WarmStart>,
    /// Memory of earlier logits.
    spare_logits: Mutex<Vec<Vec<f32>>>,
}

/// Is shown each operation's results as it ends.
type Observe<'a> = &'a mut dyn FnMut(&Op, &BufferPool);

/// Who looks on while a step runs.
enum Watch<'a> {
    Nothing,
    Operations(Observe<'a>),
    Recurrences(Record<'a>),
    /// Nobody, but only the most likely tokens are wanted, if the backend finds them.
    Best(&'a mut Option<Vec<u32>>),
}

impl<'a> From<Option<Observe<'a>>> for Watch<'a> {
    fn from(observe: Option<Observe<'a>>) -> Watch<'a> {
        observe.map_or(Watch::Nothing, Watch::Operations)
    }
}

/// What a step changes besides its sessions.
struct Executor {
    backend: Box<dyn Backend>,
    buffers: BufferPool,
    stage: ExpertStage,
    governor: Governor,
    pace: Pace,
}

impl Engine {
    /// The model in figures.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The most tokens that one step takes.
    pub fn chunk_tokens(&self) -> usize {
        self.plan.chunk_tokens
    }

    /// What each operation of a step costs at least, in the order in which they run.
    pub fn costs(&self) -> &[OpCost] {
        &self.costs
    }

    /// A new, empty session.
    pub fn session(&self) -> Session {
        Session::new(Arc::clone(&self.shape))
    }

    /// The most tokens in a session.
    pub fn context_tokens(&self) -> usize {
        self.shape.context_tokens
    }

    /// A session from [`Session::to_bytes`].
    ///
    /// # Errors
    /// [`Error::Snapshot`] if the bytes are damaged, of another model, or keep keys and values as
    /// another type; [`Error::MemoryBudget`] if the memory bound does not hold it.
    pub fn restore(&self, bytes: &[u8]) -> Result<Session, Error> {
        self.make_room_to_restore(bytes.len() as u64)?;
        Session::from_bytes(Arc::clone(&self.shape), bytes)
    }

    /// A session from [`Session::save`].
    ///
    /// # Errors
    /// [`Error::File`] if the file cannot be read, [`Error::Snapshot`] as for
    /// [`Engine::restore`].
    pub fn load_session(&self, path: &Path) -> Result<Session, Error> {
        let bytes = std::fs::read(path).map_err(|source| Error::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?;
        self.restore(&bytes).map_err(|e| match e {
            Error::Snapshot { problem, .. } => Error::Snapshot {
                path: Some(path.to_owned()),
                problem,
            },
            other => other,
        })
    }

    /// Runs one step for all spans; gives each span's logits.
    ///
    /// # Errors
    /// Bad tokens, too many of them, or an expert that cannot be read. All sessions are then as
    /// they were before the call, and the engine goes on.
    pub fn forward(&self, spans: &mut [Span<'_>]) -> Result<Vec<Logits>, Error> {
        self.step(spans, false, Watch::Nothing)
    }

    /// [`Engine::forward`], showing each operation's results as it ends: for comparing backends
    /// and taking times.
    ///
    /// # Errors
    /// As [`Engine::forward`].
    pub fn forward_observed(
        &self,
        spans: &mut [Span<'_>],
        observe: &mut dyn FnMut(&Op, &BufferPool),
    ) -> Result<Vec<Logits>, Error> {
        self.step(spans, false, Watch::Operations(observe))
    }

    /// One step; `again`: another of as many tokens follows.
    fn step(
        &self,
        spans: &mut [Span<'_>],
        again: bool,
        watch: Watch<'_>,
    ) -> Result<Vec<Logits>, Error> {
        let rows = Rowset::of(spans);
        self.check_step(spans, &rows)?;
        let _demand = self.warm_start.as_ref().map(WarmStart::demand);
        let mut executor = self.lock();
        self.make_room(&mut executor, spans)?;
        let Executor {
            backend,
            buffers,
            stage,
            pace,
            ..
        } = &mut *executor;
        buffers.begin(rows.tokens.len(), rows.outputs.len());
        let mut step = rows.step(spans);
        let _settled = backend.settle();
        stage.begin_step(rows.tokens.len() * self.info.top_k, again);
        backend.begin_step();
        let (graph, weights) = (&self.graph, &self.weights);
        let mut is_found = false;
        match watch {
            Watch::Best(found) => {
                *found = backend.run_best(graph, &mut step, weights, buffers, stage)?;
                is_found = found.is_some();
                Ok(())
            }
            Watch::Nothing => backend.run_graph(graph, &mut step, weights, buffers, stage, None),
            Watch::Recurrences(record) => {
                backend.run_graph(graph, &mut step, weights, buffers, stage, Some(record))
            }
            Watch::Operations(observe) => graph.ops.iter().try_for_each(|op| {
                backend.run(op, &mut step, weights, buffers, stage)?;
                backend.fetch(&op.reads(), buffers)?;
                backend.fetch(&op.writes(), buffers)?;
                observe(op, buffers);
                Ok(())
            }),
        }?;
        drop(step);
        if !rows.outputs.is_empty() && !is_found {
            backend.fetch(&[self.graph.logits], buffers)?;
        }
        backend.end_step()?;
        let (time, waited) = stage.end_step();
        pace.note(rows.tokens.len(), time, waited);
        let vocab = self.info.vocab_size;
        let mut values = buffers.get(self.graph.logits);
        let mut all = Vec::with_capacity(spans.len());
        for span in spans.iter_mut() {
            span.session.commit(span.tokens);
            let rows = if is_found { 0 } else { span.outputs() };
            let (mine, rest) = values.split_at(rows * vocab);
            values = rest;
            all.push(Logits {
                rows,
                vocab,
                values: self.copied(mine),
            });
        }
        Ok(all)
    }

    /// Takes logits that are done with, so that the next step need not ask the system for memory;
    /// on a small model that is a tenth of a token's time.
    pub fn recycle(&self, logits: Logits) {
        const MOST_ROWS: usize = 16;
        let mut spare = self
            .spare_logits
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let held: usize = spare.iter().map(Vec::capacity).sum();
        let more = logits.values.capacity();
        if more > 0 && held + more <= MOST_ROWS * self.info.vocab_size {
            spare.push(logits.values);
        }
    }

    fn copied(&self, values: &[f32]) -> Vec<f32> {
        let spare = self.spare_logits.lock();
        let mut copy = spare
            .unwrap_or_else(PoisonError::into_inner)
            .pop()
            .unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(values);
        copy
    }

    /// What a user may want to know of how the engine was opened.
    pub fn notes(&self) -> &[String] {
        self.warm_start.as_ref().map_or(&[], WarmStart::notes)
    }

    /// What has been done since the start or [`Engine::reset_stats`], and what is occupied.
    pub fn stats(&self) -> Stats {
        let executor = self.lock();
        Stats {
            experts: executor.stage.residency.stats(),
            tier: executor.backend.tier(),
            guesses: executor.stage.guesses(),
            memory: self.plan.clone(),
            limit_bytes: executor.governor.limit_bytes(),
            state_bytes: self.shape.state_bytes.load(Ordering::Relaxed),
            locked: self.weights.locked(),
            isa: self.isa,
            threads: self.threads,
            activations: self.activations,
            kv: self.shape.kv_type,
        }
    }

    /// Where the experts of all layers are.
    pub fn presence(&self) -> Vec<moeflux_experts::LayerPresence> {
        self.lock().stage.residency.presence()
    }

    /// Starts counting anew.
    pub fn reset_stats(&self) {
        self.lock().stage.residency.reset_stats();
    }

    /// Reads all experts into memory, if the arena holds them, telling `progress` how many of how
    /// many are there. Returns whether all are in memory now.
    ///
    /// # Errors
    /// An expert that cannot be read.
    pub fn warm(&self, progress: &mut dyn FnMut(usize, usize)) -> Result<bool, Error> {
        let Executor { backend, stage, .. } = &mut *self.lock();
        let is_complete = stage.residency.warm(progress)?;
        backend.warm(stage)?;
        Ok(is_complete)
    }

    /// Forgets all cached experts, as after a cold start. From now on experts are read when they
    /// are asked for, whatever earlier processes used.
    pub fn cool(&self) {
        if let Some(warm_start) = &self.warm_start {
            warm_start.end();
        }
        let Executor { backend, stage, .. } = &mut *self.lock();
        stage.residency.clear();
        backend.cool();
    }

    /// A panic in a step may have lost buffers that it had taken; everything else that a later
    /// step reads is whole, so new buffers heal it.
    fn lock(&self) -> MutexGuard<'_, Executor> {
        self.executor.lock().unwrap_or_else(|poisoned| {
            let mut executor = poisoned.into_inner();
            let room = executor.governor.room();
            executor.buffers = BufferPool::new(&self.graph, room.tokens, room.outputs);
            self.executor.clear_poison();
            executor
        })
    }

    fn check(&self, session: &Session, tokens: &[u32]) -> Result<(), Error> {
        if !session.belongs_to(&self.shape) {
            return Err(Error::ForeignSession);
        }
        let end = session.len() + tokens.len();
        if end > self.shape.context_tokens {
            return Err(Error::ContextExceeded {
                tokens: end,
                limit: self.shape.context_tokens,
            });
        }
        let vocab = self.info.vocab_size;
        match tokens.iter().position(|&t| t as usize >= vocab) {
            Some(at) => Err(Error::Token {
                token: tokens[at],
                position: session.len() + at,
                vocab,
            }),
            None if tokens.is_empty() => Err(Error::StepSize {
                tokens: 0,
                limit: self.plan.chunk_tokens,
            }),
            None => Ok(()),
        }
    }

    fn check_step(&self, spans: &[Span<'_>], rows: &Rowset) -> Result<(), Error> {
        for span in spans {
            self.check(span.session, span.tokens)?;
        }
        let (tokens, limit) = (rows.tokens.len(), self.plan.chunk_tokens);
        if tokens == 0 || tokens > limit {
            return Err(Error::StepSize { tokens, limit });
        }
        if rows.outputs.len() > self.plan.chunk_outputs {
            let (tokens, limit) = (rows.outputs.len(), self.plan.chunk_outputs);
            return Err(Error::StepSize { tokens, limit });
        }
        Ok(())
    }
}
