//! Finds operations of a graph that are one kernel together.

use moeflux::Error;
use moeflux::backend::ExpertStage;
use moeflux::graph::{BufferId, ExpertForm, Graph, Op, StateDecl, WeightId};
use moeflux::kernels::Decay;
use moeflux::weights::Weights;

use super::uses::Uses;
use super::{Delta, Experts, Heads, Item, Products, Shared, Source};
use crate::matrix::Form;
use crate::ops::decode;

/// An operation that is part of an item elsewhere.
const TAKEN: Option<Item> = None;

struct Finder<'a> {
    uses: Uses<'a>,
    weights: &'a Weights,
    /// What becomes of each operation; those still undecided are on their own.
    items: Vec<Option<Item>>,
    decided: Vec<bool>,
}

pub(super) fn items(
    graph: &Graph,
    weights: &Weights,
    stage: &ExpertStage,
) -> Result<Vec<Item>, Error> {
    let mut f = Finder {
        uses: Uses::new(graph),
        weights,
        items: graph.ops.iter().map(|_| None).collect(),
        decided: vec![false; graph.ops.len()],
    };
    for at in 0..graph.ops.len() {
        match &graph.ops[at] {
            Op::Lookahead { .. } => f.put(at, TAKEN),
            Op::Experts { layer, form, .. }
                if *form == ExpertForm::default() && readable_experts(stage, *layer)? =>
            {
                f.experts(at)?;
            }
            Op::KvAppend { .. } => f.heads(at)?,
            Op::GatedDelta { .. } => f.delta(at)?,
            _ => {}
        }
    }
    for at in 0..graph.ops.len() {
        if !f.decided[at] && matches!(graph.ops[at], Op::Matmul { .. }) {
            f.products(at)?;
        }
    }
    f.drop_norms();
    let decided = f.decided.into_iter().zip(f.items).enumerate();
    Ok(decided
        .filter_map(|(at, (decided, item))| match decided {
            true => item,
            false => Some(Item::Op(at)),
        })
        .collect())
}

fn readable_experts(stage: &ExpertStage, layer: usize) -> Result<bool, Error> {
    let layout = stage.layout(layer)?;
    let empty = vec![
        0;
        [&layout.gate, &layout.up, &layout.down]
            .map(|m| m.end())
            .into_iter()
            .fold(0, usize::max)
    ];
    let [gate, up, down] = [&layout.gate, &layout.up, &layout.down].map(|m| m.view(&empty));
    let [gate, up, down] = [Form::of(&gate?), Form::of(&up?), Form::of(&down?)];
    Ok(gate == up && decode::is_readable(&gate) && decode::is_readable(&down))
}

