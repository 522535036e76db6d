//! The operations that read or write sessions' state, span by span.

use moeflux::backend::Step;
use moeflux::graph::{BufferPool, Op, StateId};
use moeflux::kernels::AttentionShape;
use moeflux::weights::Weights;
use moeflux::{Error, Session};

use super::{GpuBackend, prompt, wrong_op};
use crate::ops::{self, DeltaViews, SpanRows};
use crate::state::{DeviceKv, DeviceRecurrent};
use crate::{GpuError, Recorder, View};

impl GpuBackend {
    pub(super) fn with_state(
        &mut self,
        op: &Op,
        step: &mut Step<'_>,
        weights: &Weights,
        pool: &BufferPool,
    ) -> Result<(), Error> {
        for span in &mut step.spans {
            let rows = SpanRows::from(&*span);
            self.span(op, (span.session, span.is_prompt), rows, weights, pool)?;
        }
        Ok(())
    }

    fn span(
        &mut self,
        op: &Op,
        (session, is_prompt): (&mut Session, bool),
        rows: SpanRows,
        weights: &Weights,
        pool: &BufferPool,
    ) -> Result<(), Error> {
        let (gpu, r, held) = (&self.gpu, &mut self.recorder, &mut self.weights);
        let view = |id| self.buffers.view(pool, id);
        match op {
            Op::KvAppend { k, v, state } => {
                let kv = state_of::<DeviceKv>(session, *state)?;
                ops::kv_append(r, view(*k)?, view(*v)?, kv, rows)?;
            }
            Op::Attention { .. } => {
                return self.attention(op, (session, is_prompt), rows, weights, pool);
            }
            Op::Conv1dSilu {
                x,
                weight,
                state,
                channels,
                out,
            } => {
                let (weight, len) = held.vector(gpu, weights, *weight)?;
                let copies = state_of::<DeviceRecurrent>(session, *state)?.step()?;
                let views = (view(*x)?, weight, view(*out)?);
                let copies = (&*copies.0, &*copies.1);
                ops::conv1d_silu(r, views, copies, *channels, len / channels, rows)?;
            }
            Op::GatedDelta {
                qkv,
                a,
                b,
                a_log,
                dt_bias,
                state,
                shape,
                out,
            } => {
                held.vector(gpu, weights, *a_log)?;
                held.vector(gpu, weights, *dt_bias)?;
                let copies = state_of::<DeviceRecurrent>(session, *state)?.step()?;
                let views = DeltaViews {
                    qkv: view(*qkv)?,
                    a: view(*a)?,
                    b: view(*b)?,
                    a_log: held.known_vector(*a_log)?,
                    dt_bias: held.known_vector(*dt_bias)?,
                    out: view(*out)?,
                };
                let copies = (&*copies.0, &*copies.1);
                ops::gated_delta(r, &views, copies, *shape, rows)?;
            }
            Op::Entries(op) => {
                return self.entries(op, (session, is_prompt), rows, weights, pool);
            }
            other => return Err(wrong_op(other)),
        }
        Ok(())
    }

    fn attention(
        &mut self,
        op: &Op,
        (session, is_prompt): (&mut Session, bool),
        rows: SpanRows,
        weights: &Weights,
        pool: &BufferPool,
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
        let (gpu, r, held) = (&self.gpu, &mut self.recorder, &mut self.weights);
        let sinks = match sinks {
            Some(sinks) => Some(held.vector(gpu, weights, *sinks)?.0),
            None => None,
        };
        let kv = state_of::<DeviceKv>(session, *state)?;
        let views = (self.buffers.view(pool, *q)?, self.buffers.view(pool, *out)?);
        Ok(attend(r, views, kv, (*shape, sinks), rows, is_prompt)?)
    }
}

/// Attention of a span, in submissions that are not too long.
pub(super) fn attend(
    r: &mut Recorder,
    (q, out): (View<'_>, View<'_>),
    kv: &DeviceKv,
    shape: (AttentionShape, Option<View<'_>>),
    rows: SpanRows,
    is_prompt: bool,
) -> Result<(), GpuError> {
    if !is_prompt {
        return ops::attention(r, q, kv, out, shape, rows);
    }
    let width = shape.0.heads * shape.0.head_dim;
    for (number, part) in prompt::parts(rows, width).enumerate() {
        if number > 0 {
            r.submit();
        }
        ops::attention_prompt(r, q, kv, out, shape, part)?;
    }
    Ok(())
}

pub(super) fn two_states(
    session: &mut Session,
    ids: [StateId; 2],
) -> Result<[&DeviceKv; 2], Error> {
    let other = || Error::Internal(format!("states {ids:?} are of another kind or place"));
    let [one, two] = session.remote_states(ids).ok_or_else(other)?;
    let one = one.as_any().downcast_ref().ok_or_else(other)?;
    let two = two.as_any().downcast_ref().ok_or_else(other)?;
    Ok([one, two])
}

pub(super) fn state_of<S: 'static>(session: &mut Session, id: StateId) -> Result<&mut S, Error> {
    let other = || Error::Internal(format!("state {id:?} is of another kind or place"));
    let state = session.remote_state(id).ok_or_else(other)?;
    state.as_any().downcast_mut().ok_or_else(other)
}
