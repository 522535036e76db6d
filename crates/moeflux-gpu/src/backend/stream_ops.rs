//! The operations on a residual of several streams, and others that models with one have.

use moeflux::Error;
use moeflux::backend::{self, Step};
use moeflux::graph::{BufferPool, Op, StreamOp};
use moeflux::weights::Weights;

use super::{GpuBackend, wrong_op};
use crate::GpuError;
use crate::ops;

impl GpuBackend {
    pub(super) fn streams(
        &mut self,
        op: &StreamOp,
        weights: &Weights,
        pool: &BufferPool,
    ) -> Result<(), Error> {
        let (gpu, r, buffers) = (&self.gpu, &mut self.recorder, &self.buffers);
        let held = &mut self.weights;
        let view = |id| buffers.view(pool, id);
        match *op {
            StreamOp::Weights {
                projected,
                scale_and_base: [scale, base],
                rule,
                out,
            } => {
                held.vector(gpu, weights, scale)?;
                held.vector(gpu, weights, base)?;
                let (scale, base) = (held.known_vector(scale)?, held.known_vector(base)?);
                let views = (view(projected)?, scale, base, view(out)?);
                ops::stream_weights(r, views, rule, pool.rows(projected))?;
            }
            StreamOp::Collapse {
                x,
                weights,
                rule,
                out,
            } => {
                let views = (view(x)?, view(weights)?, view(out)?);
                let sizes = (rule, pool.width(out));
                ops::collapse_streams(r, views, sizes, pool.rows(out))?;
            }
            StreamOp::Spread {
                x,
                block,
                weights,
                rule,
                out,
            } => {
                let views = (view(x)?, view(block)?, view(weights)?, view(out)?);
                let sizes = (rule, pool.width(block));
                ops::spread_streams(r, views, sizes, pool.rows(out))?;
            }
            StreamOp::Mean {
                x,
                streams,
                hidden,
                out,
            } => {
                let views = (view(x)?, view(out)?);
                ops::mean_streams(r, views, (streams, hidden), pool.rows(out))?;
            }
            StreamOp::Norm {
                x,
                weight,
                len,
                eps,
                out,
            } => {
                let (weight, own) = held.vector(gpu, weights, weight)?;
                let views = (view(x)?, weight, view(out)?);
                let pieces = (pool.len(x) / len.max(1), own / len.max(1));
                ops::rms_norm_pieces(r, views, pieces, len, eps)?;
            }
            _ => return self.gated_streams(op, pool),
        }
        Ok(())
    }

    /// Those by gates.
    fn gated_streams(&mut self, op: &StreamOp, pool: &BufferPool) -> Result<(), Error> {
        let (r, buffers) = (&mut self.recorder, &self.buffers);
        let view = |id| buffers.view(pool, id);
        match *op {
            StreamOp::Mix {
                x,
                gates,
                streams,
                out,
            } => {
                let views = (view(x)?, view(gates)?, view(out)?);
                let sizes = (streams, pool.width(out));
                ops::mix_streams(r, views, sizes, pool.rows(out))?;
            }
            StreamOp::Inject {
                x,
                block,
                weights,
                streams,
                out,
            } => {
                let views = (view(x)?, view(block)?, view(weights)?, view(out)?);
                let sizes = (streams, pool.width(block));
                ops::inject_streams(r, views, sizes, pool.rows(out))?;
            }
            StreamOp::Gate {
                keys,
                queries,
                values,
                streams,
                out,
            } => {
                let views = (view(keys)?, view(queries)?, view(values)?, view(out)?);
                let sizes = (streams, pool.width(values));
                ops::gate_streams(r, views, sizes, pool.rows(out))?;
            }
            StreamOp::ScaledSilu { x, divisor, out } => {
                ops::scaled_silu(r, (view(x)?, view(out)?), divisor, pool.len(x))?;
            }
            _ => return Err(wrong_op(&Op::Streams(op.clone()))),
        }
        Ok(())
    }

    /// Norms without a weight or without a mean, and the clamped activation.
    pub(super) fn norms_and_gates(
        &mut self,
        op: &Op,
        weights: &Weights,
        pool: &BufferPool,
    ) -> Result<(), Error> {
        let (gpu, r, buffers) = (&self.gpu, &mut self.recorder, &self.buffers);
        let held = &mut self.weights;
        let view = |id| buffers.view(pool, id);
        match *op {
            Op::RmsNormalize { x, len, eps, out } => {
                let pieces = pool.len(x) / len.max(1);
                ops::rms_normalize(r, (view(x)?, view(out)?), pieces, len, eps)?;
            }
            Op::LayerNorm {
                x,
                weight_and_bias: [weight, bias],
                eps,
                out,
            } => {
                let (_, len) = held.vector(gpu, weights, weight)?;
                held.vector(gpu, weights, bias)?;
                let (weight, bias) = (held.known_vector(weight)?, held.known_vector(bias)?);
                let views = (view(x)?, weight, bias, view(out)?);
                ops::layer_norm(r, views, pool.len(x) / len.max(1), len, eps)?;
            }
            Op::Glu {
                gate,
                up,
                rule,
                out,
            } => {
                let views = (view(gate)?, view(up)?, view(out)?);
                ops::glu(r, views, rule, pool.len(out))?;
            }
            _ => return Err(wrong_op(op)),
        }
        Ok(())
    }

    /// Experts by the token itself.
    pub(super) fn token_router(
        &mut self,
        op: &Op,
        step: &Step<'_>,
        weights: &Weights,
        pool: &BufferPool,
    ) -> Result<(), Error> {
        let Op::TokenRouter {
            logits,
            table,
            rule,
            ids,
            weights: chosen,
        } = op
        else {
            return Err(wrong_op(op));
        };
        // The kernel takes what the table says.
        let experts = weights.vector(*table)?;
        for &token in step.tokens {
            let first = token as usize * rule.top_k;
            let row = experts.get(first..first.saturating_add(rule.top_k));
            if !row.is_some_and(|row| row.iter().all(|&e| (e as usize) < rule.experts)) {
                let problem = format!(
                    "token {token} has no {} of {} experts in the table",
                    rule.top_k, rule.experts
                );
                let op = op.name();
                return Err(GpuError::Unsupported { op, problem }.into());
            }
        }
        let (table, _) = self.weights.vector(&self.gpu, weights, *table)?;
        let (r, buffers) = (&mut self.recorder, &self.buffers);
        let view = |id| buffers.view(pool, id);
        let list = self.inputs.tokens(r, step)?;
        let inputs = (view(*logits)?, list, table);
        let outputs = (view(*ids)?, view(*chosen)?);
        ops::token_router(r, inputs, outputs, rule, step.tokens.len())?;
        Ok(())
    }

    /// Rows by n-grams: their table is the host's, memory or file, so they are read there and
    /// brought.
    pub(super) fn ngram_rows(
        &mut self,
        op: &Op,
        step: &Step<'_>,
        weights: &Weights,
        pool: &mut BufferPool,
    ) -> Result<(), Error> {
        let Op::NgramRows { table, rule, out } = op else {
            return Err(wrong_op(op));
        };
        backend::ngram_rows(step, weights.table(*table)?, rule, pool, *out)?;
        let bytes = bytemuck::cast_slice(pool.get(*out));
        let view = self.buffers.view(pool, *out)?;
        self.recorder.write(view.buffer, view.offset, bytes);
        Ok(())
    }
}
