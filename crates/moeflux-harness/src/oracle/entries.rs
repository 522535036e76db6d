//! Entries that stand for windows of positions: how they are made, chosen and attended to.

use super::dense::rotate;
use super::state::{dot, mean, stored, window};
use super::{Oracle, Rows, State};
use crate::HarnessError;
use moeflux::graph::{EntryForm, EntryOp, Op};

impl Oracle<'_> {
    /// Softmax of gates over a window (and the one before, of which positions have values of their
    /// own for that), the mean of values by that, a norm, a rotation.
    pub(super) fn compress(&mut self, op: &Op, rows: Rows) -> Result<(), HarnessError> {
        let Op::Entries(EntryOp::Compress {
            values,
            gates,
            state,
            entries,
            form,
        }) = op
        else {
            return Err(self.wrong(op));
        };
        let shape = form.shape;
        let (rate, dim, width) = (shape.rate, shape.dim, shape.width());
        let bias = form.bias.map(|bias| self.vector(bias)).transpose()?;
        let bias = bias.unwrap_or_else(|| vec![0.0; rate * width]);
        let norm = form.norm.map(|norm| self.vector(norm)).transpose()?;
        let own = |all: &[f64]| -> Vec<f64> {
            all[rows.first * width..(rows.first + rows.len) * width].to_vec()
        };
        let values = own(self.get(*values));
        let gates = gates.map(|gates| own(self.get(gates)));
        let gates = gates.unwrap_or_else(|| vec![0.0; values.len()]);
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
            let gates = &gates[t * width..][..width];
            let bias = &bias[place * width..][..width];
            pool(
                &mut pools,
                &values[t * width..][..width],
                (gates, bias),
                dim,
            );
            if place + 1 == rate {
                let pooled = (0..dim).map(|d| pools[2 * dim + d] / pools[dim + d]);
                let position = (rows.start + t + 1 - rate) as f64;
                let entry = entry(pooled.collect(), form, norm.as_deref(), position);
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
        let Op::Entries(EntryOp::Choose {
            q,
            weights,
            entries,
            shape,
            out,
        }) = op
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
                    let weight = weights.map_or(1.0, |w| self.get(w)[t * shape.heads + h]);
                    dot(q, key).max(0.0) * weight
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
        let Op::Entries(EntryOp::SparseAttention {
            q,
            state,
            entries,
            rate,
            chosen,
            shape,
            sinks,
            ..
        }) = op
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

    /// Attention to chosen blocks of positions, and to those behind the last whole block.
    pub(super) fn block_attention(&mut self, op: &Op, rows: Rows) -> Result<(), HarnessError> {
        let Op::Entries(EntryOp::BlockAttention {
            q,
            state,
            chosen,
            rate,
            shape,
            ..
        }) = op
        else {
            return Err(self.wrong(op));
        };
        let State::KeyValue { keys, values, .. } = &self.states[rows.session][state.index()] else {
            return Err(self.wrong(op));
        };
        let chosen = self.ids.get(&chosen.index()).cloned().unwrap_or_default();
        let top_k = chosen.len() / self.tokens.len().max(1);
        let dim = shape.head_dim;
        let mut out = Vec::with_capacity(rows.len * shape.heads * dim);
        for t in 0..rows.len {
            let seen = rows.start + t + 1;
            let complete = seen / rate;
            let ids = &chosen[(rows.first + t) * top_k..][..top_k];
            let is_seen = |position: &usize| {
                let block = position / rate;
                complete <= top_k || block == complete || ids.contains(&(block as u32))
            };
            for head in 0..shape.heads {
                let place = (rows.first + t) * shape.heads + head;
                let q = &self.get(*q)[place * dim..][..dim];
                let kv_head = head / (shape.heads / shape.kv_heads);
                let at = |position: usize| (position * shape.kv_heads + kv_head) * dim;
                let pairs: Vec<(&[f64], &[f64])> = (0..seen)
                    .filter(is_seen)
                    .map(|p| (&keys[at(p)..][..dim], &values[at(p)..][..dim]))
                    .collect();
                out.extend(mean(q, &pairs, (*shape, None)));
            }
        }
        self.append(op, rows, out)
    }
}

/// Takes a position into the pools of its window, and of the next one where windows overlap: of
/// each series the greatest gate, the sum of powers, and of values by these, `[3, dim]`.
fn pool(pools: &mut [f64], values: &[f64], (gates, bias): (&[f64], &[f64]), dim: usize) {
    // Values for the entry under way come last, its pools first.
    let series = values.len() / dim;
    for (number, pools) in pools.chunks_exact_mut(3 * dim).take(series).enumerate() {
        let first = (series - 1 - number) * dim;
        for d in 0..dim {
            let (gate, value) = (gates[first + d] + bias[first + d], values[first + d]);
            let (greatest, old) = match pools[dim + d] > 0.0 {
                true => {
                    let greatest = pools[d].max(gate);
                    (greatest, (pools[d] - greatest).exp())
                }
                false => (gate, 0.0),
            };
            let new = (gate - greatest).exp();
            pools[d] = greatest;
            pools[dim + d] = pools[dim + d] * old + new;
            pools[2 * dim + d] = pools[2 * dim + d] * old + new * value;
        }
    }
}

/// A pooled window as it is kept: normed and rotated, if its form says so.
fn entry(pooled: Vec<f64>, form: &EntryForm, norm: Option<&[f64]>, position: f64) -> Vec<f64> {
    let mut entry = pooled;
    if let Some(norm) = norm {
        let mean = dot(&entry, &entry) / entry.len() as f64;
        let inverse = 1.0 / (mean + f64::from(form.eps)).sqrt();
        let scaled = entry.iter().zip(norm).map(|(x, w)| x * inverse * w);
        entry = scaled.collect();
    }
    let rotation = (&form.inv_freq[..], form.attention_scale, form.style);
    rotate(&mut entry, position, rotation);
    entry
}
