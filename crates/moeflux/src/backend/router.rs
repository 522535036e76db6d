//! The routers' choices, on the host.

use super::host::{HostBackend, wrong_op};
use super::kernel_set::KernelSet;
use crate::Error;
use crate::graph::{BufferPool, Op};
use crate::weights::Weights;

impl<K: KernelSet> HostBackend<K> {
    /// Runs [`Op::Router`], [`Op::GroupedRouter`] and [`Op::TokenRouter`].
    pub(super) fn router(
        &self,
        op: &Op,
        tokens: &[u32],
        resident: &Weights,
        buffers: &mut BufferPool,
    ) -> Result<(), Error> {
        let [ids, weights] = op.writes()[..] else {
            return Err(wrong_op(op));
        };
        let mut ids_memory = buffers.take(ids);
        let ids_len = buffers.len(ids);
        let result = buffers.write(weights, |buffers, weights| {
            let ids: &mut [u32] = bytemuck::cast_slice_mut(&mut ids_memory[..ids_len]);
            match op {
                Op::Router {
                    logits,
                    experts,
                    top_k,
                    renormalize,
                    ..
                } => {
                    let logits = buffers.get(*logits);
                    self.kernels
                        .route(logits, *experts, *top_k, *renormalize, ids, weights)?;
                }
                Op::GroupedRouter {
                    logits, bias, rule, ..
                } => {
                    let bias = bias.map(|bias| resident.vector(bias)).transpose()?;
                    let logits = buffers.get(*logits);
                    self.kernels
                        .route_grouped(logits, bias, rule, ids, weights)?;
                }
                Op::TokenRouter {
                    logits,
                    table,
                    rule,
                    ..
                } => {
                    let (logits, table) = (buffers.get(*logits), resident.vector(*table)?);
                    self.kernels
                        .route_by_token(logits, tokens, table, rule, ids, weights)?;
                }
                other => return Err(wrong_op(other)),
            }
            Ok(())
        });
        buffers.put(ids, ids_memory);
        result
    }
}
