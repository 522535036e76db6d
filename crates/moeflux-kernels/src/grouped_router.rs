//! The router's choice with a correction of scores and with groups of experts, of which only the
//! best take part.

use std::cell::RefCell;

use crate::{
    Cpu, KernelError, check,
    disjoint::Disjoint,
    lanes::{Kernel, Lanes, math},
    math as scalar_math,
    router::softmax,
};

/// What an expert's score is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scores {
    /// The sigmoid of its logit; a group counts by the sum of its two best experts.
    Sigmoid,
    /// The softmax over all logits; a group counts by its best expert.
    Softmax,
    /// The square root of ln(1 + e^logit); a group counts by the sum of its two best experts.
    SqrtSoftplus,
}

/// How experts are chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GroupedRouting {
    /// Number of experts.
    pub experts: usize,
    /// Experts that a token uses.
    pub top_k: usize,
    /// Groups of consecutive experts, of equal size.
    pub groups: usize,
    /// Groups whose experts take part.
    pub kept_groups: usize,
    /// What scores are made of.
    pub scores: Scores,
    /// Whether the chosen scores are divided by their sum.
    pub renormalize: bool,
    /// Factor of the weights.
    pub scale: f32,
}

/// Keeps the division by a sum of scores from dividing by zero.
pub(crate) const LEAST_SUM: f32 = 1e-20;

/// Checks sizes; gives the number of tokens.
pub(crate) fn check(
    logits: &[f32],
    bias: Option<&[f32]>,
    rule: &GroupedRouting,
    ids: &[u32],
    weights: &[f32],
) -> Result<usize, KernelError> {
    const OP: &str = "route_grouped";
    let &GroupedRouting { experts, top_k, .. } = rule;
    let n = check::rows(OP, "logits", logits.len(), experts)?;
    check::multiple(OP, "experts", experts, rule.groups)?;
    check::positive(OP, "kept groups", rule.kept_groups)?;
    check::index(OP, "kept groups", rule.kept_groups, rule.groups + 1)?;
    let reachable = experts / rule.groups * rule.kept_groups;
    check::index(OP, "top_k", top_k, reachable + 1)?;
    check::size(OP, "ids", check::product(&[n, top_k]), ids.len())?;
    check::size(OP, "weights", ids.len(), weights.len())?;
    if let Some(bias) = bias {
        check::size(OP, "bias", experts, bias.len())?;
    }
    Ok(n)
}

impl Cpu {
    /// Chooses `top_k` experts for each token of `logits: [n, experts]` as `rule` says. Experts
    /// and groups are ranked by their scores plus `bias: [experts]`, ties to the lowest id; the
    /// weights are the scores alone, divided by their sum plus 1e-20 if so asked, times the scale.
    /// `ids` and `weights` are `[n, top_k]`. A token with a ranked score that is not finite gets the
    /// lowest ids and weights of NaN.
    ///
    /// # Errors
    /// If sizes do not fit, or the kept groups have fewer than `top_k` experts.
    pub fn route_grouped(
        &self,
        logits: &[f32],
        bias: Option<&[f32]>,
        rule: &GroupedRouting,
        ids: &mut [u32],
        weights: &mut [f32],
    ) -> Result<(), KernelError> {
        let n = check(logits, bias, rule, ids, weights)?;
        let &GroupedRouting { experts, top_k, .. } = rule;
        let (ids, weights) = (Disjoint::new(ids), Disjoint::new(weights));
        self.split(n, 8192 / experts, &|first, end| {
            SCRATCH.with_borrow_mut(|scratch| {
                for t in first..end {
                    let at = t * top_k;
                    // SAFETY: each token has one task.
                    let (ids, weights) = unsafe { (ids.part(at, top_k), weights.part(at, top_k)) };
                    self.backend.run(Choice {
                        logits: &logits[t * experts..][..experts],
                        bias,
                        rule,
                        scratch,
                        ids,
                        weights,
                    });
                }
            });
        });
        Ok(())
    }
}

/// Working memory of one token.
#[derive(Default)]
struct Scratch {
    scores: Vec<f32>,
    /// What experts are ranked by; minus infinity where they are taken or out.
    ranks: Vec<f32>,
    groups: Vec<f32>,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// The choice of one token.
struct Choice<'a> {
    logits: &'a [f32],
    bias: Option<&'a [f32]>,
    rule: &'a GroupedRouting,
    scratch: &'a mut Scratch,
    ids: &'a mut [u32],
    weights: &'a mut [f32],
}

