//! The device as a backend: looks up each operation's buffers, weights and state on it, and records
//! its kernels. Results stay on the device until somebody fetches them.

mod ahead;
mod budget;
mod buffers;
mod decode;
mod entry_ops;
mod experts;
mod latent;
mod mixed;
mod plan;
mod planned_experts;
mod prompt;
mod state_ops;
mod stream_ops;
mod upload;
mod weights;

use std::sync::Arc;

use moeflux::Error;
use moeflux::RemoteStates;
use moeflux::backend::{Backend, ExpertStage, Inputs, Record, Step, TierStats};
use moeflux::graph::{BufferId, BufferPool, Graph, Op};
use moeflux::weights::Weights;

use crate::ops::{self, RopeShape, RouterShape};
use crate::state::DeviceStates;
use crate::{Gpu, GpuError, Recorder};
use ahead::Answer;
use buffers::{DeviceBuffers, StepInputs};
use decode::Work;
use experts::{DeviceExperts, Together, Waiting};
use latent::PieceLists;
use plan::Plan;
use weights::DeviceWeights;

/// What a caller may choose.
#[derive(Clone, Copy, Debug, Default)]
pub struct GpuOptions {
    /// Device memory for routed experts; `None`: all of them, or as many as there is memory for.
    pub expert_bytes: Option<u64>,
    /// Whether the processor computes experts that the device's memory does not hold.
    pub cpu_experts: CpuExperts,
}

/// Whether the processor computes experts that are not on the device, at the same time, of tokens that
/// are not of prompts. If so, these experts are computed from activations in 8 bits wherever they
/// are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CpuExperts {
    /// No.
    #[default]
    Off,
    /// Where the device has the processor's bits: no answer tells where an expert was computed.
    Auto,
    /// Yes: on other devices an answer's rounding depends on it.
    On,
}

/// Runs graphs on a device.
pub struct GpuBackend {
    gpu: Arc<Gpu>,
    recorder: Recorder,
    buffers: DeviceBuffers,
    inputs: StepInputs,
    weights: DeviceWeights,
    pieces: PieceLists,
    experts: DeviceExperts,
    together: Together,
    /// Choices that a step waits for.
    waiting: Option<Waiting>,
    /// Whether this step can record what follows choices before they are known.
    may_wait: bool,
    plan: Option<Plan>,
    /// The answer that the step before this one was of, and the one that this step is of.
    answers: (Option<Answer>, Option<Answer>),
    /// Marks given to answers.
    marks: u64,
    /// Buffers made so far when bindings were last forgotten.
    buffers_seen: u64,
}

impl GpuBackend {
    /// A backend on `gpu`.
    pub fn new(gpu: Arc<Gpu>, options: GpuOptions) -> GpuBackend {
        GpuBackend {
            recorder: Recorder::new(Arc::clone(&gpu)),
            gpu,
            buffers: DeviceBuffers::default(),
            inputs: StepInputs::default(),
            weights: DeviceWeights::default(),
            pieces: PieceLists::default(),
            experts: DeviceExperts::new(options.expert_bytes),
            together: Together::new(options.cpu_experts),
            waiting: None,
            may_wait: false,
            plan: None,
            answers: (None, None),
            marks: 0,
            buffers_seen: 0,
        }
    }

    /// Operations that read buffers and weights and write buffers, row by row.
    fn rows(
        &mut self,
        op: &Op,
        step: &Step<'_>,
        weights: &Weights,
        pool: &BufferPool,
    ) -> Result<(), Error> {
        let tokens = step.tokens.len();
        let (gpu, r, buffers) = (&self.gpu, &mut self.recorder, &self.buffers);
        let (held, inputs) = (&mut self.weights, &mut self.inputs);
        let view = |id: &BufferId| buffers.view(pool, *id);
        match op {
            Op::Embed { weight, out } => {
                let table = held.matrix(gpu, weights, *weight)?;
                let list = inputs.tokens(r, step)?;
                ops::embed(r, table, list, tokens, view(out)?)?;
            }
            Op::RmsNorm {
                x,
                weight,
                eps,
                out,
            } => {
                let (weight, len) = held.vector(gpu, weights, *weight)?;
                let pieces = pool.len(*x) / len;
                ops::rms_norm(r, (view(x)?, weight, view(out)?), pieces, len, *eps)?;
            }
            Op::RmsNormGated {
                x,
                gate,
                weight,
                eps,
                out,
            } => {
                let (weight, len) = held.vector(gpu, weights, *weight)?;
                let views = (view(x)?, view(gate)?, weight, view(out)?);
                ops::rms_norm_gated(r, views, pool.len(*x) / len, len, *eps)?;
            }
            Op::Matmul { x, outputs, exact } => {
                return self.matmul(*x, outputs, *exact, step, (weights, pool));
            }
            _ => return self.rows_alone(op, step, pool),
        }
        Ok(())
    }

