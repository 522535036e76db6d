//! Operations on the heads of a row.

use moeflux::formats::Codec;
use moeflux::graph::{GraphBuilder, Op, WeightId};
use moeflux::kernels::{HeadRows, Piece};
use moeflux::weights::WeightPart;

use super::rowwise::{exact, with_rows};
use super::{graph_of, least_cols};
use crate::{Case, HarnessError, Random, coded_matrix};

/// Pieces of two inputs in any order, some of them used twice.
pub(super) fn rearrange(random: &mut Random) -> Case {
    let widths = [random.within(1, 300), random.within(1, 300)];
    let pieces: Vec<Piece> = (0..random.within(1, 12))
        .map(|_| {
            let input = random.within(0, 1);
            let start = random.within(0, widths[input] - 1);
            let len = random.within(1, widths[input] - start);
            Piece { input, start, len }
        })
        .collect();
    let mut g = GraphBuilder::default();
    let inputs = widths.map(|width| g.buffer("x", width));
    let out = g.buffer("out", pieces.iter().map(|piece| piece.len).sum());
    let op = Op::Rearrange {
        inputs: inputs.to_vec(),
        pieces: pieces.into(),
        out,
    };
    let case = Case::new("rearrange", graph_of(g, op, out));
    let data = [(inputs[0], widths[0], 1.0), (inputs[1], widths[1], 1.0)];
    with_rows(random, exact(case), &data)
}

/// Products of heads with some of their rows, or with the transpose of those.
pub(super) fn head_matmul(
    random: &mut Random,
    codec: Codec,
    transposed: bool,
) -> Result<Case, HarnessError> {
    let cols = least_cols(&[codec]) * random.within(1, 2);
    let (heads, first, rows) = (
        random.within(1, 5),
        random.within(0, 9),
        random.within(1, 40),
    );
    let stride = first + rows + random.within(0, 9);
    let (before, after) = match transposed {
        false => (heads * cols, heads * rows),
        true => (heads * rows, heads * cols),
    };
    let mut g = GraphBuilder::default();
    let (x, out) = (g.buffer("x", before), g.buffer("out", after));
    let op = Op::HeadMatmul {
        x,
        weight: WeightId::new(0),
        shape: HeadRows {
            heads,
            stride,
            first,
            rows,
            transposed,
        },
        out,
    };
    let kind = if transposed { "transposed " } else { "" };
    let name = format!("head_matmul {kind}{codec}");
    let mut case = Case::new(name, graph_of(g, op, out));
    let matrix = coded_matrix(random, codec, heads * stride, cols, 0.1)?;
    case.weights.push(WeightPart::Matrix(matrix));
    Ok(with_rows(random, case, &[(x, before, 1.0)]))
}
