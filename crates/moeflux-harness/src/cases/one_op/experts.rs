//! The router, the experts, and both together.

use std::collections::BTreeMap;

use moeflux::formats::Codec;
use moeflux::graph::{BufferId, ExpertForm, GraphBuilder, Op, WeightId};
use moeflux::kernels::{Glu, GroupedRouting, Scores};
use moeflux::weights::{ExpertPart, WeightPart};

use super::{graph_of, inputs, least_cols};
use crate::{Case, HarnessError, Random, coded_matrix};

/// Random experts of one layer, in room for some of them.
struct Layer {
    hidden: usize,
    experts: Vec<ExpertPart>,
    codec: Codec,
    slots: usize,
}

impl Layer {
    fn new(random: &mut Random, codec: Codec) -> Result<Layer, HarnessError> {
        let least = least_cols(&[codec]);
        let (hidden, intermediate) = (least * random.within(1, 3), least * random.within(1, 2));
        let count = random.within(1, 10);
        let mut experts = Vec::with_capacity(count);
        for _ in 0..count {
            experts.push(ExpertPart {
                gate: coded_matrix(random, codec, intermediate, hidden, 0.1)?,
                up: coded_matrix(random, codec, intermediate, hidden, 0.1)?,
                down: coded_matrix(random, codec, hidden, intermediate, 0.1)?,
            });
        }
        Ok(Layer {
            hidden,
            slots: random.within(1, count),
            experts,
            codec,
        })
    }

    fn give_to(self, case: &mut Case) {
        case.experts = BTreeMap::from([(3, self.experts)]);
        case.expert_slots = Some(self.slots);
        // Two roundings of activations, of the input and of the middle.
        case.tolerance.int8 *= 2.0;
    }
}

/// The choice of some experts, renormalized or not.
pub(super) fn router(random: &mut Random) -> Case {
    let experts = random.within(1, 300);
    let top_k = random.within(1, experts.min(12));
    let mut g = GraphBuilder::default();
    let logits = g.buffer("logits", experts);
    let (ids, weights) = (g.buffer("ids", top_k), g.buffer("weights", top_k));
    let op = Op::Router {
        logits,
        experts,
        top_k,
        renormalize: random.within(0, 1) == 1,
        ids,
        weights,
    };
    let case = Case::new("router", graph_of(g, op, weights));
    let n = random.within(1, 30);
    let data = inputs(random, n, &[(logits, experts, 4.0)]);
    case.step(n, data)
}

/// The choice among groups, with a correction of scores or without.
pub(super) fn grouped_router(random: &mut Random, scores: Scores) -> Case {
    let (groups, size) = (random.within(1, 8), random.within(2, 40));
    let (experts, kept_groups) = (groups * size, random.within(1, groups));
    let top_k = random.within(1, (kept_groups * size).min(12));
    let bias = (random.within(0, 1) == 1).then(|| WeightId::new(0));
    let mut g = GraphBuilder::default();
    let logits = g.buffer("logits", experts);
    let (ids, weights) = (g.buffer("ids", top_k), g.buffer("weights", top_k));
    let op = Op::GroupedRouter {
        logits,
        bias,
        rule: GroupedRouting {
            experts,
            top_k,
            groups,
            kept_groups,
            scores,
            renormalize: random.within(0, 1) == 1,
            scale: 2.5,
        },
        ids,
        weights,
    };
    let name = format!("grouped_router {scores:?}");
    let mut case = Case::new(name, graph_of(g, op, weights));
    if bias.is_some() {
        case.weights
            .push(WeightPart::Vector(random.floats(experts, 0.3)));
    }
    let n = random.within(1, 30);
    let data = inputs(random, n, &[(logits, experts, 4.0)]);
    case.step(n, data)
}

/// Experts that a table has for the tokens.
pub(super) fn token_router(random: &mut Random) -> Case {
    let (experts, vocab) = (random.within(1, 40), random.within(1, 20));
    let top_k = random.within(1, experts.min(6));
    let mut g = GraphBuilder::default();
    let logits = g.buffer("logits", experts);
    let (ids, weights) = (g.buffer("ids", top_k), g.buffer("weights", top_k));
    let op = Op::TokenRouter {
        logits,
        table: WeightId::new(0),
        rule: GroupedRouting {
            experts,
            top_k,
            groups: 1,
            kept_groups: 1,
            scores: random.one_of(&[Scores::Sigmoid, Scores::Softmax, Scores::SqrtSoftplus]),
            renormalize: random.within(0, 1) == 1,
            scale: 1.5,
        },
        ids,
        weights,
    };
    let mut case = Case::new("token_router", graph_of(g, op, weights));
    let numbers = (0..vocab * top_k).map(|_| random.within(0, experts - 1) as f32);
    case.weights.push(WeightPart::Vector(numbers.collect()));
    let n = random.within(1, 30);
    let data = inputs(random, n, &[(logits, experts, 4.0)]);
    let mut case = case.step(n, data);
    for token in &mut case.steps[0].spans[0].tokens {
        *token = random.within(0, vocab - 1) as u32;
    }
    case
}

