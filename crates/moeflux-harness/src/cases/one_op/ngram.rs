//! Rows of a table that n-grams of tokens name, over several steps.

use moeflux::graph::{GraphBuilder, Op, WeightId};
use moeflux::kernels::NgramRule;
use moeflux::weights::WeightPart;

use super::graph_of;
use super::rowwise::exact;
use crate::{Case, Random};

/// Tokens of which one in a few ends a text, hashed to parts of odd sizes.
pub(super) fn ngram_rows(random: &mut Random) -> Case {
    let (longest, each) = (random.within(2, 5), random.within(1, 4));
    let (vocab, cols) = (random.within(2, 12), random.within(1, 40));
    let factors = (0..longest).map(|_| (random.next_u64() >> 8) | 1).collect();
    let mut rows: usize = 0;
    let mut part = |_: usize| {
        let own = (rows as u64, random.within(1, 60) as u64);
        rows += own.1 as usize;
        own
    };
    let parts: Vec<(u64, u64)> = (0..(longest - 1) * each).map(&mut part).collect();
    let rule = NgramRule {
        factors,
        parts: parts.into(),
        end: random.within(0, vocab - 1) as u32,
    };
    let mut g = GraphBuilder::default();
    let out = g.buffer("out", rule.rows() * cols);
    let table = WeightId::new(0);
    let op = Op::NgramRows { table, rule, out };
    let mut case = exact(Case::new("ngram_rows", graph_of(g, op, out)));
    case.weights.push(WeightPart::Table {
        cols,
        values: random.floats(rows * cols, 1.0),
    });
    for n in [1, random.within(2, 30), 1, random.within(2, 30)] {
        case = case.step(n, vec![]);
    }
    let spans = case.steps.iter_mut().flat_map(|step| &mut step.spans);
    for token in spans.flat_map(|span| &mut span.tokens) {
        *token = random.within(0, vocab - 1) as u32;
    }
    case
}
