//! The operations that read or write sessions' state, on the host.

use moeflux_kernels::{AttentionSpan, ConvSpan, DeltaSpan, KV_PAGE_TOKENS};

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
        let width = shape.heads * shape.head_dim;
        buffers.write(*out, |buffers, out| {
            let q = buffers.get(*q);
            let mut rest = out;
            let mut spans = Vec::with_capacity(step.spans.len());
            for span in &step.spans {
                let (out, tail) = rest.split_at_mut(span.len * width);
                rest = tail;
                let q = &q[span.first_row * width..(span.first_row + span.len) * width];
                let cache = key_values(span.session.states(), *state)?;
                spans.push(AttentionSpan {
                    q,
                    start: span.start,
                    dropped: cache.dropped(),
                    pages: cache.pages(),
                    out,
                });
            }
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
            let mut rest = out;
            let mut spans = Vec::with_capacity(step.spans.len());
            for span in &mut step.spans {
                let (out, tail) = rest.split_at_mut(span.len * value_len);
                rest = tail;
                let rows =
                    |width: usize| span.first_row * width..(span.first_row + span.len) * width;
                let qkv = &qkv[rows(qkv_len)];
                let a = &a[rows(shape.value_heads * shape.head_decays())];
                let b = &b[rows(shape.value_heads)];
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
            let rows = span.first_row * width..(span.first_row + span.len) * width;
            let cache = key_values_mut(span.session, state)?;
            let start = span.start - cache.dropped() * KV_PAGE_TOKENS;
            self.kernels
                .kv_append(cache.pages_mut(), start, &k[rows.clone()], &v[rows])?;
        }
        Ok(())
    }
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
