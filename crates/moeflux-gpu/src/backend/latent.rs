//! The operations of latent attention and of corrected routing, and biases of projections.

use std::sync::Arc;

use moeflux::Error;
use moeflux::graph::{BufferPool, Op};
use moeflux::weights::Weights;
use moeflux_kernels::Piece;

use super::{GpuBackend, wrong_op};
use crate::ops::{self, DevicePieces};
use crate::{Gpu, GpuError};

/// Places of pieces on the device, with what keeps their address theirs.
#[derive(Default)]
pub(super) struct PieceLists {
    lists: Vec<(Arc<[Piece]>, DevicePieces)>,
}

impl PieceLists {
    fn get(
        &mut self,
        gpu: &Gpu,
        pieces: &Arc<[Piece]>,
        inputs: usize,
    ) -> Result<&DevicePieces, GpuError> {
        let same = |(known, _): &(Arc<[Piece]>, _)| Arc::ptr_eq(known, pieces);
        let at = match self.lists.iter().position(same) {
            Some(at) => at,
            None => {
                let list = DevicePieces::upload(gpu, pieces, inputs)?;
                self.lists.push((Arc::clone(pieces), list));
                self.lists.len() - 1
            }
        };
        Ok(&self.lists[at].1)
    }
}

impl GpuBackend {
    /// Runs an operation of this file's on `tokens` rows.
    pub(super) fn latent(
        &mut self,
        op: &Op,
        tokens: usize,
        weights: &Weights,
        pool: &BufferPool,
    ) -> Result<(), Error> {
        let (gpu, r, buffers) = (&self.gpu, &mut self.recorder, &self.buffers);
        let held = &mut self.weights;
        let view = |id| buffers.view(pool, id);
        match op {
            Op::AddBias { x, bias, out } => {
                let (bias, width) = held.vector(gpu, weights, *bias)?;
                let n = pool.len(*x) / width.max(1);
                ops::add_bias(r, (view(*x)?, bias, view(*out)?), n, width)?;
            }
            Op::Rearrange {
                inputs,
                pieces,
                out,
            } => {
                let list = self.pieces.get(gpu, pieces, inputs.len())?;
                let mut views = Vec::with_capacity(inputs.len());
                for &id in inputs {
                    views.push((view(id)?, pool.len(id) / tokens.max(1)));
                }
                ops::rearrange(r, &views, list, tokens, view(*out)?)?;
            }
            Op::HeadMatmul {
                x,
                weight,
                shape,
                out,
            } => {
                let matrix = held.matrix(gpu, weights, *weight)?;
                ops::head_matmul(r, matrix, (view(*x)?, view(*out)?), *shape, tokens)?;
            }
            Op::GroupedRouter {
                logits,
                bias,
                rule,
                ids,
                weights: chosen,
            } => {
                let bias = match bias {
                    Some(bias) => Some(held.vector(gpu, weights, *bias)?.0),
                    None => None,
                };
                let views = (view(*logits)?, view(*ids)?, view(*chosen)?);
                ops::grouped_router(r, views, bias, rule, tokens)?;
            }
            other => return Err(wrong_op(other)),
        }
        Ok(())
    }
}
