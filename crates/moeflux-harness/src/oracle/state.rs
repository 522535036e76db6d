//! Operations on sessions' state: keys and values, causal convolution, the gated delta rule.

use half::f16;
use moeflux::graph::{EntryOp, Op, StateDecl};
use moeflux::kernels::{AttentionShape, Decay, DeltaShape, HeadOrder, KvType};

use super::dense::{sigmoid, silu};
use super::{Oracle, Rows};
use crate::HarnessError;

/// Added to the square of a query's or key's length before it is scaled to one.
const LENGTH_EPS: f64 = 1e-6;

/// A piece of a session's state.
#[derive(Clone)]
pub(super) enum State {
    /// `[positions, kv_heads, head_dim]` each.
    KeyValue {
        decl: StateDecl,
        keys: Vec<f64>,
        values: Vec<f64>,
    },
    Recurrent(Vec<f64>),
}

impl State {
    pub(super) fn new(decl: &StateDecl) -> State {
        match decl {
            StateDecl::KeyValue { .. } => State::KeyValue {
                decl: *decl,
                keys: Vec::new(),
                values: Vec::new(),
            },
            StateDecl::Recurrent { len } => State::Recurrent(vec![0.0; *len]),
        }
    }

    /// As a session of `len` tokens gives it.
    pub(super) fn values(&self, len: usize) -> Vec<f32> {
        match self {
            State::KeyValue { decl, keys, values } => {
                let first = decl.first_needed(len) * (keys.len() / decl.kept(len).max(1));
                let needed = keys[first..].iter().chain(&values[first..]);
                needed.map(|&v| v as f32).collect()
            }
            State::Recurrent(values) => values.iter().map(|&v| v as f32).collect(),
        }
    }
}

/// What a session keeps of a key's or value's element.
pub(super) fn stored(value: f64, kv_type: KvType) -> f64 {
    match kv_type {
        KvType::F32 => f64::from(value as f32),
        KvType::F16 => {
            let largest = f16::MAX.to_f64();
            f16::from_f64(value.clamp(-largest, largest)).to_f64()
        }
    }
}

/// Four partial sums: exact enough, and several times faster than one.
pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    let (heads, tail) = a.as_chunks::<4>();
    let (others, other_tail) = b.as_chunks::<4>();
    let mut sums = [0.0; 4];
    for (a, b) in heads.iter().zip(others) {
        for lane in 0..4 {
            sums[lane] += a[lane] * b[lane];
        }
    }
    let tail: f64 = tail.iter().zip(other_tail).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f64>() + tail
}

