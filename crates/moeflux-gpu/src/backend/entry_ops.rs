//! The operations on entries that stand for windows of positions, and on blocks of positions, of
//! one span.

use moeflux::graph::{BufferPool, EntryForm, EntryOp, StateId};
use moeflux::weights::Weights;
use moeflux::{Error, Session};

use super::GpuBackend;
use super::state_ops::{attend, state_of, two_states};
use crate::View;
use crate::ops::{self, CompressViews, DeviceEntries, RopeShape, SpanRows};
use crate::state::{DeviceKv, DeviceRecurrent};

impl GpuBackend {
    pub(super) fn entries(
        &mut self,
        op: &EntryOp,
        (session, is_prompt): (&mut Session, bool),
        rows: SpanRows,
        weights: &Weights,
        pool: &BufferPool,
    ) -> Result<(), Error> {
        match op {
            EntryOp::Compress { .. } => return self.compress(op, session, rows, weights, pool),
            EntryOp::SparseAttention { .. } => {
                return self.sparse_attention(op, session, rows, weights, pool);
            }
            EntryOp::Choose {
                q,
                weights,
                entries,
                shape,
                out,
            } => {
                let view = |id| self.buffers.view(pool, id);
                let weights = weights.map(view).transpose()?;
                let kv = state_of::<DeviceKv>(session, *entries)?;
                let views = (view(*q)?, weights, view(*out)?);
                ops::choose_entries(&mut self.recorder, views, kv, *shape, rows)?;
            }
            EntryOp::BlockAttention {
                q,
                state,
                chosen,
                rate,
                shape,
                out,
            } => {
                let view = |id| self.buffers.view(pool, id);
                let kv = state_of::<DeviceKv>(session, *state)?;
                let views = (view(*q)?, view(*out)?);
                let (chosen, top_k) = (view(*chosen)?, pool.width(*chosen));
                // Queries that see no more blocks than they may choose see all positions.
                let whole = top_k.saturating_add(1).saturating_mul(*rate);
                let whole = whole.saturating_sub(1 + rows.start).min(rows.len);
                let first = SpanRows { len: whole, ..rows };
                let r = &mut self.recorder;
                attend(r, views, kv, (*shape, None), first, is_prompt)?;
                let rest = SpanRows {
                    first_row: rows.first_row + whole,
                    len: rows.len - whole,
                    start: rows.start + whole,
                };
                let chosen = (chosen, top_k, *rate);
                ops::block_attention(r, views, kv, chosen, *shape, rest)?;
            }
        }
        Ok(())
    }

    fn compress(
        &mut self,
        op: &EntryOp,
        session: &mut Session,
        rows: SpanRows,
        weights: &Weights,
        pool: &BufferPool,
    ) -> Result<(), Error> {
        let EntryOp::Compress {
            values,
            gates,
            state,
            entries,
            form,
        } = op
        else {
            return Ok(());
        };
        let (gpu, r, held) = (&self.gpu, &mut self.recorder, &mut self.weights);
        let view = |id| self.buffers.view(pool, id);
        let made = form.shape.completed(rows.start, rows.len);
        let bytes = (made * form.shape.dim * 4).max(4) as u64;
        let pooled = r.scratch("entries: pooled", bytes)?;
        let pooled = View::first(&pooled, bytes);
        let bias = match form.bias {
            Some(bias) => Some(held.vector(gpu, weights, bias)?.0),
            None => None,
        };
        let views = CompressViews {
            values: view(*values)?,
            gates: gates.map(view).transpose()?,
            bias,
        };
        let copies = state_of::<DeviceRecurrent>(session, *state)?.step()?;
        let copies = (&*copies.0, &*copies.1);
        ops::compress(r, views, copies, pooled, form.shape, rows)?;
        if made == 0 {
            return Ok(());
        }
        self.keep_entries(pooled, form, (session, *entries), (rows, made), weights)
    }

    /// Norms and rotates the pooled windows of a span, if their form says so, and keeps them.
    fn keep_entries(
        &mut self,
        pooled: View<'_>,
        form: &EntryForm,
        (session, entries): (&mut Session, StateId),
        (rows, made): (SpanRows, usize),
        weights: &Weights,
    ) -> Result<(), Error> {
        let (gpu, r) = (&self.gpu, &mut self.recorder);
        let (dim, rate) = (form.shape.dim, form.shape.rate);
        let first = rows.start / rate;
        let (normed, turned);
        let mut keys = pooled;
        if let Some(norm) = form.norm {
            let (norm, _) = self.weights.vector(gpu, weights, norm)?;
            normed = r.scratch("entries: normed", pooled.bytes)?;
            let to = View::first(&normed, pooled.bytes);
            ops::rms_norm(r, (keys, norm, to), made, dim, form.eps)?;
            keys = to;
        }
        if !form.inv_freq.is_empty() {
            self.inputs.freqs(gpu, &form.inv_freq)?;
            let freqs = self.inputs.known_freqs(&form.inv_freq)?;
            turned = r.scratch("entries: turned", pooled.bytes)?;
            let to = View::first(&turned, pooled.bytes);
            let shape = RopeShape {
                heads: 1,
                head_dim: dim,
                pairs: form.inv_freq.len(),
                style: form.style,
                attention_scale: form.attention_scale,
            };
            ops::rope_stepped(r, (keys, freqs, to), shape, made, (first * rate, rate))?;
            keys = to;
        }
        let kv = state_of::<DeviceKv>(session, entries)?;
        let own = SpanRows {
            first_row: 0,
            len: made,
            start: first,
        };
        Ok(ops::kv_append(r, keys, keys, kv, own)?)
    }

    fn sparse_attention(
        &mut self,
        op: &EntryOp,
        session: &mut Session,
        rows: SpanRows,
        weights: &Weights,
        pool: &BufferPool,
    ) -> Result<(), Error> {
        let EntryOp::SparseAttention {
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
            return Ok(());
        };
        let view = |id| self.buffers.view(pool, id);
        let sinks = match sinks {
            Some(sinks) => Some(self.weights.vector(&self.gpu, weights, *sinks)?.0),
            None => None,
        };
        let chosen = match chosen {
            Some(chosen) => Some((view(*chosen)?, pool.width(*chosen))),
            None => None,
        };
        let [kv, own] = two_states(session, [*state, *entries])?;
        let own = DeviceEntries {
            kv: own,
            rate: *rate,
            chosen,
        };
        let views = (view(*q)?, view(*out)?);
        let shape = (*shape, sinks);
        Ok(ops::sparse_attention(
            &mut self.recorder,
            views,
            kv,
            own,
            shape,
            rows,
        )?)
    }
}
