//! The processor as a backend: looks up each operation's buffers, weights and state, and calls
//! its kernel.

use moeflux_kernels::{MatmulJob, Matrix, Quantized, Settled};

use super::buckets::RoutedTokens;
use super::expert_compute::Extras;
use super::experts::ExpertStage;
use super::kernel_set::KernelSet;
use super::lookahead::Guesser;
use super::ngrams::ngram_rows;
use super::{Backend, Step};
use crate::graph::{BufferId, BufferPool, EntryOp, Op, WeightId};
use crate::weights::Weights;
use crate::{Activations, Error};

/// Runs graphs on the processor with one set of kernels.
pub struct HostBackend<K> {
    pub(super) kernels: K,
    activations: Activations,
    quantized: Quantized,
    pub(super) guesser: Guesser,
}

impl<K: KernelSet> HostBackend<K> {
    /// A backend on `kernels`.
    pub fn new(kernels: K, activations: Activations) -> HostBackend<K> {
        HostBackend {
            kernels,
            activations,
            quantized: Quantized::default(),
            guesser: Guesser::default(),
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
        let rounding = match self.activations {
            Activations::Int8 if !exact => matrices.iter().find_map(Matrix::rounding),
            _ => None,
        };
        if let Some(rounding) = rounding {
            let cols = matrices[0].cols();
            let (rows, quantized) = (input.len() / cols, &mut self.quantized);
            self.kernels
                .quantize(quantized, input, rows, cols, rounding)?;
        }
        // Matrices of one input normally share a codec; one of another kind gets its own turn.
        let fits = |m: &Matrix<'_>| {
            m.rounding().is_none() || rounding.is_none() || m.rounding() == rounding
        };
        let mut jobs = Vec::with_capacity(matrices.len());
        let mut others = Vec::new();
        for ((matrix, &(_, out)), memory) in matrices.iter().zip(outputs).zip(taken) {
            let out = &mut memory[..buffers.len(out)];
            let quantized = rounding.and(matrix.rounding()).map(|_| &self.quantized);
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
            let cols = weights.cols();
            if let Some(rounding) = weights.rounding() {
                self.kernels
                    .quantize(&mut quantized, x, x.len() / cols, cols, rounding)?;
            }
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

    fn experts(
        &mut self,
        op: &Op,
        resident: &Weights,
        buffers: &mut BufferPool,
        stage: &mut ExpertStage,
    ) -> Result<(), Error> {
        let Op::Experts {
            x,
            ids,
            weights,
            top_k,
            layer,
            form,
            out,
        } = op
        else {
            return Err(wrong_op(op));
        };
        let extras = Extras::new(form, resident)?;
        buffers.write(*out, |buffers, out| {
            let tokens = RoutedTokens {
                x: buffers.get(*x),
                ids: buffers.get_u32(*ids),
                weights: buffers.get(*weights),
                top_k: *top_k,
            };
            let arithmetic = (self.activations, extras);
            stage.run(&self.kernels, arithmetic, *layer, tokens, out)
        })
    }

    fn request_experts(
        &self,
        op: &Op,
        buffers: &BufferPool,
        stage: &mut ExpertStage,
    ) -> Result<(), Error> {
        let Op::RequestExperts {
            ids,
            weights,
            top_k,
            layer,
        } = op
        else {
            return Err(wrong_op(op));
        };
        let tokens = RoutedTokens {
            x: &[],
            ids: buffers.get_u32(*ids),
            weights: buffers.get(*weights),
            top_k: *top_k,
        };
        stage.request(*layer, tokens)
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
                Op::Glu { gate, up, rule, .. } => k.glu(get(gate), get(up), *rule, out)?,
                Op::SigmoidMul { x, gate, .. } => k.sigmoid_mul(get(x), get(gate), out)?,
                Op::ScaleBySigmoid { x, gate, .. } => k.scale_by_sigmoid(get(x), get(gate), out)?,
                Op::Add { a, b, .. } => k.add(get(a), get(b), out)?,
                Op::AddBias { x, bias, .. } => k.add_bias(get(x), weights.vector(*bias)?, out)?,
                Op::Rearrange { inputs, pieces, .. } => {
                    let inputs: Vec<&[f32]> = inputs.iter().map(get).collect();
                    k.rearrange(&inputs, pieces, out)?;
                }
                Op::HeadMatmul {
                    x, weight, shape, ..
                } => k.head_matmul(&weights.matrix(*weight)?, get(x), *shape, out)?,
                Op::SelectOutputs { x, .. } => {
                    let x = get(x);
                    let width = x.len() / step.tokens.len().max(1);
                    for (&row, out) in step.outputs.iter().zip(out.chunks_exact_mut(width.max(1))) {
                        out.copy_from_slice(&x[row as usize * width..(row as usize + 1) * width]);
                    }
                }
                Op::Streams(op) => self.streams(op, weights, buffers, out)?,
                other => self.norm(other, weights, buffers, out)?,
            }
            Ok(())
        })
    }

    /// Norms of rows or of their pieces.
    fn norm(
        &self,
        op: &Op,
        weights: &Weights,
        buffers: &BufferPool,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let k = &self.kernels;
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
            } => k.rms_norm_gated(get(x), get(gate), weights.vector(*weight)?, *eps, out)?,
            Op::RmsNormalize { x, len, eps, .. } => k.rms_normalize(get(x), *len, *eps, out)?,
            Op::LayerNorm {
                x,
                weight_and_bias: [weight, bias],
                eps,
                ..
            } => {
                let (weight, bias) = (weights.vector(*weight)?, weights.vector(*bias)?);
                k.layer_norm(get(x), weight, bias, *eps, out)?;
            }
            other => return Err(wrong_op(other)),
        }
        Ok(())
    }
}

impl<K: KernelSet> Backend for HostBackend<K> {
    fn settle(&self) -> Settled {
        self.kernels.settle()
    }

    fn give_back_scratch(&mut self) {
        self.quantized = Quantized::default();
    }

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
            Op::Attention { .. } => self.attention(op, step, weights, buffers),
            Op::Conv1dSilu { .. } => self.conv1d(op, step, weights, buffers),
            Op::GatedDelta { .. } => self.gated_delta(op, step, weights, buffers),
            Op::Entries(EntryOp::Compress { .. }) => self.compress(op, step, weights, buffers),
            Op::Entries(EntryOp::Choose { .. }) => self.choose_entries(op, step, buffers),
            Op::Entries(EntryOp::SparseAttention { .. }) => {
                self.sparse_attention(op, step, weights, buffers)
            }
            Op::Entries(EntryOp::BlockAttention { .. }) => self.block_attention(op, step, buffers),
            Op::NgramRows { table, rule, out } => {
                ngram_rows(step, weights.table(*table)?, rule, buffers, *out)
            }
            Op::Router { .. } | Op::GroupedRouter { .. } | Op::TokenRouter { .. } => {
                self.router(op, step.tokens, weights, buffers)
            }
            Op::RequestExperts { .. } => self.request_experts(op, buffers, experts),
            Op::Lookahead { .. } => self.lookahead(op, weights, buffers, experts),
            Op::Experts { .. } => self.experts(op, weights, buffers, experts),
            _ => self.elementwise(op, step, weights, buffers),
        }
    }
}

pub(super) fn wrong_op(op: &Op) -> Error {
    Error::Internal(format!(
        "operation {} reached the wrong function",
        op.name()
    ))
}
