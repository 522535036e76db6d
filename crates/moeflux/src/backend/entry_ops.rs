//! The operations on entries that stand for windows of positions, on the host.

use moeflux_kernels::{AttentionSpan, CompressSpan, Entries, IndexSpan, KvPage, RopeStyle};

use super::host::{HostBackend, wrong_op};
use super::kernel_set::KernelSet;
use super::state_ops::{key_values, key_values_mut, recurrent};
use super::{Step, StepSpan};
use crate::Error;
use crate::graph::{BufferPool, EntryForm, Op, StateId};
use crate::weights::Weights;

impl<K: KernelSet> HostBackend<K> {
    /// Runs [`Op::Compress`].
    pub(super) fn compress(
        &self,
        op: &Op,
        step: &mut Step<'_>,
        weights: &Weights,
        buffers: &BufferPool,
    ) -> Result<(), Error> {
        let Op::Compress {
            values,
            gates,
            state,
            entries,
            form,
        } = op
        else {
            return Err(wrong_op(op));
        };
        let shape = form.shape;
        let (values, gates) = (buffers.get(*values), buffers.get(*gates));
        let made = |span: &StepSpan<'_>| shape.completed(span.start, span.len) * shape.dim;
        let mut outs: Vec<Vec<f32>> = step.spans.iter().map(|s| vec![0.0; made(s)]).collect();
        let mut spans = Vec::with_capacity(step.spans.len());
        for (span, out) in step.spans.iter_mut().zip(&mut outs) {
            let width = shape.width();
            let rows = span.first_row * width..(span.first_row + span.len) * width;
            let (state, next_state) = recurrent(span.session, *state)?.step();
            spans.push(CompressSpan {
                values: &values[rows.clone()],
                gates: &gates[rows],
                start: span.start,
                state,
                next_state,
                out,
            });
        }
        let bias = weights.vector(form.bias)?;
        self.kernels.compress(&mut spans, shape, bias)?;
        for (span, pooled) in step.spans.iter_mut().zip(&outs) {
            self.append_entries(span, *entries, form, (pooled, weights))?;
        }
        Ok(())
    }

    /// Norms and rotates pooled windows and keeps them.
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
        let mut normed = vec![0.0; pooled.len()];
        let norm = weights.vector(form.norm)?;
        self.kernels.rms_norm(pooled, norm, form.eps, &mut normed)?;
        let mut keys = vec![0.0; pooled.len()];
        let style = RopeStyle::InterleavedTail;
        self.kernels.rope(
            &normed,
            &positions,
            1,
            dim,
            &form.inv_freq,
            form.attention_scale,
            style,
            &mut keys,
        )?;
        let cache = key_values_mut(span.session, entries)?;
        let pages = cache.pages_mut();
        Ok(self.kernels.kv_append(pages, first, &keys, &keys)?)
    }

    /// Runs [`Op::ChooseEntries`].
    pub(super) fn choose_entries(
        &self,
        op: &Op,
        step: &Step<'_>,
        buffers: &mut BufferPool,
    ) -> Result<(), Error> {
        let Op::ChooseEntries {
            q,
            weights,
            entries,
            shape,
            out,
        } = op
        else {
            return Err(wrong_op(op));
        };
        buffers.write(*out, |buffers, out| {
            let (q, weights) = (buffers.get(*q), buffers.get(*weights));
            let mut rest: &mut [u32] = bytemuck::cast_slice_mut(out);
            let mut spans = Vec::with_capacity(step.spans.len());
            for span in &step.spans {
                let (out, tail) = rest.split_at_mut(span.len * shape.top_k);
                rest = tail;
                let rows =
                    |width: usize| span.first_row * width..(span.first_row + span.len) * width;
                spans.push(IndexSpan {
                    q: &q[rows(shape.heads * shape.dim)],
                    weights: &weights[rows(shape.heads)],
                    start: span.start,
                    pages: pages(span, *entries)?,
                    out,
                });
            }
            Ok(self.kernels.choose_entries(&mut spans, *shape)?)
        })
    }

    /// Runs [`Op::SparseAttention`].
    pub(super) fn sparse_attention(
        &self,
        op: &Op,
        step: &Step<'_>,
        weights: &Weights,
        buffers: &mut BufferPool,
    ) -> Result<(), Error> {
        let Op::SparseAttention {
            q,
            state,
            entries,
            rate,
            chosen,
            shape,
            sinks,
            out,
        } = op
        else {
            return Err(wrong_op(op));
        };
        let sinks = sinks.map(|sinks| weights.vector(sinks)).transpose()?;
        let width = shape.heads * shape.head_dim;
        buffers.write(*out, |buffers, out| {
            let q = buffers.get(*q);
            let chosen = chosen.map(|id| buffers.get_u32(id));
            let top_k = chosen.map_or(0, |ids| ids.len() / step.tokens.len().max(1));
            let mut rest = out;
            let mut spans = Vec::with_capacity(step.spans.len());
            let mut all = Vec::with_capacity(step.spans.len());
            for span in &step.spans {
                let (out, tail) = rest.split_at_mut(span.len * width);
                rest = tail;
                let rows =
                    |width: usize| span.first_row * width..(span.first_row + span.len) * width;
                let cache = key_values(span.session.states(), *state)?;
                spans.push(AttentionSpan {
                    q: &q[rows(width)],
                    start: span.start,
                    dropped: cache.dropped(),
                    pages: cache.pages(),
                    out,
                });
                all.push(Entries {
                    rate: *rate,
                    pages: pages(span, *entries)?,
                    chosen: chosen.map(|ids| (&ids[rows(top_k)], top_k)),
                });
            }
            Ok(self
                .kernels
                .sparse_attention(&mut spans, &all, *shape, sinks)?)
        })
    }
}

/// The pages of a span's cache that forgets nothing.
fn pages<'a>(span: &'a StepSpan<'_>, state: StateId) -> Result<&'a [KvPage], Error> {
    Ok(key_values(span.session.states(), state)?.pages())
}