impl Kernel for Choice<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) {
        let Scratch {
            scores,
            ranks,
            groups,
        } = self.scratch;
        rank(l, self.rule.scores, self.logits, self.bias, scores, ranks);
        if ranks.iter().any(|rank| !rank.is_finite()) {
            for slot in 0..self.ids.len() {
                (self.ids[slot], self.weights[slot]) = (slot as u32, f32::NAN);
            }
            return;
        }
        if self.rule.kept_groups < self.rule.groups {
            leave_out(l, self.rule, ranks, groups);
        }
        for slot in 0..self.ids.len() {
            let best = take_best(l, ranks);
            (self.ids[slot], self.weights[slot]) = (best as u32, scores[best]);
        }
        to_weights(self.rule, self.weights);
    }
}

/// The scores of a token's logits.
#[inline(always)]
pub(crate) fn score<L: Lanes>(l: L, kind: Scores, logits: &[f32], scores: &mut Vec<f32>) {
    scores.resize(logits.len(), 0.0);
    match kind {
        Scores::Softmax => softmax(l, logits, scores),
        Scores::Sigmoid => {
            let mut i = 0;
            while i < logits.len() {
                l.store_at(math::sigmoid(l, l.load_at(logits, i)), scores, i);
                i += 16;
            }
        }
        Scores::SqrtSoftplus => {
            for (score, logit) in scores.iter_mut().zip(logits) {
                *score = scalar_math::softplus(*logit).sqrt();
            }
        }
    }
}

/// Divides the chosen scores by their sum, if so asked, and scales them.
pub(crate) fn to_weights(rule: &GroupedRouting, weights: &mut [f32]) {
    let mut divisor = 1.0;
    if rule.renormalize {
        divisor = weights.iter().fold(0.0, |sum, w| sum + w) + LEAST_SUM;
    }
    for weight in weights {
        *weight = *weight / divisor * rule.scale;
    }
}

/// Scores, and scores plus bias.
#[inline(always)]
fn rank<L: Lanes>(
    l: L,
    kind: Scores,
    logits: &[f32],
    bias: Option<&[f32]>,
    scores: &mut Vec<f32>,
    ranks: &mut Vec<f32>,
) {
    ranks.resize(logits.len(), 0.0);
    score(l, kind, logits, scores);
    let mut i = 0;
    while i < logits.len() {
        let score = l.load_at(scores, i);
        let rank = match bias {
            Some(bias) => l.add(score, l.load_at(bias, i)),
            None => score,
        };
        l.store_at(rank, ranks, i);
        i += 16;
    }
}

/// Gives the experts of all groups but the best ones the lowest rank.
#[inline(always)]
fn leave_out<L: Lanes>(l: L, rule: &GroupedRouting, ranks: &mut [f32], groups: &mut Vec<f32>) {
    let size = rule.experts / rule.groups;
    groups.clear();
    groups.extend(ranks.chunks_exact(size).map(|group| match rule.scores {
        Scores::Sigmoid | Scores::SqrtSoftplus => best_two(group),
        Scores::Softmax => l.max(group),
    }));
    for _ in 0..rule.kept_groups {
        take_best(l, groups);
    }
    // Those taken are infinitely low by now.
    for (group, ranks) in groups.iter().zip(ranks.chunks_exact_mut(size)) {
        if *group != f32::NEG_INFINITY {
            ranks.fill(f32::NEG_INFINITY);
        }
    }
}

/// Sum of the two greatest; of one if there is but one.
pub(crate) fn best_two(values: &[f32]) -> f32 {
    let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
    for &value in values {
        if value > first {
            (first, second) = (value, first);
        } else if value > second {
            second = value;
        }
    }
    if values.len() == 1 {
        return first;
    }
    first + second
}

/// The index of the greatest, the first of equals; it gets minus infinity.
#[inline(always)]
fn take_best<L: Lanes>(l: L, values: &mut [f32]) -> usize {
    let greatest = l.max(values);
    let mut best = 0;
    while best + 1 < values.len() && values[best] != greatest {
        best += 1;
    }
    values[best] = f32::NEG_INFINITY;
    best
}
