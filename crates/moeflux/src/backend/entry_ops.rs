//! The operations on entries that stand for windows of positions, on the host.

use moeflux_kernels::{Blocks, CompressSpan, Entries, IndexSpan, KvPage};

use super::host::{HostBackend, wrong_op};
use super::kernel_set::KernelSet;
use super::state_ops::{attention_spans, key_values, key_values_mut, recurrent};
use super::{Step, StepSpan};
use crate::Error;
use crate::graph::{BufferPool, EntryForm, EntryOp, Op, StateId};
use crate::weights::Weights;

impl<K: KernelSet> HostBackend<K> {
    /// Runs [`EntryOp::Compress`].
    pub(super) fn compress(
        &self,
        op: &Op,
        step: &mut Step<'_>,
        weights: &Weights,
        buffers: &BufferPool,
    ) -> Result<(), Error> {
        let Op::Entries(EntryOp::Compress {
            values,
            gates,
            state,
            entries,
            form,
        }) = op
        else {
            return Err(wrong_op(op));
        };
        let shape = form.shape;
        let values = buffers.get(*values);
        // Positions that all weigh the same have gates of zero.
        let alike = vec![0.0; if gates.is_none() { values.len() } else { 0 }];
        let gates = gates.map_or(&alike[..], |gates| buffers.get(gates));
        let made = |span: &StepSpan<'_>| shape.completed(span.start, span.len) * shape.dim;
        let mut outs: Vec<Vec<f32>> = step.spans.iter().map(|s| vec![0.0; made(s)]).collect();
        let mut spans = Vec::with_capacity(step.spans.len());
        for (span, out) in step.spans.iter_mut().zip(&mut outs) {
            let own = |all| span.rows(all, shape.width());
            let (values, gates) = (own(values), own(gates));
            let (state, next_state) = recurrent(span.session, *state)?.step();
            spans.push(CompressSpan {
                values,
                gates,
                start: span.start,
                state,
                next_state,
                out,
            });
        }
        let no_bias = vec![0.0; shape.rate * shape.width()];
        let bias = match form.bias {
            Some(bias) => weights.vector(bias)?,
            None => &no_bias[..],
        };
        self.kernels.compress(&mut spans, shape, bias)?;
        for (span, pooled) in step.spans.iter_mut().zip(&outs) {
            self.append_entries(span, *entries, form, (pooled, weights))?;
        }
        Ok(())
    }

    /// Norms and rotates pooled windows, if their form says so, and keeps them.
    fn append_entries(
        &self,
        span: &mut StepSpan<'_>,
        entries: StateId,
        form: &EntryForm,
        (pooled, weights): (&[f32], &Weights),
    ) -> Result<(), Error> {
        let (rate, dim) = (form.shape.rate, form.shape.dim);
        let first = span.start / rate;
        let positions: Vec<u32> = (first..first + pooled.len() / dim)
            .map(|entry| (entry * rate) as u32)
            .collect();
        let mut keys = pooled.to_vec();
        if let Some(norm) = form.norm {
            let norm = weights.vector(norm)?;
            self.kernels.rms_norm(pooled, norm, form.eps, &mut keys)?;
        }
        if !form.inv_freq.is_empty() {
            let normed = keys.clone();
            self.kernels.rope(
                &normed,
                &positions,
                1,
                dim,
                &form.inv_freq,
                form.attention_scale,
                form.style,
                &mut keys,
            )?;
        }
        let cache = key_values_mut(span.session, entries)?;
        let pages = cache.pages_mut();
        Ok(self.kernels.kv_append(pages, first, &keys, &keys)?)
    }

    /// Runs [`EntryOp::Choose`].
    pub(super) fn choose_entries(
        &self,
        op: &Op,
        step: &Step<'_>,
        buffers: &mut BufferPool,
    ) -> Result<(), Error> {
        let Op::Entries(EntryOp::Choose {
            q,
            weights,
            entries,
            shape,
            out,
        }) = op
        else {
            return Err(wrong_op(op));
        };
        buffers.write(*out, |buffers, out| {
            let q = buffers.get(*q);
            // Heads that all weigh the same have weights of one.
            let rows = step.tokens.len() * shape.heads;
            let alike = vec![1.0; if weights.is_none() { rows } else { 0 }];
            let weights = weights.map_or(&alike[..], |weights| buffers.get(weights));
            let outs = step.rows_mut(bytemuck::cast_slice_mut(out), shape.top_k);
            let mut spans = Vec::with_capacity(outs.len());
            for (span, out) in step.spans.iter().zip(outs) {
                spans.push(IndexSpan {
                    q: span.rows(q, shape.heads * shape.dim),
                    weights: span.rows(weights, shape.heads),
                    start: span.start,
                    pages: pages(span, *entries)?,
                    out,
                });
            }
            Ok(self.kernels.choose_entries(&mut spans, *shape)?)
        })
    }

    /// Runs [`EntryOp::SparseAttention`].
    pub(super) fn sparse_attention(
        &self,
        op: &Op,
        step: &Step<'_>,
        weights: &Weights,
        buffers: &mut BufferPool,
    ) -> Result<(), Error> {
        let Op::Entries(EntryOp::SparseAttention {
            q,
            state,
            entries,
            rate,
            chosen,
            shape,
            sinks,
            out,
        }) = op
        else {
            return Err(wrong_op(op));
        };
        let sinks = sinks.map(|sinks| weights.vector(sinks)).transpose()?;
        buffers.write(*out, |buffers, out| {
            let chosen = chosen.map(|id| (buffers.get_u32(id), buffers.width(id)));
            let mut all = Vec::with_capacity(step.spans.len());
            for span in &step.spans {
                all.push(Entries {
                    rate: *rate,
                    pages: pages(span, *entries)?,
                    chosen: chosen.map(|(ids, top_k)| (span.rows(ids, top_k), top_k)),
                });
            }
            let mut spans = attention_spans(step, buffers.get(*q), *state, *shape, out)?;
            Ok(self
                .kernels
                .sparse_attention(&mut spans, &all, *shape, sinks)?)
        })
    }

    /// Runs [`EntryOp::BlockAttention`].
    pub(super) fn block_attention(
        &self,
        op: &Op,
        step: &Step<'_>,
        buffers: &mut BufferPool,
    ) -> Result<(), Error> {
        let Op::Entries(EntryOp::BlockAttention {
            q,
            state,
            chosen,
            rate,
            shape,
            out,
        }) = op
        else {
            return Err(wrong_op(op));
        };
        buffers.write(*out, |buffers, out| {
            let (ids, top_k) = (buffers.get_u32(*chosen), buffers.width(*chosen));
            let of = |span: &StepSpan<'_>| Blocks {
                rate: *rate,
                chosen: span.rows(ids, top_k),
                top_k,
            };
            let all: Vec<Blocks<'_>> = step.spans.iter().map(of).collect();
            let mut spans = attention_spans(step, buffers.get(*q), *state, *shape, out)?;
            Ok(self.kernels.block_attention(&mut spans, &all, *shape)?)
        })
    }
}

/// The pages of a span's cache that forgets nothing.
fn pages<'a>(span: &'a StepSpan<'_>, state: StateId) -> Result<&'a [KvPage], Error> {
    Ok(key_values(span.session.states(), state)?.pages())
}
