//! Entries that stand for windows of positions: how they are made, chosen and attended to.

use moeflux::graph::Op;
use moeflux::kernels::AttentionShape;

use super::state::{dot, shares, stored};
use super::{Oracle, Rows, State};
use crate::HarnessError;

impl Oracle<'_> {
    /// Softmax of gates over a window (and the one before, of which positions have values of their
    /// own for that), the mean of values by that, a norm, a rotation.
    pub(super) fn compress(&mut self, op: &Op, rows: Rows) -> Result<(), HarnessError> {
        let Op::Compress {
            values,
            gates,
            state,
            entries,
            form,
        } = op
        else {
            return Err(self.wrong(op));
        };
        let shape = form.shape;
        let (rate, dim, width) = (shape.rate, shape.dim, shape.width());
        let (bias, norm) = (self.vector(form.bias)?, self.vector(form.norm)?);
        let own = |all: &[f64]| -> Vec<f64> {
            all[rows.first * width..(rows.first + rows.len) * width].to_vec()
        };
        let (values, gates) = (own(self.get(*values)), own(self.get(*gates)));
        let states = &mut self.states[rows.session];
        let State::Recurrent(pools) = &mut states[state.index()] else {
            return Err(self.wrong(op));
        };
        let mut pools = pools.clone();
        let mut made = Vec::new();
        for t in 0..rows.len {
            let place = (rows.start + t) % rate;
            if place == 0 {
                // What the window before has left for this one, or nothing.
                pools.rotate_left(if shape.overlaps { 3 * dim } else { 0 });
                let fresh = if shape.overlaps { 3 * dim } else { 0 };
                pools[fresh..].fill(0.0);
            }
            for series in 0..width / dim {
                // Values for the entry under way come last.
                let at = (width / dim - 1 - series) * dim;
                for d in 0..dim {
                    let gate = gates[t * width + at + d] + bias[place * width + at + d];
                    let value = values[t * width + at + d];
                    let pool = |which: usize| (3 * series + which) * dim + d;
                    let greatest = match pools[pool(1)] > 0.0 {
                        true => pools[pool(0)].max(gate),
                        false => gate,
                    };
                    let old = match pools[pool(1)] > 0.0 {
                        true => (pools[pool(0)] - greatest).exp(),
                        false => 0.0,
                    };
                    let new = (gate - greatest).exp();
                    pools[pool(0)] = greatest;
                    pools[pool(1)] = pools[pool(1)] * old + new;
                    pools[pool(2)] = pools[pool(2)] * old + new * value;
                }
            }
            if place + 1 == rate {
                let pooled: Vec<f64> = (0..dim)
                    .map(|d| pools[2 * dim + d] / pools[dim + d])
                    .collect();
                let mean = dot(&pooled, &pooled) / dim as f64;
                let inverse = 1.0 / (mean + f64::from(form.eps)).sqrt();
                let mut entry: Vec<f64> = pooled
                    .iter()
                    .zip(&norm)
                    .map(|(x, w)| x * inverse * w)
                    .collect();
                let first = dim - 2 * form.inv_freq.len();
                let position = (rows.start + t + 1 - rate) as f64;
                for (pair, frequency) in form.inv_freq.iter().enumerate() {
                    let angle = position * f64::from(*frequency);
                    let scale = f64::from(form.attention_scale);
                    let (sin, cos) = (angle.sin() * scale, angle.cos() * scale);
                    let at = first + 2 * pair;
                    let (x, y) = (entry[at], entry[at + 1]);
                    (entry[at], entry[at + 1]) = (x * cos - y * sin, x * sin + y * cos);
                }
                made.extend(entry.into_iter().map(|x| stored(x, self.case.kv_type)));
            }
        }
        states[state.index()] = State::Recurrent(pools);
        let State::KeyValue { keys, values, .. } = &mut states[entries.index()] else {
            return Err(self.wrong(op));
        };
        keys.extend(&made);
        values.extend(made);
        Ok(())
    }

    /// The entries with the best sums of positive scores, in ascending order.
    pub(super) fn choose_entries(&mut self, op: &Op, rows: Rows) -> Result<(), HarnessError> {
        let Op::ChooseEntries {
            q,
            weights,
            entries,
            shape,
            out,
        } = op
        else {
            return Err(self.wrong(op));
        };
        let State::KeyValue { keys, .. } = &self.states[rows.session][entries.index()] else {
            return Err(self.wrong(op));
        };
        let mut chosen = Vec::new();
        for t in rows.first..rows.first + rows.len {
            let complete = (rows.start + t - rows.first + 1) / shape.rate;
            let score = |entry: usize| -> f64 {
                let key = &keys[entry * shape.dim..][..shape.dim];
                let head = |h: usize| {
                    let q = &self.get(*q)[(t * shape.heads + h) * shape.dim..][..shape.dim];
                    dot(q, key).max(0.0) * self.get(*weights)[t * shape.heads + h]
                };
                (0..shape.heads).map(head).sum()
            };
            let scores: Vec<f64> = (0..complete).map(score).collect();
            let mut order: Vec<usize> = (0..complete).collect();
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]).then(a.cmp(&b)));
            order.truncate(shape.top_k);
            order.sort_unstable();
            order.resize(shape.top_k, 0);
            chosen.extend(order.into_iter().map(|entry| entry as u32));
        }
        let all = self.ids.entry(out.index()).or_default();
        if rows.first == 0 {
            all.clear();
        }
        all.extend(chosen);
        Ok(())
    }

    /// Attention to the positions of a window and to entries.
    pub(super) fn sparse_attention(&mut self, op: &Op, rows: Rows) -> Result<(), HarnessError> {
        let Op::SparseAttention {
            q,
            state,
            entries,
            rate,
            chosen,
            shape,
            sinks,
            ..
        } = op
        else {
            return Err(self.wrong(op));
        };
        let sinks = sinks.map(|sinks| self.vector(sinks)).transpose()?;
        let states = &self.states[rows.session];
        let (State::KeyValue { keys, values, .. }, State::KeyValue { keys: other, .. }) =
            (&states[state.index()], &states[entries.index()])
        else {
            return Err(self.wrong(op));
        };
        let chosen = chosen.and_then(|ids| self.ids.get(&ids.index()));
        let top_k = chosen.map_or(usize::MAX, |ids| ids.len() / self.tokens.len().max(1));
        let dim = shape.head_dim;
        let mut out = Vec::with_capacity(rows.len * shape.heads * dim);
        for t in 0..rows.len {
            let position = rows.start + t;
            let count = ((position + 1) / rate).min(top_k);
            let seen: Vec<usize> = match chosen {
                Some(ids) => {
                    let ids = &ids[(rows.first + t) * top_k..][..count];
                    ids.iter().map(|&id| id as usize).collect()
                }
                None => (0..count).collect(),
            };
            for head in 0..shape.heads {
                let place = (rows.first + t) * shape.heads + head;
                let q = &self.get(*q)[place * dim..][..dim];
                let kv_head = head / (shape.heads / shape.kv_heads);
                let at = |row: usize| (row * shape.kv_heads + kv_head) * dim;
                let mut pairs: Vec<(&[f64], &[f64])> = window(position, *shape)
                    .map(|p| (&keys[at(p)..][..dim], &values[at(p)..][..dim]))
                    .collect();
                pairs.extend(seen.iter().map(|&e| {
                    let entry = &other[at(e)..][..dim];
                    (entry, entry)
                }));
                let sink = sinks.as_ref().map(|sinks| sinks[head]);
                out.extend(mean(q, &pairs, (*shape, sink)));
            }
        }
        self.append(op, rows, out)
    }
}

/// The positions that a query sees.
fn window(position: usize, shape: AttentionShape) -> std::ops::RangeInclusive<usize> {
    let window = shape.window.unwrap_or(usize::MAX);
    (position + 1).saturating_sub(window)..=position
}

/// The mean of values by a softmax of scores.
fn mean(
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
