//! Choices among groups, products by head, rearranged rows and biases: all instruction sets and
//! thread counts against the reference, bit for bit.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{Random, assert_same, cpus, kind};
use moeflux_kernels::{
    Cpu, GroupedRouting, HeadRows, Isa, Matrix, MatrixData, Piece, Scores, reference,
};
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn choices(
        seed: u64, n in 0usize..5, groups in 1usize..6, size in 1usize..40, x_kind in 0usize..14,
        with_bias: bool, renormalize: bool, softmax: bool,
    ) {
        let mut random = Random(seed);
        let kept_groups = 1 + random.below(groups);
        let rule = GroupedRouting {
            experts: groups * size,
            top_k: random.below((kept_groups * size).min(10) + 1),
            groups,
            kept_groups,
            scores: if softmax { Scores::Softmax } else { Scores::Sigmoid },
            renormalize,
            scale: 2.5,
        };
        let logits = random.values(kind(x_kind), n * rule.experts);
        let bias = random.floats(rule.experts);
        let bias = with_bias.then_some(&bias[..]);
        let (mut ids, mut weights) = (vec![7; n * rule.top_k], vec![0.5; n * rule.top_k]);
        reference::route_grouped(&logits, bias, &rule, &mut ids, &mut weights).unwrap();
        for cpu in cpus() {
            let (mut found, mut shares) = (vec![8; ids.len()], vec![1.5; ids.len()]);
            cpu.route_grouped(&logits, bias, &rule, &mut found, &mut shares).unwrap();
            prop_assert_eq!(&found, &ids);
            assert_same("route_grouped", &cpu, &shares, &weights);
        }
    }

    #[test]
    fn products_by_head(
        seed: u64, n in 0usize..4, heads in 1usize..5, rows in 0usize..20, cols in 1usize..90,
        transposed: bool,
    ) {
        let mut random = Random(seed);
        let (first, after) = (random.below(4), random.below(4));
        let shape = HeadRows { heads, stride: first + rows + after, first, rows, transposed };
        prop_assume!(shape.stride > 0 && (rows > 0 || !transposed));
        let values = random.floats(heads * shape.stride * cols);
        let weights = Matrix::new(heads * shape.stride, cols, MatrixData::F32(&values)).unwrap();
        let (before, width) = if transposed { (rows, cols) } else { (cols, rows) };
        let x = random.floats(n * heads * before);
        let mut expected = vec![0.5; n * heads * width];
        reference::head_matmul(&weights, &x, shape, &mut expected).unwrap();
        for cpu in cpus() {
            let mut out = vec![1.5; expected.len()];
            cpu.head_matmul(&weights, &x, shape, &mut out).unwrap();
            assert_same("head_matmul", &cpu, &out, &expected);
        }
    }

    #[test]
    fn rows_from_pieces_and_biases(seed: u64, n in 0usize..6, count in 1usize..9) {
        let mut random = Random(seed);
        let widths = [1 + random.below(70), 1 + random.below(70)];
        let inputs = widths.map(|width| random.floats(n * width));
        let inputs = [&inputs[0][..], &inputs[1][..]];
        let pieces: Vec<Piece> = (0..count)
            .map(|_| {
                let input = random.below(2);
                let start = random.below(widths[input]);
                Piece { input, start, len: 1 + random.below(widths[input] - start) }
            })
            .collect();
        let width: usize = pieces.iter().map(|piece| piece.len).sum();
        let bias = random.floats(width);
        let mut expected = vec![0.5; n * width];
        reference::rearrange(&inputs, &pieces, &mut expected).unwrap();
        let mut shifted = vec![0.5; n * width];
        reference::add_bias(&expected, &bias, &mut shifted).unwrap();
        for cpu in cpus() {
            let mut out = vec![1.5; n * width];
            cpu.rearrange(&inputs, &pieces, &mut out).unwrap();
            assert_same("rearrange", &cpu, &out, &expected);
            let mut sums = vec![1.5; n * width];
            cpu.add_bias(&out, &bias, &mut sums).unwrap();
            assert_same("add_bias", &cpu, &sums, &shifted);
        }
    }
}

/// Two groups of four of which one counts. By hand: sigmoids of 2 and 4 are 0.880797 and 0.982014.
#[test]
fn a_choice_worked_out_by_hand() {
    let logits = [3.0, -2.0, 1.0, -1.0, -3.0, 2.0, 0.0, 4.0];
    let bias = [0.1, 0.2, -0.3, 0.0, 0.0, 0.4, -0.1, 0.05];
    let rule = GroupedRouting {
        experts: 8,
        top_k: 2,
        groups: 2,
        kept_groups: 1,
        scores: Scores::Sigmoid,
        renormalize: true,
        scale: 2.5,
    };
    let (mut ids, mut weights) = ([0; 2], [0.0; 2]);
    let cpu = Cpu::new(Isa::Scalar, 1).unwrap();
    cpu.route_grouped(&logits, Some(&bias), &rule, &mut ids, &mut weights)
        .unwrap();
    assert_eq!(ids, [5, 7]);
    for (got, expected) in weights.iter().zip([1.182_08, 1.317_92]) {
        assert!((got - expected).abs() < 1e-5, "{weights:?}");
    }
}

#[test]
fn wrong_sizes_are_errors() {
    let cpu = Cpu::new(Isa::Scalar, 1).unwrap();
    assert!(cpu.add_bias(&[0.0; 4], &[0.0; 3], &mut [0.0; 4]).is_err());
    assert!(cpu.add_bias(&[0.0; 4], &[], &mut [0.0; 4]).is_err());
    let piece = Piece {
        input: 0,
        start: 2,
        len: 3,
    };
    assert!(cpu.rearrange(&[&[0.0; 5]], &[piece], &mut [0.0; 3]).is_ok());
    assert!(
        cpu.rearrange(&[&[0.0; 4]], &[piece], &mut [0.0; 3])
            .is_err()
    );
    assert!(cpu.rearrange(&[], &[piece], &mut [0.0; 3]).is_err());
    assert!(cpu.rearrange(&[&[0.0; 4]], &[], &mut []).is_err());
    let values = [0.0; 12];
    let weights = Matrix::new(4, 3, MatrixData::F32(&values)).unwrap();
    let shape = HeadRows {
        heads: 2,
        stride: 2,
        first: 1,
        rows: 1,
        transposed: false,
    };
    let run = |shape| cpu.head_matmul(&weights, &[0.0; 6], shape, &mut [0.0; 2]);
    assert!(run(shape).is_ok());
    assert!(run(HeadRows { rows: 2, ..shape }).is_err());
    assert!(run(HeadRows { heads: 3, ..shape }).is_err());
    let rule = GroupedRouting {
        experts: 6,
        top_k: 4,
        groups: 3,
        kept_groups: 1,
        scores: Scores::Softmax,
        renormalize: false,
        scale: 1.0,
    };
    let run = |rule| cpu.route_grouped(&[0.0; 6], None, &rule, &mut [0; 4], &mut [0.0; 4]);
    assert!(run(rule).is_err(), "the kept group has two experts");
    assert!(
        run(GroupedRouting {
            kept_groups: 2,
            ..rule
        })
        .is_ok()
    );
    assert!(run(GroupedRouting { groups: 4, ..rule }).is_err());
}