impl Oracle<'_> {
    pub(super) fn stateful(&mut self, op: &Op) -> Result<(), HarnessError> {
        for rows in self.rows.clone() {
            match op {
                Op::KvAppend { k, v, state } => {
                    let kv_type = self.case.kv_type;
                    let part = |all: &[f64], n: usize| -> Vec<f64> {
                        let width = all.len() / n;
                        let mine = &all[rows.first * width..(rows.first + rows.len) * width];
                        mine.iter().map(|&v| stored(v, kv_type)).collect()
                    };
                    let n = self.tokens.len();
                    let (k, v) = (part(self.get(*k), n), part(self.get(*v), n));
                    let State::KeyValue { keys, values, .. } =
                        &mut self.states[rows.session][state.index()]
                    else {
                        return Err(self.wrong(op));
                    };
                    keys.extend(k);
                    values.extend(v);
                }
                Op::Attention { .. } => self.attention(op, rows)?,
                Op::Entries(EntryOp::Compress { .. }) => self.compress(op, rows)?,
                Op::Entries(EntryOp::Choose { .. }) => self.choose_entries(op, rows)?,
                Op::Entries(EntryOp::SparseAttention { .. }) => self.sparse_attention(op, rows)?,
                Op::Entries(EntryOp::BlockAttention { .. }) => self.block_attention(op, rows)?,
                Op::Conv1dSilu { .. } => self.conv(op, rows)?,
                _ => self.delta(op, rows)?,
            }
        }
        Ok(())
    }

    /// Puts a span's results behind those of the spans before it.
    pub(super) fn append(
        &mut self,
        op: &Op,
        rows: Rows,
        results: Vec<f64>,
    ) -> Result<(), HarnessError> {
        let [out] = op.writes()[..] else {
            return Err(self.wrong(op));
        };
        if rows.first == 0 {
            self.set(out, results);
        } else {
            self.buffers[out.index()].extend(results);
        }
        Ok(())
    }

    fn attention(&mut self, op: &Op, rows: Rows) -> Result<(), HarnessError> {
        let Op::Attention {
            q,
            state,
            shape,
            sinks,
            ..
        } = op
        else {
            return Err(self.wrong(op));
        };
        let sinks = sinks.map(|sinks| self.vector(sinks)).transpose()?;
        let State::KeyValue { keys, values, .. } = &self.states[rows.session][state.index()] else {
            return Err(self.wrong(op));
        };
        let dim = shape.head_dim;
        let mut out = Vec::with_capacity(rows.len * shape.heads * dim);
        for t in 0..rows.len {
            for head in 0..shape.heads {
                let place = (rows.first + t) * shape.heads + head;
                let q = &self.get(*q)[place * dim..][..dim];
                let kv_head = head / (shape.heads / shape.kv_heads);
                let at = |position: usize| (position * shape.kv_heads + kv_head) * dim;
                let pairs: Vec<(&[f64], &[f64])> = window(rows.start + t, *shape)
                    .map(|p| (&keys[at(p)..][..dim], &values[at(p)..][..dim]))
                    .collect();
                let sink = sinks.as_ref().map(|sinks| sinks[head]);
                out.extend(mean(q, &pairs, (*shape, sink)));
            }
        }
        self.append(op, rows, out)
    }

    fn conv(&mut self, op: &Op, rows: Rows) -> Result<(), HarnessError> {
        let Op::Conv1dSilu {
            x,
            weight,
            state,
            channels,
            ..
        } = op
        else {
            return Err(self.wrong(op));
        };
        let weight = self.vector(*weight)?;
        let State::Recurrent(past) = &self.states[rows.session][state.index()] else {
            return Err(self.wrong(op));
        };
        let new = &self.get(*x)[rows.first * channels..(rows.first + rows.len) * channels];
        let inputs = [past.as_slice(), new].concat();
        let taps = weight.len() / channels;
        let mut out = Vec::with_capacity(rows.len * channels);
        for t in 0..rows.len {
            for c in 0..*channels {
                let tap = |i: usize| weight[i * channels + c] * inputs[(t + i) * channels + c];
                out.push(silu((0..taps).map(tap).sum()));
            }
        }
        let kept = inputs[rows.len * channels..].to_vec();
        self.states[rows.session][state.index()] = State::Recurrent(kept);
        self.append(op, rows, out)
    }

    fn delta(&mut self, op: &Op, rows: Rows) -> Result<(), HarnessError> {
        let Op::GatedDelta {
            qkv,
            a,
            b,
            a_log,
            dt_bias,
            state,
            shape,
            ..
        } = op
        else {
            return Err(self.wrong(op));
        };
        let (a_log, dt_bias) = (self.vector(*a_log)?, self.vector(*dt_bias)?);
        let State::Recurrent(mut memory) = self.states[rows.session][state.index()].clone() else {
            return Err(self.wrong(op));
        };
        let (heads, len) = (shape.value_heads, shape.key_dim * shape.value_dim);
        let width = 2 * shape.key_heads * shape.key_dim + heads * shape.value_dim;
        let mut out = Vec::with_capacity(rows.len * heads * shape.value_dim);
        for t in rows.first..rows.first + rows.len {
            let qkv = &self.get(*qkv)[t * width..][..width];
            for h in 0..heads {
                let decays = shape.head_decays();
                let factor = |i: usize| {
                    let at = h * decays + i;
                    let x = self.get(*a)[t * heads * decays + at] + dt_bias[at];
                    factor(shape.decay, a_log[h].exp(), x)
                };
                let decay: Vec<f64> = (0..decays).map(factor).collect();
                let beta = sigmoid(self.get(*b)[t * heads + h]);
                let memory = &mut memory[h * len..(h + 1) * len];
                out.extend(delta_step(qkv, *shape, h, (&decay, beta), memory));
            }
        }
        self.states[rows.session][state.index()] = State::Recurrent(memory);
        self.append(op, rows, out)
    }
}