/// A choice that is given: distinct experts for each token, in random order.
pub(super) fn experts(random: &mut Random, codec: Codec) -> Result<Case, HarnessError> {
    given_experts(random, codec, false)
}

/// The same with biases and a clamped activation.
pub(super) fn biased_experts(random: &mut Random, codec: Codec) -> Result<Case, HarnessError> {
    given_experts(random, codec, true)
}

fn given_experts(random: &mut Random, codec: Codec, is_biased: bool) -> Result<Case, HarnessError> {
    let layer = Layer::new(random, codec)?;
    let count = layer.experts.len();
    let top_k = random.within(1, count.min(4));
    let mut g = GraphBuilder::default();
    let (x, out) = (g.buffer("x", layer.hidden), g.buffer("out", layer.hidden));
    let (ids, weights) = (g.buffer("ids", top_k), g.buffer("weights", top_k));
    let mut op = experts_op((x, ids, weights, out), top_k);
    if let (Op::Experts { form, .. }, true) = (&mut op, is_biased) {
        form.glu = Glu::Clamped {
            limit: 0.7,
            alpha: 1.7,
            offset: 1.0,
        };
        form.biases = Some([0, 1, 2].map(WeightId::new));
    }
    let name = format!("{} {}", op.name(), layer.codec);
    let mut case = Case::new(name, graph_of(g, op, out));
    if is_biased {
        let intermediate = layer.experts[0].gate.rows;
        for rows in [intermediate, intermediate, layer.hidden] {
            let bias = random.floats(count * rows, 0.5);
            case.weights.push(WeightPart::Vector(bias));
        }
    }
    let n = random.within(1, 20);
    let mut data = inputs(random, n, &[(x, layer.hidden, 1.0), (weights, top_k, 1.0)]);
    let mut chosen = Vec::with_capacity(n * top_k);
    for _ in 0..n {
        let mut order: Vec<u32> = (0..count as u32).collect();
        for at in 0..top_k {
            order.swap(at, random.within(at, count - 1));
        }
        chosen.extend(order[..top_k].iter().map(|&id| f32::from_bits(id)));
    }
    data.push((ids, chosen));
    layer.give_to(&mut case);
    Ok(case.step(n, data))
}

/// The router's choice goes to the experts, after a guess at it that has no effect on the result.
pub(super) fn routed(random: &mut Random, codec: Codec) -> Result<Case, HarnessError> {
    let layer = Layer::new(random, codec)?;
    let count = layer.experts.len();
    let top_k = random.within(1, count.min(4));
    let mut g = GraphBuilder::default();
    let (x, out) = (g.buffer("x", layer.hidden), g.buffer("out", layer.hidden));
    let logits = g.buffer("logits", count);
    let (ids, weights) = (g.buffer("ids", top_k), g.buffer("weights", top_k));
    g.push(Op::Lookahead {
        x,
        norm: WeightId::new(0),
        eps: 1e-6,
        router: WeightId::new(1),
        bias: Some(WeightId::new(2)),
        experts: count,
        top_k,
        layer: 3,
    });
    g.push(Op::Router {
        logits,
        experts: count,
        top_k,
        renormalize: true,
        ids,
        weights,
    });
    g.push(Op::RequestExperts {
        ids,
        weights,
        top_k,
        layer: 3,
    });
    let op = experts_op((x, ids, weights, out), top_k);
    let name = format!("router and experts {}", layer.codec);
    let mut case = Case::new(name, graph_of(g, op, out));
    let n = random.within(1, 20);
    let data = inputs(random, n, &[(x, layer.hidden, 1.0), (logits, count, 2.0)]);
    let norm = random.floats(layer.hidden, 1.0);
    let router = coded_matrix(random, Codec::F32, count, layer.hidden, 0.1)?;
    let bias = random.floats(count, 1.0);
    case.weights = vec![
        WeightPart::Vector(norm),
        WeightPart::Matrix(router),
        WeightPart::Vector(bias),
    ];
    layer.give_to(&mut case);
    Ok(case.step(n, data))
}

fn experts_op(
    (x, ids, weights, out): (BufferId, BufferId, BufferId, BufferId),
    top_k: usize,
) -> Op {
    Op::Experts {
        x,
        ids,
        weights,
        top_k,
        layer: 3,
        form: ExpertForm::default(),
        out,
    }
}