    /// Operations that read buffers and write others, row by row.
    fn rows_alone(&mut self, op: &Op, step: &Step<'_>, pool: &BufferPool) -> Result<(), Error> {
        let tokens = step.tokens.len();
        let (r, buffers, inputs) = (&mut self.recorder, &self.buffers, &mut self.inputs);
        let view = |id: &BufferId| buffers.view(pool, *id);
        match op {
            Op::SplitPairs {
                x,
                heads,
                dim,
                first,
                second,
            } => {
                let views = (view(x)?, view(first)?, view(second)?);
                ops::split_pairs(r, views, heads * tokens, *dim)?;
            }
            Op::Rope {
                x,
                heads,
                head_dim,
                inv_freq,
                attention_scale,
                style,
                out,
            } => {
                let (positions, freqs) = inputs.rope(r, step, inv_freq)?;
                let shape = RopeShape {
                    heads: *heads,
                    head_dim: *head_dim,
                    pairs: inv_freq.len(),
                    style: *style,
                    attention_scale: *attention_scale,
                };
                ops::rope(r, (view(x)?, positions, freqs, view(out)?), shape, tokens)?;
            }
            Op::Router {
                logits,
                experts,
                top_k,
                renormalize,
                ids,
                weights,
            } => {
                let shape = RouterShape {
                    experts: *experts,
                    top_k: *top_k,
                    renormalize: *renormalize,
                };
                ops::router(
                    r,
                    (view(logits)?, view(ids)?, view(weights)?),
                    shape,
                    tokens,
                )?;
            }
            Op::Swiglu { gate, up, out } => ops::swiglu(r, view(gate)?, view(up)?, view(out)?)?,
            Op::SigmoidMul { x, gate, out } => {
                ops::sigmoid_mul(r, view(x)?, view(gate)?, view(out)?)?;
            }
            Op::ScaleBySigmoid { x, gate, out } => {
                let width = pool.len(*x) / pool.len(*gate);
                ops::scale_by_sigmoid(r, view(x)?, view(gate)?, view(out)?, width as u32)?;
            }
            Op::Add { a, b, out } => ops::add(r, view(a)?, view(b)?, view(out)?)?,
            Op::SelectOutputs { x, out } => {
                let list = inputs.outputs(r, step)?;
                let width = pool.len(*x) / tokens;
                ops::select_rows(r, (view(x)?, list, view(out)?), step.outputs.len(), width)?;
            }
            other => return Err(wrong_op(other)),
        }
        Ok(())
    }
}

