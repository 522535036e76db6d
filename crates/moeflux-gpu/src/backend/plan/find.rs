//! Finds operations of a graph that are one kernel together.

mod layers;

use std::collections::BTreeSet;

use moeflux::Error;
use moeflux::backend::ExpertStage;
use moeflux::graph::{BufferId, ExpertForm, Graph, Op, WeightId};
use moeflux::weights::Weights;

use super::super::budget;
use super::uses::Uses;
use super::{Item, Products, Source};
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
    apart: &BTreeSet<usize>,
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
                if *form == ExpertForm::default()
                    && !apart.contains(layer)
                    && readable_experts(stage, *layer)? =>
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
    let [gate, up, down] = budget::forms(stage.layout(layer)?)?;
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
            let is_plain = |source: &Source| matches!(source, Source::Plain(x) if x == out);
            let needs = |&reader: &usize| match &self.items[reader] {
                _ if !self.decided[reader] => true,
                Some(Item::Products(p)) => is_plain(&p.source),
                Some(Item::Experts(e)) => is_plain(&e.source),
                Some(_) => true,
                // Part of a group whose first member is looked at too, or of another's source.
                None => !matches!(self.uses.graph.ops[reader], Op::Matmul { .. }),
            };
            let mut readers = readers.peekable();
            if !self.decided[at] && readers.peek().is_some() && !readers.any(needs) {
                self.put(at, TAKEN);
            }
        }
    }

    /// What `x`, a vector of `cols` elements, can be made of on the way; takes the operation that made
    /// it.
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
}
