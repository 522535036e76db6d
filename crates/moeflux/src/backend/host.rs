//! The processor as a backend: looks up each operation's buffers, weights and state, and calls
//! its kernel.

use moeflux_kernels::{AttentionSpan, ConvSpan, DeltaSpan, MatmulJob, Matrix, Quantized};

use super::experts::{ExpertStage, RoutedTokens};
use super::kernel_set::KernelSet;
use super::{Backend, Step};
use crate::graph::{BufferId, BufferPool, Op, StateId, WeightId};
use crate::session::{KeyValueCache, LayerState, Recurrent, Session};
use crate::weights::Weights;
use crate::{Activations, Error};

/// Runs graphs on the processor with one set of kernels.
pub struct HostBackend<K> {
    kernels: K,
    activations: Activations,
    quantized: Quantized,
}

impl<K: KernelSet> HostBackend<K> {
    /// A backend on `kernels`.
    pub fn new(kernels: K, activations: Activations) -> HostBackend<K> {
        HostBackend {
            kernels,
            activations,
            quantized: Quantized::default(),
        }
    }

    fn embed(
        &self,
        tokens: &[u32],
        table: &Matrix<'_>,
        buffers: &mut BufferPool,
        out: BufferId,
    ) -> Result<(), Error> {
        buffers.write(out, |_, out| {
            for (&token, row) in tokens.iter().zip(out.chunks_exact_mut(table.cols())) {
                self.kernels.decode_row(table, token as usize, row)?;
            }
            Ok(())
        })
    }

    fn matmul(
        &mut self,
        x: BufferId,
        outputs: &[(WeightId, BufferId)],
        exact: bool,
        weights: &Weights,
        buffers: &mut BufferPool,
    ) -> Result<(), Error> {
        let mut matrices = Vec::with_capacity(outputs.len());
        for &(weight, _) in outputs {
            matrices.push(weights.matrix(weight)?);
        }
        let mut taken: Vec<Vec<f32>> = outputs.iter().map(|&(_, out)| buffers.take(out)).collect();
        let result = self.matmul_into(x, &matrices, outputs, exact, buffers, &mut taken);
        for (&(_, out), memory) in outputs.iter().zip(taken) {
            buffers.put(out, memory);
        }
        result
    }

