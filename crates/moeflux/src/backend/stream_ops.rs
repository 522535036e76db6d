//! The operations on a residual of several streams, on the host.

use super::host::HostBackend;
use super::kernel_set::KernelSet;
use crate::Error;
use crate::graph::{BufferId, BufferPool, StreamOp};
use crate::weights::Weights;

impl<K: KernelSet> HostBackend<K> {
    /// Operations on the streams of a residual.
    pub(super) fn streams(
        &self,
        op: &StreamOp,
        weights: &Weights,
        buffers: &BufferPool,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let k = &self.kernels;
        let get = |id: &BufferId| buffers.get(*id);
        match op {
            StreamOp::Weights {
                projected,
                scale_and_base: [scale, base],
                rule,
                ..
            } => {
                let (scale, base) = (weights.vector(*scale)?, weights.vector(*base)?);
                k.stream_weights(get(projected), scale, base, *rule, out)?;
            }
            StreamOp::Collapse {
                x, weights, rule, ..
            } => k.collapse_streams(get(x), get(weights), *rule, out)?,
            StreamOp::Mean {
                x, streams, hidden, ..
            } => k.mean_streams(get(x), *streams, *hidden, out)?,
            StreamOp::Spread {
                x,
                block,
                weights,
                rule,
                ..
            } => k.spread_streams(get(x), get(block), get(weights), *rule, out)?,
            StreamOp::Norm {
                x,
                weight,
                len,
                eps,
                ..
            } => k.rms_norm_pieces(get(x), weights.vector(*weight)?, *len, *eps, out)?,
            StreamOp::ScaledSilu { x, divisor, .. } => k.scaled_silu(get(x), *divisor, out)?,
            StreamOp::Mix {
                x, gates, streams, ..
            } => {
                let sizes = (*streams, buffers.width(*x) / (*streams).max(1));
                k.mix_streams(get(x), get(gates), sizes, out)?;
            }
            StreamOp::Inject {
                x,
                block,
                weights,
                streams,
                ..
            } => k.inject_streams(get(x), get(block), get(weights), *streams, out)?,
            StreamOp::Gate {
                keys,
                queries,
                values,
                streams,
                ..
            } => {
                let sizes = (*streams, buffers.width(*values));
                k.gate_streams(get(keys), get(queries), get(values), sizes, out)?;
            }
        }
        Ok(())
    }
}
