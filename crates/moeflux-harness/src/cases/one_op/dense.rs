//! Operations with matrices.

use moeflux::formats::Codec;
use moeflux::graph::{GraphBuilder, Op, WeightId};
use moeflux::weights::WeightPart;

use super::{graph_of, inputs, least_cols};
use crate::{Case, HarnessError, Random, coded_matrix};

/// Rows of a table in any codec.
pub(super) fn embed(random: &mut Random, codec: Codec) -> Result<Case, HarnessError> {
    let (vocab, width) = (
        random.within(2, 70),
        least_cols(&[codec]) * random.within(1, 3),
    );
    let mut g = GraphBuilder::default();
    let out = g.buffer("out", width);
    let weight = WeightId::new(0);
    let mut case = Case::new(
        format!("embed {codec}"),
        graph_of(g, Op::Embed { weight, out }, out),
    );
    let table = coded_matrix(random, codec, vocab, width, 1.0)?;
    case.weights.push(WeightPart::Matrix(table));
    let n = random.within(1, 20);
    case = case.step(n, vec![]);
    for token in &mut case.steps[0].spans[0].tokens {
        *token = random.within(0, vocab - 1) as u32;
    }
    Ok(case)
}

/// One input times matrices in several codecs, whose groups need not agree.
pub(super) fn matmul(random: &mut Random, codecs: &[Codec]) -> Result<Case, HarnessError> {
    products(random, codecs, false)
}

/// The same with activations that stay f32 whatever the codec.
pub(super) fn exact_matmul(random: &mut Random, codec: Codec) -> Result<Case, HarnessError> {
    products(random, &[codec], true)
}

fn products(random: &mut Random, codecs: &[Codec], exact: bool) -> Result<Case, HarnessError> {
    let (n, cols) = (
        random.within(1, 40),
        least_cols(codecs) * random.within(1, 8),
    );
    // Of few outputs in all, the one near zero would be measured by its own size.
    let fewest = if n < 16 { 16 } else { 1 };
    let mut g = GraphBuilder::default();
    let x = g.buffer("x", cols);
    let (mut outputs, mut weights) = (Vec::new(), Vec::new());
    for (index, &codec) in codecs.iter().enumerate() {
        let rows = random.within(fewest, 150);
        let out = g.buffer("out", rows);
        outputs.push((WeightId::new(index), out));
        let matrix = coded_matrix(random, codec, rows, cols, 0.1)?;
        weights.push(WeightPart::Matrix(matrix));
    }
    let names: Vec<String> = codecs.iter().map(Codec::to_string).collect();
    let name = format!("matmul {}, exact: {exact}", names.join(" "));
    let last = outputs[0].1;
    let op = Op::Matmul { x, outputs, exact };
    let mut case = Case::new(name, graph_of(g, op, last));
    case.weights = weights;
    let data = inputs(random, n, &[(x, cols, 1.0)]);
    Ok(case.step(n, data))
}
