//! Pieces of layers: recurrences, what comes before attention, experts.

use moeflux::Error;
use moeflux::graph::{BufferId, Op, StateDecl, WeightId};
use moeflux::kernels::Decay;

use super::super::{Delta, Experts, Heads, Item, Shared, Source};
use super::{Finder, TAKEN};
use crate::ops::decode;

impl Finder<'_> {
    /// Convolution and delta rule.
    pub(super) fn delta(&mut self, rule: usize) -> Result<(), Error> {
        let Op::GatedDelta {
            qkv, a, b, shape, ..
        } = &self.uses.graph.ops[rule]
        else {
            return Ok(());
        };
        if shape.decay != Decay::Head {
            return Ok(());
        }
        let Some((
            conv,
            &Op::Conv1dSilu {
                x,
                weight,
                channels,
                ..
            },
        )) = self.uses.writer(*qkv)
        else {
            return Ok(());
        };
        let taps = self.weights.vector(weight)?.len() / channels.max(1);
        if self.uses.reader(*qkv).is_none()
            || !decode::has_delta_shape(shape, taps)
            || !self.are_together(&[x, *a, *b])
        {
            return Ok(());
        }
        self.put(conv, TAKEN);
        self.put(rule, Some(Item::Delta(Delta { conv, rule })));
        Ok(())
    }

    /// Whether buffers are products of one vector, and so lie in one piece of memory.
    fn are_together(&self, ids: &[BufferId]) -> bool {
        let vector = |id: &BufferId| match self.uses.writer(*id) {
            Some((_, Op::Matmul { x, .. })) => Some(*x),
            _ => None,
        };
        let first = ids.first().and_then(vector);
        first.is_some_and(|x| self.is_one_product(x)) && ids.iter().all(|id| vector(id) == first)
    }

    /// Whether all products of a vector are one item.
    fn is_one_product(&self, x: BufferId) -> bool {
        let is_readable = |(weight, _): &(WeightId, BufferId)| {
            self.form(*weight)
                .is_ok_and(|form| decode::is_readable(&form))
        };
        let mut readers = self.uses.readers(x).iter();
        readers.all(|&reader| match &self.uses.graph.ops[reader] {
            Op::Matmul { outputs, .. } => outputs.iter().all(is_readable),
            _ => true,
        })
    }

    /// Splitting, norms, rotations and appending.
    pub(super) fn heads(&mut self, append: usize) -> Result<(), Error> {
        let &Op::KvAppend { k, v, state } = &self.uses.graph.ops[append] else {
            return Ok(());
        };
        // Keys that are the values too are appended otherwise.
        let state_of = self.uses.graph.states.get(state.index());
        if let Some(StateDecl::KeyValue { is_joint: true, .. }) = state_of {
            return Ok(());
        }
        let mut attention = self.uses.graph.ops.iter();
        let q = attention.find_map(|op| match op {
            Op::Attention {
                q,
                state: own,
                shape,
                sinks: None,
                ..
            } if *own == state && shape.window.is_none() => Some(*q),
            _ => None,
        });
        let Some(q) = q else { return Ok(()) };
        let (Some(q), Some(k)) = (self.rotated(q)?, self.rotated(k)?) else {
            return Ok(());
        };
        let mut taken = [&q.taken[..], &k.taken[..]].concat();
        let (mut from, mut is_paired) = (q.from, false);
        if let Some((split, &Op::SplitPairs { x, first, dim, .. })) = self.uses.writer(from)
            && first == from
            && dim == q.head_dim
        {
            taken.push(split);
            (from, is_paired) = (x, true);
        }
        let norms = match (q.norm, k.norm) {
            (None, None) => None,
            (Some((a, eps)), Some((b, other))) if eps == other => Some((a, b, eps)),
            _ => return Ok(()),
        };
        if !self.are_together(&[from, k.from, v]) || q.turn != k.turn || q.head_dim != k.head_dim {
            return Ok(());
        }
        // The gates of paired queries are read where they lie.
        if is_paired && !(self.gates_stay(from) && q.head_dim.is_multiple_of(4)) {
            return Ok(());
        }
        let item = Heads {
            q: from,
            is_paired,
            k: k.from,
            v,
            norms,
            rope: q.rope,
            append,
            out: q.out,
        };
        for at in taken {
            self.put(at, TAKEN);
        }
        self.put(append, Some(Item::Heads(item)));
        Ok(())
    }

    /// Whether the second halves of split pairs are only gates of a product's vector.
    fn gates_stay(&self, pairs: BufferId) -> bool {
        let Some((_, Op::SplitPairs { second, .. })) = self.uses.reader(pairs) else {
            return false;
        };
        let Some((_, Op::SigmoidMul { gate, out, .. })) = self.uses.reader(*second) else {
            return false;
        };
        gate == second
            && matches!(self.uses.reader(*out), Some((_, Op::Matmul { outputs, .. }))
            if outputs.iter().all(|(w, _)| self.form(*w).is_ok_and(|f| decode::is_readable(&f))))
    }

    /// Rotated heads, and what they were before that and their norm.
    fn rotated(&self, x: BufferId) -> Result<Option<Rotated>, Error> {
        let Some((
            rope,
            Op::Rope {
                x: from,
                head_dim,
                inv_freq,
                attention_scale,
                style,
                ..
            },
        )) = self.uses.writer(x)
        else {
            return Ok(None);
        };
        if *style == moeflux_kernels::RopeStyle::InterleavedTail {
            return Ok(None);
        }
        let mut found = Rotated {
            from: *from,
            out: x,
            rope,
            head_dim: *head_dim,
            norm: None,
            turn: (
                inv_freq.as_ptr() as usize,
                attention_scale.to_bits(),
                *style,
            ),
            taken: vec![rope],
        };
        if self.uses.reader(x).is_none() || self.uses.reader(*from).is_none() {
            return Ok(None);
        }
        if let Some((norm, &Op::RmsNorm { x, weight, eps, .. })) = self.uses.writer(*from) {
            if self.weights.vector(weight)?.len() != *head_dim || self.uses.reader(x).is_none() {
                return Ok(None);
            }
            found.from = x;
            found.norm = Some((weight, eps));
            found.taken.push(norm);
        }
        Ok(Some(found))
    }

    /// The experts with all that is added to their sum.
    pub(super) fn experts(&mut self, at: usize) -> Result<(), Error> {
        let &Op::Experts { x, out, .. } = &self.uses.graph.ops[at] else {
            return Ok(());
        };
        self.put(at, TAKEN);
        let source = self.norm_of(x)?.unwrap_or(Source::Plain(x));
        let router = self.router_of(at);
        if let Some(router) = router {
            self.put(router, Some(Item::Choice(router)));
        }
        let mut item = Experts {
            op: at,
            router,
            source,
            shared: None,
            added: None,
            out,
        };
        if let Some((add, other, sum)) = self.addition(out, at)
            && let Some((shared, taken)) = self.shared(other)?
        {
            for op in taken.into_iter().chain([add]) {
                self.put(op, TAKEN);
            }
            (item.shared, item.out) = (Some(shared), sum);
        }
        if let Some((add, other, sum)) = self.addition(item.out, at) {
            self.put(add, TAKEN);
            (item.added, item.out) = (Some(other), sum);
        }
        self.put(at, Some(Item::Experts(item)));
        Ok(())
    }

    /// The router of the experts at `at`, if only they read its choices.
    fn router_of(&self, at: usize) -> Option<usize> {
        let &Op::Experts { ids, weights, .. } = &self.uses.graph.ops[at] else {
            return None;
        };
        let (router, _) = self.uses.writer(ids)?;
        let &Op::Router {
            ids: own_ids,
            weights: own_weights,
            ..
        } = &self.uses.graph.ops[router]
        else {
            return None;
        };
        let is_other = |reader: &usize| {
            let op = &self.uses.graph.ops[*reader];
            *reader != at && !matches!(op, Op::RequestExperts { .. })
        };
        let mut readers = [ids, weights].into_iter();
        let alone = readers.all(|id| !self.uses.readers(id).iter().any(is_other));
        (alone && own_ids == ids && own_weights == weights).then_some(router)
    }

    /// A shared expert whose result is `out`, and the operations behind its gate and up.
    fn shared(&self, out: BufferId) -> Result<Option<(Shared, Vec<usize>)>, Error> {
        let (mut down_out, mut scale, mut taken) = (out, None, Vec::new());
        if let Some((at, &Op::ScaleBySigmoid { x, gate, .. })) = self.uses.writer(out) {
            taken.push(at);
            (down_out, scale) = (x, Some(gate));
        }
        let Some((at, Op::Matmul { x, outputs, .. })) = self.uses.writer(down_out) else {
            return Ok(None);
        };
        let (&[(down, _)], Some((swiglu, &Op::Swiglu { gate, up, .. }))) =
            (&outputs[..], self.uses.writer(*x))
        else {
            return Ok(None);
        };
        taken.extend([at, swiglu]);
        let inputs: Vec<BufferId> = [gate, up].into_iter().chain(scale).collect();
        let read_once = [down_out, *x]
            .iter()
            .all(|id| self.uses.reader(*id).is_some());
        let fits = read_once
            && decode::is_readable(&self.form(down)?)
            && self.are_together(&inputs)
            && taken.iter().all(|op| !self.decided[*op]);
        let shared = Shared {
            gate,
            up,
            down,
            scale,
        };
        Ok(fits.then_some((shared, taken)))
    }
}

/// Rotated heads.
struct Rotated {
    from: BufferId,
    out: BufferId,
    rope: usize,
    head_dim: usize,
    norm: Option<(WeightId, f32)>,
    /// What a rotation is the same by.
    turn: (usize, u32, moeflux_kernels::RopeStyle),
    taken: Vec<usize>,
}