impl GpuBackend {
    /// Runs one operation.
    fn one(
        &mut self,
        op: &Op,
        step: &mut Step<'_>,
        weights: &Weights,
        pool: &mut BufferPool,
        experts: &mut ExpertStage,
    ) -> Result<(), Error> {
        if matches!(op, Op::Lookahead { .. }) {
            return Ok(());
        }
        let writes = op.writes();
        for id in op.reads() {
            self.buffers.bring(&mut self.recorder, pool, id)?;
        }
        for id in &writes {
            self.buffers.make(&self.gpu, pool, *id)?;
        }
        // A step that wants no logits has rows of nothing at its end.
        if !writes.is_empty() && writes.iter().all(|id| pool.len(*id) == 0) {
            return Ok(());
        }
        match op {
            Op::KvAppend { .. }
            | Op::Attention { .. }
            | Op::Conv1dSilu { .. }
            | Op::GatedDelta { .. }
            | Op::Entries(_) => self.with_state(op, step, weights, pool),
            Op::AddBias { .. }
            | Op::Rearrange { .. }
            | Op::HeadMatmul { .. }
            | Op::GroupedRouter { .. } => self.latent(op, step.tokens.len(), weights, pool),
            Op::Streams(op) => self.streams(op, weights, pool),
            Op::NgramRows { .. } => self.ngram_rows(op, step, weights, pool),
            Op::TokenRouter { .. } => self.token_router(op, step, weights, pool),
            Op::RmsNormalize { .. } | Op::LayerNorm { .. } | Op::Glu { .. } => {
                self.norms_and_gates(op, weights, pool)
            }
            Op::RequestExperts { .. } => self.request_experts(op, pool, experts),
            Op::Experts { .. } => self.routed_experts(op, step, (weights, pool), experts),
            _ => self.rows(op, step, weights, pool),
        }
    }
}

impl Backend for GpuBackend {
    fn cached_tokens(&self) -> usize {
        // Each expert's weights are decoded for all its tokens of a step at once.
        4096
    }

    fn states(&self) -> Option<Arc<dyn RemoteStates>> {
        let gpu = Arc::clone(&self.gpu);
        Some(Arc::new(DeviceStates(gpu, self.together.when())))
    }

    fn tier(&self) -> Option<TierStats> {
        Some(self.gpu.tier.stats())
    }

    fn begin_step(&mut self) {
        self.buffers.begin_step();
        self.inputs.begin_step();
        let made = self.gpu.buffers_made();
        if made != self.buffers_seen {
            self.buffers_seen = made;
            self.recorder.forget_bindings();
        }
        self.recorder.begin_times();
        self.answers = (self.answers.1.take(), None);
    }

    fn fetch(&mut self, wanted: &[BufferId], pool: &mut BufferPool) -> Result<(), Error> {
        self.buffers.fetch(&mut self.recorder, wanted, pool)
    }

    fn end_step(&mut self) -> Result<(), Error> {
        self.recorder.submit();
        self.recorder.end_times()?;
        Ok(self.gpu.check()?)
    }

    fn run(
        &mut self,
        op: &Op,
        step: &mut Step<'_>,
        weights: &Weights,
        pool: &mut BufferPool,
        experts: &mut ExpertStage,
    ) -> Result<(), Error> {
        self.one(op, step, weights, pool, experts)
    }

    fn run_graph(
        &mut self,
        graph: &Graph,
        step: &mut Step<'_>,
        weights: &Weights,
        pool: &mut BufferPool,
        stage: &mut ExpertStage,
        record: Option<Record<'_>>,
    ) -> Result<(), Error> {
        let mut work = Work {
            graph,
            step,
            weights,
            pool,
            stage,
        };
        self.any(&mut work, record)
    }

    fn run_best(
        &mut self,
        graph: &Graph,
        step: &mut Step<'_>,
        weights: &Weights,
        pool: &mut BufferPool,
        stage: &mut ExpertStage,
    ) -> Result<Option<Vec<u32>>, Error> {
        self.best_step(&mut Work {
            graph,
            step,
            weights,
            pool,
            stage,
        })
    }

    fn run_recurrences(
        &mut self,
        graph: &Graph,
        step: &mut Step<'_>,
        weights: &Weights,
        pool: &mut BufferPool,
        stage: &mut ExpertStage,
        inputs: Inputs<'_>,
    ) -> Result<(), Error> {
        self.replay(
            &mut Work {
                graph,
                step,
                weights,
                pool,
                stage,
            },
            inputs,
        )
    }

    fn cool(&mut self) {
        self.experts.cool();
    }

    fn warm(&mut self, stage: &mut ExpertStage) -> Result<(), Error> {
        self.experts.warm(&mut self.recorder, stage)
    }
}

fn wrong_op(op: &Op) -> Error {
    GpuError::Unsupported {
        op: op.name(),
        problem: "there is no kernel for it here".to_owned(),
    }
    .into()
}
