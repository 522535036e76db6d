//! The operations that read or write sessions' state, on the host.

use moeflux_kernels::{AttentionShape, AttentionSpan, ConvSpan, DeltaSpan, KV_PAGE_TOKENS};

use super::Step;
use super::host::{HostBackend, wrong_op};
use super::kernel_set::KernelSet;
use crate::Error;
use crate::graph::{BufferId, BufferPool, Op, StateId};
use crate::session::{KeyValueCache, LayerState, Recurrent, Session};
use crate::weights::Weights;

impl<K: KernelSet> HostBackend<K> {
    pub(super) fn attention(
        &self,
        op: &Op,
        step: &Step<'_>,
        weights: &Weights,
        buffers: &mut BufferPool,
    ) -> Result<(), Error> {
        let Op::Attention {
            q,
            state,
            shape,
            sinks,
            out,
        } = op
        else {
            return Err(wrong_op(op));
        };
        let sinks = sinks.map(|sinks| weights.vector(sinks)).transpose()?;
        buffers.write(*out, |buffers, out| {
            let mut spans = attention_spans(step, buffers.get(*q), *state, *shape, out)?;
            Ok(self.kernels.attention(&mut spans, *shape, sinks)?)
        })
    }

    pub(super) fn conv1d(
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
            let outs = step.rows_mut(out, *channels);
            let mut spans = Vec::with_capacity(outs.len());
            for (span, out) in step.spans.iter_mut().zip(outs) {
                let x = span.rows(x, *channels);
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

    pub(super) fn gated_delta(
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
            let outs = step.rows_mut(out, value_len);
            let mut spans = Vec::with_capacity(outs.len());
            for (span, out) in step.spans.iter_mut().zip(outs) {
                let qkv = span.rows(qkv, qkv_len);
                let a = span.rows(a, shape.value_heads * shape.head_decays());
                let b = span.rows(b, shape.value_heads);
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

    pub(super) fn kv_append(
        &self,
        step: &mut Step<'_>,
        (k, v): (BufferId, BufferId),
        state: StateId,
        buffers: &BufferPool,
    ) -> Result<(), Error> {
        let (k, v) = (buffers.get(k), buffers.get(v));
        let width = k.len() / step.tokens.len().max(1);
        for span in &mut step.spans {
            let (k, v) = (span.rows(k, width), span.rows(v, width));
            let cache = key_values_mut(span.session, state)?;
            let start = span.start - cache.dropped() * KV_PAGE_TOKENS;
            self.kernels.kv_append(cache.pages_mut(), start, k, v)?;
        }
        Ok(())
    }
}

/// Each span's queries and the positions that they attend to; `q` and `out` are
/// `[tokens, heads, head_dim]`.
pub(super) fn attention_spans<'a>(
    step: &'a Step<'_>,
    q: &'a [f32],
    state: StateId,
    shape: AttentionShape,
    out: &'a mut [f32],
) -> Result<Vec<AttentionSpan<'a>>, Error> {
    let width = shape.heads * shape.head_dim;
    let outs = step.rows_mut(out, width);
    let mut spans = Vec::with_capacity(outs.len());
    for (span, out) in step.spans.iter().zip(outs) {
        let cache = key_values(span.session.states(), state)?;
        spans.push(AttentionSpan {
            q: span.rows(q, width),
            start: span.start,
            dropped: cache.dropped(),
            pages: cache.pages(),
            out,
        });
    }
    Ok(spans)
}

fn wrong_state(state: StateId) -> Error {
    Error::Internal(format!("state {state:?} is of another kind"))
}

pub(super) fn key_values(states: &[LayerState], state: StateId) -> Result<&KeyValueCache, Error> {
    match states.get(state.index()) {
        Some(LayerState::KeyValue(cache)) => Ok(cache),
        _ => Err(wrong_state(state)),
    }
}

pub(super) fn key_values_mut(
    session: &mut Session,
    state: StateId,
) -> Result<&mut KeyValueCache, Error> {
    match session.states_mut().get_mut(state.index()) {
        Some(LayerState::KeyValue(cache)) => Ok(cache),
        _ => Err(wrong_state(state)),
    }
}

pub(super) fn recurrent(session: &mut Session, state: StateId) -> Result<&mut Recurrent, Error> {
    match session.states_mut().get_mut(state.index()) {
        Some(LayerState::Recurrent(r)) => Ok(r),
        _ => Err(wrong_state(state)),
    }
}