/// The positions that a query sees.
pub(super) fn window(position: usize, shape: AttentionShape) -> std::ops::RangeInclusive<usize> {
    let window = shape.window.unwrap_or(usize::MAX);
    (position + 1).saturating_sub(window)..=position
}

/// The mean of values by a softmax of a query's scores. A sink is a score without a value.
pub(super) fn mean(
    q: &[f64],
    pairs: &[(&[f64], &[f64])],
    (shape, sink): (AttentionShape, Option<f64>),
) -> Vec<f64> {
    let scale = f64::from(shape.scale);
    let scores: Vec<f64> = pairs.iter().map(|(key, _)| dot(q, key) * scale).collect();
    let mut out = vec![0.0; shape.head_dim];
    for ((_, value), share) in pairs.iter().zip(shares(&scores, sink)) {
        for (out, v) in out.iter_mut().zip(*value) {
            *out += share * v;
        }
    }
    out
}

/// The softmax of scores, of which a sink takes a share.
fn shares(scores: &[f64], sink: Option<f64>) -> Vec<f64> {
    let all = scores.iter().copied().chain(sink);
    let largest = all.clone().fold(f64::NEG_INFINITY, f64::max);
    let total: f64 = all.map(|s| (s - largest).exp()).sum();
    scores.iter().map(|s| (s - largest).exp() / total).collect()
}

/// What remains of a memory after a step.
fn factor(decay: Decay, rate: f64, x: f64) -> f64 {
    match decay {
        Decay::Head | Decay::Key => (-rate * x.exp().ln_1p()).exp(),
        Decay::BoundedKey(bound) => (f64::from(bound) * sigmoid(rate * x)).exp(),
    }
}

/// One token of one head: the memory decays, is asked for the key's value, corrected by what it
/// said, and asked for the query's.
fn delta_step(
    qkv: &[f64],
    shape: DeltaShape,
    head: usize,
    (decay, beta): (&[f64], f64),
    memory: &mut [f64],
) -> Vec<f64> {
    let (keys, values) = (shape.key_dim, shape.value_dim);
    let key_head = match shape.head_order {
        HeadOrder::Grouped => head * shape.key_heads / shape.value_heads,
        HeadOrder::Tiled => head % shape.key_heads,
    };
    let unit = |first: usize| -> Vec<f64> {
        let x = &qkv[first..first + keys];
        let length = (dot(x, x) + LENGTH_EPS).sqrt();
        x.iter().map(|x| x / length).collect()
    };
    let q = unit(key_head * keys);
    let k = unit((shape.key_heads + key_head) * keys);
    let v = &qkv[2 * shape.key_heads * keys + head * values..][..values];
    for (j, row) in memory.chunks_exact_mut(values).enumerate() {
        row.iter_mut().for_each(|m| *m *= decay[j % decay.len()]);
    }
    for i in 0..values {
        let said: f64 = (0..keys).map(|j| memory[j * values + i] * k[j]).sum();
        for j in 0..keys {
            memory[j * values + i] += beta * (v[i] - said) * k[j];
        }
    }
    let scale = 1.0 / (keys as f64).sqrt();
    let ask = |i: usize| {
        (0..keys)
            .map(|j| memory[j * values + i] * q[j])
            .sum::<f64>()
            * scale
    };
    (0..values).map(ask).collect()
}
