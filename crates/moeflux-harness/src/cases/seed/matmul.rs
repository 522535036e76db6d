//! Products with bf16 and 4-bit matrices: several tokens, and one token against the batched form.

use moeflux::formats::codec::bf16;
use moeflux::formats::{Codec, Encoded};
use moeflux::graph::{GraphBuilder, Op, WeightId};
use moeflux::weights::{MatrixPart, WeightPart};

use super::SeedCase;
use crate::{Case, Random, affine4_matrix};

/// Tokens beside the single one, in the batched form of a case with one token.
const COMPANY: usize = 4;

/// The case of that name, if it is one of these.
pub(super) fn case(name: &str) -> Option<SeedCase> {
    let (seed, n, cols, rows, bits) = match name {
        "bf16_matmul_n_tokens_matches_cpu" => (0xBA7C_4ED0_D0FF_05AC, 4, 2048, 512, 16),
        "bf16_matmul_n_tokens_n1_matches_single_matvec" => {
            (0xDEAD_BEEF_C0FE_BABE, 1, 1024, 256, 16)
        }
        "dequant_matvec_4bit_n_tokens_v3_matches_cpu" => (0xD3_CAFE_BABE_0001, 4, 2048, 512, 4),
        "dequant_matvec_4bit_n_tokens_fast_matches_cpu" => (0xD3_CAFE_BABE_0002, 4, 8192, 256, 4),
        "dequant_matvec_4bit_n_tokens_v3_n1_matches_single" => {
            (0xD3_CAFE_BABE_0003, 1, 1024, 256, 4)
        }
        _ => return None,
    };
    let mut random = Random::new(seed);
    let matrix = match bits {
        4 => affine4_matrix(&mut random, rows, cols),
        _ => bf16_matrix(&mut random, rows, cols),
    };
    let x = random.floats(n * cols, 1.0);
    let found = SeedCase::alone(product(name.to_owned(), &matrix, x.clone()));
    if n > 1 {
        return Some(found);
    }
    let company = [x, random.floats(COMPANY * cols, 1.0)].concat();
    let batched = product(format!("{name}, in a batch"), &matrix, company);
    Some(found.with_twin(batched, 1))
}

/// Values in [-0.1, 0.1], rounded.
fn bf16_matrix(random: &mut Random, rows: usize, cols: usize) -> MatrixPart {
    let values = random.floats(rows * cols, 0.1);
    let weights = values.iter().flat_map(|&v| bf16::round(v).to_le_bytes());
    MatrixPart {
        codec: Codec::Bf16,
        rows,
        cols,
        encoded: Encoded {
            weights: weights.collect(),
            ..Encoded::default()
        },
    }
}

fn product(name: String, matrix: &MatrixPart, x: Vec<f32>) -> Case {
    let mut graph = GraphBuilder::default();
    let input = graph.buffer("x", matrix.cols);
    let out = graph.buffer("out", matrix.rows);
    graph.push(Op::Matmul {
        x: input,
        outputs: vec![(WeightId::new(0), out)],
        exact: false,
    });
    let mut case = Case::new(name, graph.finish(out));
    case.weights.push(WeightPart::Matrix(matrix.clone()));
    case.step(x.len() / matrix.cols, vec![(input, x)])
}