    fn matmul_into(
        &mut self,
        x: BufferId,
        matrices: &[Matrix<'_>],
        outputs: &[(WeightId, BufferId)],
        exact: bool,
        buffers: &BufferPool,
        taken: &mut [Vec<f32>],
    ) -> Result<(), Error> {
        let input = buffers.get(x);
        let group = match self.activations {
            Activations::Int8 if !exact => matrices.iter().find_map(Matrix::group),
            _ => None,
        };
        if let Some(group) = group {
            let cols = matrices[0].cols();
            self.kernels
                .quantize(&mut self.quantized, input, input.len() / cols, cols, group)?;
        }
        // Matrices of one input normally share a codec; one with another group gets its own turn.
        let fits = |m: &Matrix<'_>| m.group().is_none() || group.is_none() || m.group() == group;
        let mut jobs = Vec::with_capacity(matrices.len());
        let mut others = Vec::new();
        for ((matrix, &(_, out)), memory) in matrices.iter().zip(outputs).zip(taken) {
            let out = &mut memory[..buffers.len(out)];
            let quantized = group.and(matrix.group()).map(|_| &self.quantized);
            let job = MatmulJob {
                weights: *matrix,
                x: input,
                quantized,
                tokens: None,
                out,
            };
            if fits(matrix) {
                jobs.push(job)
            } else {
                others.push(job)
            }
        }
        self.kernels.matmul(&mut jobs)?;
        for MatmulJob {
            weights,
            x,
            tokens,
            out,
            ..
        } in others
        {
            let mut quantized = Quantized::default();
            let (cols, group) = (weights.cols(), weights.group().unwrap_or(1));
            self.kernels
                .quantize(&mut quantized, x, x.len() / cols, cols, group)?;
            let job = MatmulJob {
                weights,
                x,
                quantized: Some(&quantized),
                tokens,
                out,
            };
            self.kernels.matmul(&mut [job])?;
        }
        Ok(())
    }

    fn attention(&self, op: &Op, step: &Step<'_>, buffers: &mut BufferPool) -> Result<(), Error> {
        let Op::Attention {
            q,
            state,
            shape,
            out,
        } = op
        else {
            return Err(wrong_op(op));
        };
        let width = shape.heads * shape.head_dim;
        buffers.write(*out, |buffers, out| {
            let q = buffers.get(*q);
            let mut pages = Vec::with_capacity(step.spans.len());
            for span in &step.spans {
                pages.push(key_values(span.session.states(), *state)?.pages());
            }
            let mut rest = out;
            let mut spans = Vec::with_capacity(step.spans.len());
            for (span, pages) in step.spans.iter().zip(&pages) {
                let (out, tail) = rest.split_at_mut(span.len * width);
                rest = tail;
                let q = &q[span.first_row * width..(span.first_row + span.len) * width];
                spans.push(AttentionSpan {
                    q,
                    start: span.start,
                    pages,
                    out,
                });
            }
            Ok(self.kernels.attention(&mut spans, *shape)?)
        })
    }

    fn conv1d(
        &self,
        op: &Op,
        step: &mut Step<'_>,
        weights: &Weights,
        buffers: &mut BufferPool,
    ) -> Result<(), Error> {
        let Op::Conv1dSilu {
            x,
            weight,
            state,
            channels,
            out,
        } = op
        else {
            return Err(wrong_op(op));
        };
        let weight = weights.vector(*weight)?;
        buffers.write(*out, |buffers, out| {
            let x = buffers.get(*x);
            let mut rest = out;
            let mut spans = Vec::with_capacity(step.spans.len());
            for span in &mut step.spans {
                let (out, tail) = rest.split_at_mut(span.len * channels);
                rest = tail;
                let x = &x[span.first_row * channels..(span.first_row + span.len) * channels];
                let (state, next_state) = recurrent(span.session, *state)?.step();
                spans.push(ConvSpan {
                    x,
                    state,
                    next_state,
                    out,
                });
            }
            Ok(self.kernels.conv1d_silu(&mut spans, weight, *channels)?)
        })
    }

    fn gated_delta(
        &self,
        op: &Op,
        step: &mut Step<'_>,
        weights: &Weights,
        buffers: &mut BufferPool,
    ) -> Result<(), Error> {
        let Op::GatedDelta {
            qkv,
            a,
            b,
            a_log,
            dt_bias,
            state,
            shape,
            out,
        } = op
        else {
            return Err(wrong_op(op));
        };
        let (a_log, dt_bias) = (weights.vector(*a_log)?, weights.vector(*dt_bias)?);
        let value_len = shape.value_heads * shape.value_dim;
        let qkv_len = 2 * shape.key_heads * shape.key_dim + value_len;
        buffers.write(*out, |buffers, out| {
            let (qkv, a, b) = (buffers.get(*qkv), buffers.get(*a), buffers.get(*b));
            let mut rest = out;
            let mut spans = Vec::with_capacity(step.spans.len());
            for span in &mut step.spans {
                let (out, tail) = rest.split_at_mut(span.len * value_len);
                rest = tail;
                let rows =
                    |width: usize| span.first_row * width..(span.first_row + span.len) * width;
                let (qkv, heads) = (&qkv[rows(qkv_len)], rows(shape.value_heads));
                let (a, b) = (&a[heads.clone()], &b[heads]);
                let (state, next_state) = recurrent(span.session, *state)?.step();
                spans.push(DeltaSpan {
                    qkv,
                    a,
                    b,
                    state,
                    next_state,
                    out,
                });
            }
            Ok(self
                .kernels
                .gated_delta(&mut spans, *shape, a_log, dt_bias)?)
        })
    }

    fn router(&self, op: &Op, buffers: &mut BufferPool) -> Result<(), Error> {
        let Op::Router {
            logits,
            experts,
            top_k,
            renormalize,
            ids,
            weights,
        } = op
        else {
            return Err(wrong_op(op));
        };
        let mut ids_memory = buffers.take(*ids);
        let ids_len = buffers.len(*ids);
        let result = buffers.write(*weights, |buffers, weights| {
            let ids: &mut [u32] = bytemuck::cast_slice_mut(&mut ids_memory[..ids_len]);
            let logits = buffers.get(*logits);
            Ok(self
                .kernels
                .route(logits, *experts, *top_k, *renormalize, ids, weights)?)
        });
        buffers.put(*ids, ids_memory);
        result
    }

    fn experts(
        &mut self,
        op: &Op,
        buffers: &mut BufferPool,
        stage: &mut ExpertStage,
    ) -> Result<(), Error> {
        let Op::Experts {
            x,
            ids,
            weights,
            top_k,
            layer,
            out,
        } = op
        else {
            return Err(wrong_op(op));
        };
        buffers.write(*out, |buffers, out| {
            let tokens = RoutedTokens {
                x: buffers.get(*x),
                ids: buffers.get_u32(*ids),
                weights: buffers.get(*weights),
                top_k: *top_k,
            };
            stage.run(&self.kernels, self.activations, *layer, tokens, out)
        })
    }

    fn kv_append(
        &self,
        step: &mut Step<'_>,
        (k, v): (BufferId, BufferId),
        state: StateId,
        buffers: &BufferPool,
    ) -> Result<(), Error> {
        let (k, v) = (buffers.get(k), buffers.get(v));
        let width = k.len() / step.tokens.len().max(1);
        for span in &mut step.spans {
            let rows = span.first_row * width..(span.first_row + span.len) * width;
            let cache = key_values_mut(span.session, state)?;
            cache.append(span.start, &k[rows.clone()], &v[rows]);
        }
        Ok(())
    }

    /// Operations that read buffers (and a weight) and write one buffer, row by row.
    fn elementwise(
        &self,
        op: &Op,
        step: &Step<'_>,
        weights: &Weights,
        buffers: &mut BufferPool,
    ) -> Result<(), Error> {
        let k = &self.kernels;
        let [out] = op.writes()[..] else {
            return Err(wrong_op(op));
        };
        buffers.write(out, |buffers, out| {
            let get = |id: &BufferId| buffers.get(*id);
            match op {
                Op::RmsNorm { x, weight, eps, .. } => {
                    k.rms_norm(get(x), weights.vector(*weight)?, *eps, out)?;
                }
                Op::RmsNormGated {
                    x,
                    gate,
                    weight,
                    eps,
                    ..
                } => {
                    k.rms_norm_gated(get(x), get(gate), weights.vector(*weight)?, *eps, out)?;
                }
                Op::Rope {
                    x,
                    heads,
                    head_dim,
                    inv_freq,
                    attention_scale,
                    style,
                    ..
                } => {
                    let (x, positions) = (get(x), step.positions);
                    let scale = *attention_scale;
                    k.rope(
                        x, positions, *heads, *head_dim, inv_freq, scale, *style, out,
                    )?;
                }
                Op::Swiglu { gate, up, .. } => k.swiglu(get(gate), get(up), out)?,
                Op::SigmoidMul { x, gate, .. } => k.sigmoid_mul(get(x), get(gate), out)?,
                Op::ScaleBySigmoid { x, gate, .. } => k.scale_by_sigmoid(get(x), get(gate), out)?,
                Op::Add { a, b, .. } => k.add(get(a), get(b), out)?,
                Op::SelectOutputs { x, .. } => {
                    let x = get(x);
                    let width = x.len() / step.tokens.len().max(1);
                    for (&row, out) in step.outputs.iter().zip(out.chunks_exact_mut(width.max(1))) {
                        out.copy_from_slice(&x[row as usize * width..(row as usize + 1) * width]);
                    }
                }
                other => return Err(wrong_op(other)),
            }
            Ok(())
        })
    }
}

impl<K: KernelSet> Backend for HostBackend<K> {
    fn run(
        &mut self,
        op: &Op,
        step: &mut Step<'_>,
        weights: &Weights,
        buffers: &mut BufferPool,
        experts: &mut ExpertStage,
    ) -> Result<(), Error> {
        match op {
            Op::Embed { weight, out } => {
                self.embed(step.tokens, &weights.matrix(*weight)?, buffers, *out)
            }
            Op::Matmul { x, outputs, exact } => self.matmul(*x, outputs, *exact, weights, buffers),
            Op::SplitPairs {
                x,
                heads,
                dim,
                first,
                second,
            } => {
                let mut memory = buffers.take(*first);
                let len = buffers.len(*first);
                let result = buffers.write(*second, |buffers, second| {
                    let x = buffers.get(*x);
                    Ok(self
                        .kernels
                        .split_pairs(x, *heads, *dim, &mut memory[..len], second)?)
                });
                buffers.put(*first, memory);
                result
            }
            Op::KvAppend { k, v, state } => self.kv_append(step, (*k, *v), *state, buffers),
            Op::Attention { .. } => self.attention(op, step, buffers),
            Op::Conv1dSilu { .. } => self.conv1d(op, step, weights, buffers),
            Op::GatedDelta { .. } => self.gated_delta(op, step, weights, buffers),
            Op::Router { .. } => self.router(op, buffers),
            Op::Experts { .. } => self.experts(op, buffers, experts),
            _ => self.elementwise(op, step, weights, buffers),
        }
    }
}

fn wrong_op(op: &Op) -> Error {
    Error::Internal(format!(
        "operation {} reached the wrong function",
        op.name()
    ))
}

fn wrong_state(state: StateId) -> Error {
    Error::Internal(format!("state {state:?} is of another kind"))
}

fn key_values(states: &[LayerState], state: StateId) -> Result<&KeyValueCache, Error> {
    match states.get(state.index()) {
        Some(LayerState::KeyValue(cache)) => Ok(cache),
        _ => Err(wrong_state(state)),
    }
}

fn key_values_mut(session: &mut Session, state: StateId) -> Result<&mut KeyValueCache, Error> {
    match session.states_mut().get_mut(state.index()) {
        Some(LayerState::KeyValue(cache)) => Ok(cache),
        _ => Err(wrong_state(state)),
    }
}

fn recurrent(session: &mut Session, state: StateId) -> Result<&mut Recurrent, Error> {
    match session.states_mut().get_mut(state.index()) {
        Some(LayerState::Recurrent(r)) => Ok(r),
        _ => Err(wrong_state(state)),
    }
}