impl Finder<'_> {
    fn put(&mut self, at: usize, item: Option<Item>) {
        self.items[at] = item;
        self.decided[at] = true;
    }

    fn form(&self, weight: WeightId) -> Result<Form, Error> {
        Ok(Form::of(&self.weights.matrix(weight)?))
    }

    /// A norm of whole vectors that only products and experts read.
    fn norm_of(&self, x: BufferId) -> Result<Option<Source>, Error> {
        let Some((
            _,
            &Op::RmsNorm {
                x: from,
                weight,
                eps,
                ..
            },
        )) = self.uses.writer(x)
        else {
            return Ok(None);
        };
        let readers = self.uses.readers(x).iter();
        let mut fits = self.weights.vector(weight)?.len() == self.uses.width(x);
        for &reader in readers {
            fits &= match &self.uses.graph.ops[reader] {
                Op::Matmul { outputs, .. } => {
                    let mut all = true;
                    for (weight, _) in outputs {
                        all &= decode::is_readable(&self.form(*weight)?);
                    }
                    all
                }
                Op::Experts { .. } => self.decided[reader],
                _ => false,
            };
        }
        let source = Source::Norm {
            x: from,
            weight,
            eps,
        };
        Ok(fits.then_some(source))
    }

    /// Norms that went into all their readers.
    fn drop_norms(&mut self) {
        for at in 0..self.decided.len() {
            let Op::RmsNorm { out, .. } = &self.uses.graph.ops[at] else {
                continue;
            };
            let readers = self.uses.readers(*out).iter();
            let mut sources = readers.map(|&r| (self.decided[r], &self.items[r]));
            let is_plain = |source: &Source| matches!(source, Source::Plain(x) if x == out);
            let needs = |(decided, item): (bool, &Option<Item>)| match item {
                _ if !decided => true,
                Some(Item::Products(p)) => is_plain(&p.source),
                Some(Item::Experts(e)) => is_plain(&e.source),
                Some(_) => true,
                // Part of a group whose first member is looked at too.
                None => false,
            };
            if !self.decided[at] && !self.uses.readers(*out).is_empty() && !sources.any(needs) {
                self.put(at, TAKEN);
            }
        }
    }

    /// What `x`, which `count` operations read, can be made of on the way; takes the operation that
    /// made it.
    fn source(&mut self, x: BufferId, cols: usize) -> Result<Source, Error> {
        if let Some(norm) = self.norm_of(x)? {
            return Ok(norm);
        }
        let plain = Source::Plain(x);
        let (Some((at, op)), Some(_)) = (self.uses.writer(x), self.uses.reader(x)) else {
            return Ok(plain);
        };
        if self.decided[at] {
            return Ok(plain);
        }
        let source = match *op {
            Op::RmsNormGated {
                x,
                gate,
                weight,
                eps,
                ..
            } => {
                let len = self.weights.vector(weight)?.len();
                if !decode::has_pieces(cols, len) {
                    return Ok(plain);
                }
                Source::GatedNorm {
                    x,
                    gate,
                    weight,
                    eps,
                }
            }
            Op::SigmoidMul { x, gate, .. } => match self.uses.writer(gate) {
                // Split where the heads are normed and rotated.
                Some((split, &Op::SplitPairs { x: pairs, dim, .. })) if self.decided[split] => {
                    let pairs_of = Some(dim);
                    Source::SigmoidMul {
                        x,
                        gate: pairs,
                        pairs: pairs_of,
                    }
                }
                _ => Source::SigmoidMul {
                    x,
                    gate,
                    pairs: None,
                },
            },
            Op::Swiglu { gate, up, .. } => Source::Swiglu { gate, up },
            _ => return Ok(plain),
        };
        self.put(at, TAKEN);
        Ok(source)
    }

    /// All products of a vector: at the first of them.
    fn products(&mut self, first: usize) -> Result<(), Error> {
        let Op::Matmul { x, .. } = &self.uses.graph.ops[first] else {
            return Ok(());
        };
        let x = *x;
        let mut outputs = Vec::new();
        let mut members = Vec::new();
        for &reader in self.uses.readers(x) {
            let Op::Matmul { outputs: own, .. } = &self.uses.graph.ops[reader] else {
                continue;
            };
            if self.decided[reader] {
                continue;
            }
            for &(weight, out) in own {
                if !decode::is_readable(&self.form(weight)?) {
                    return Ok(());
                }
                outputs.push((weight, out));
            }
            members.push(reader);
        }
        let source = self.source(x, self.uses.width(x))?;
        let mut added = None;
        if let [(_, out)] = &mut outputs[..]
            && let Some((at, other, sum)) = self.addition(*out, first)
        {
            self.put(at, TAKEN);
            (added, *out) = (Some(other), sum);
        }
        for member in members {
            self.put(member, TAKEN);
        }
        let item = Products {
            source,
            outputs,
            added,
        };
        self.put(first, Some(Item::Products(item)));
        Ok(())
    }

    /// The addition that alone reads `out`, of something that is there before `place`: its place,
    /// the other operand, and the sum.
    fn addition(&self, out: BufferId, place: usize) -> Option<(usize, BufferId, BufferId)> {
        let (at, &Op::Add { a, b, out: sum }) = self.uses.reader(out)? else {
            return None;
        };
        let other = if a == out { b } else { a };
        let is_free = other != out && !self.decided[at] && self.uses.is_before(other, place);
        is_free.then_some((at, other, sum))
    }

    /// Convolution and delta rule.
    fn delta(&mut self, rule: usize) -> Result<(), Error> {
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
        first.is_some() && ids.iter().all(|id| vector(id) == first)
    }

    /// Splitting, norms, rotations and appending.
    fn heads(&mut self, append: usize) -> Result<(), Error> {
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
    fn experts(&mut self, at: usize) -> Result<(), Error> {
        let &Op::Experts { x, out, .. } = &self.uses.graph.ops[at] else {
            return Ok(());
        };
        self.put(at, TAKEN);
        let source = self.norm_of(x)?.unwrap_or(Source::Plain(x));
        let mut item = Experts {
            op: at,
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
