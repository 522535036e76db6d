//! What a step of few tokens dispatches: a graph's operations, neighbours of which are one kernel
//! where `ops::decode` has one for them. What follows from the graph alone is decided here, once.
//!
//! A norm goes into the products that read it, a gate or activation into the product behind it, an
//! addition to the residual stream into the product before it, all products of a vector into one
//! dispatch; a recurrent layer's convolution into its delta rule, what comes before attention into one
//! kernel, and all behind the routed experts' activations into another.

mod find;
mod uses;

use std::collections::BTreeSet;

use moeflux::Error;
use moeflux::backend::ExpertStage;
use moeflux::graph::{BufferId, Graph, Op, WeightId};
use moeflux::weights::Weights;

/// A piece of a step.
#[derive(Debug)]
pub(super) enum Item {
    /// An operation by itself, by its place in the graph.
    Op(usize),
    /// A router whose choices its experts can make themselves, by its place in the graph.
    Choice(usize),
    Products(Products),
    Heads(Heads),
    Delta(Delta),
    Experts(Experts),
}

/// What a product's vector is made of; see [`crate::ops::decode::Input`].
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Plain(BufferId),
    Norm {
        x: BufferId,
        weight: WeightId,
        eps: f32,
    },
    GatedNorm {
        x: BufferId,
        gate: BufferId,
        weight: WeightId,
        eps: f32,
    },
    SigmoidMul {
        x: BufferId,
        gate: BufferId,
        pairs: Option<usize>,
    },
    Swiglu {
        gate: BufferId,
        up: BufferId,
    },
}

#[derive(Debug)]
pub(super) struct Products {
    pub source: Source,
    pub outputs: Vec<(WeightId, BufferId)>,
    pub added: Option<BufferId>,
}

/// What comes before attention: places in the graph of the operations whose fields it takes.
#[derive(Debug)]
pub(super) struct Heads {
    /// Queries, before splitting, norm and rotation.
    pub q: BufferId,
    pub is_paired: bool,
    pub k: BufferId,
    pub v: BufferId,
    /// Norms of queries and keys.
    pub norms: Option<(WeightId, WeightId, f32)>,
    /// The queries' rotation.
    pub rope: usize,
    pub append: usize,
    pub out: BufferId,
}

#[derive(Debug)]
pub(super) struct Delta {
    pub conv: usize,
    pub rule: usize,
}

#[derive(Debug)]
pub(super) struct Experts {
    pub op: usize,
    /// The router that chooses them, if nobody else needs to know before them.
    pub router: Option<usize>,
    pub source: Source,
    pub shared: Option<Shared>,
    pub added: Option<BufferId>,
    pub out: BufferId,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Shared {
    pub gate: BufferId,
    pub up: BufferId,
    pub down: WeightId,
    pub scale: Option<BufferId>,
}

/// The pieces of a step in order, and what is stored side by side.
#[derive(Debug)]
pub(super) struct Plan {
    pub items: Vec<Item>,
    /// Buffers that the items write; those of a set lie in one piece of memory.
    pub sets: Vec<Vec<BufferId>>,
    /// Whether what follows a layer's choices can be recorded before they are known: all of it is
    /// commands alone.
    pub can_wait: bool,
}

impl Plan {
    /// `apart`: layers whose experts are operations by themselves.
    pub fn new(
        graph: &Graph,
        weights: &Weights,
        stage: &ExpertStage,
        apart: &BTreeSet<usize>,
    ) -> Result<Plan, Error> {
        let items = find::items(graph, weights, stage, apart)?;
        let mut sets = Vec::new();
        for item in &items {
            match item {
                Item::Op(op) | Item::Choice(op) => match &graph.ops[*op] {
                    // Whoever reads choices reads their weights too.
                    op
                    @ (Op::Router { .. } | Op::GroupedRouter { .. } | Op::TokenRouter { .. }) => {
                        sets.push(op.writes());
                    }
                    op => sets.extend(op.writes().into_iter().map(|id| vec![id])),
                },
                Item::Products(p) => sets.push(p.outputs.iter().map(|&(_, id)| id).collect()),
                Item::Heads(h) => sets.push(vec![h.out]),
                Item::Delta(d) => sets.push(graph.ops[d.rule].writes()),
                Item::Experts(e) => sets.push(vec![e.out]),
            }
        }
        let is_commands = |item: &Item| match item {
            Item::Op(op) => is_commands(&graph.ops[*op]),
            _ => true,
        };
        Ok(Plan {
            can_wait: items.iter().all(is_commands),
            items,
            sets,
        })
    }

    /// How many items come before a step's results are needed: all but those that make logits, if
    /// the latter are nothing but that and none of the former needs the token on the host.
    pub fn before_logits(&self, graph: &Graph) -> Option<usize> {
        let selects = |item: &Item| matches!(item, Item::Op(op) if matches!(graph.ops[*op], Op::SelectOutputs { .. }));
        let first = self.items.iter().position(selects)?;
        let is_row_wise = |item: &Item| match item {
            Item::Op(op) => matches!(
                graph.ops[*op],
                Op::SelectOutputs { .. } | Op::RmsNorm { .. } | Op::Matmul { .. }
            ),
            Item::Products(_) => true,
            _ => false,
        };
        let is_blind = |item: &Item| match item {
            Item::Op(op) => is_blind(&graph.ops[*op]),
            _ => true,
        };
        let (before, rest) = self.items.split_at(first);
        (before.iter().all(is_blind) && rest.iter().all(is_row_wise)).then_some(first)
    }

    /// The items from the choice of a layer's routed experts on.
    pub fn rest_with_experts(&self, graph: &Graph, layer: usize) -> &[Item] {
        let chosen = graph.ops.iter().find_map(|op| match op {
            Op::Experts {
                layer: own, ids, ..
            } if *own == layer => Some(*ids),
            _ => None,
        });
        let chooses = |item: &Item| match item {
            Item::Op(op) | Item::Choice(op) => {
                chosen.is_some_and(|ids| graph.ops[*op].writes().contains(&ids))
            }
            _ => false,
        };
        let first = self.items.iter().position(chooses);
        &self.items[first.unwrap_or(0)..]
    }
}

/// Whether an operation of a step of few tokens writes nothing from the host.
fn is_commands(op: &Op) -> bool {
    matches!(
        op,
        Op::Embed { .. }
            | Op::RmsNorm { .. }
            | Op::RmsNormGated { .. }
            | Op::Matmul { .. }
            | Op::SplitPairs { .. }
            | Op::KvAppend { .. }
            | Op::Attention { .. }
            | Op::Conv1dSilu { .. }
            | Op::GatedDelta { .. }
            | Op::Router { .. }
            | Op::RequestExperts { .. }
            | Op::Swiglu { .. }
            | Op::SigmoidMul { .. }
            | Op::ScaleBySigmoid { .. }
            | Op::Add { .. }
            | Op::SelectOutputs { .. }
    )
}

/// Whether an operation of a step of few tokens, all of whose experts are on the device, can be
/// recorded before the host knows the tokens.
fn is_blind(op: &Op) -> bool {
    is_commands(op)
        || matches!(
            op,
            Op::Rope { .. }
                | Op::AddBias { .. }
                | Op::Rearrange { .. }
                | Op::HeadMatmul { .. }
                | Op::GroupedRouter { .. }
                | Op::Experts { .. }
        )
}
