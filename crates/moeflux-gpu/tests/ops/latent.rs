//! Corrected routing by groups, products by head, pieces of rows, biases.

use std::sync::Arc;

use moeflux_gpu::matrix::DeviceMatrix;
use moeflux_gpu::ops::{self, DevicePieces};
use moeflux_gpu::{GpuError, Recorder};
use moeflux_kernels::{GroupedRouting, HeadRows, Matrix, MatrixData, Piece, Scores, reference};

use crate::common::{close, poisoned, random, upload};
use crate::{floats, recorder, view, words};

fn check_router(
    r: &mut Recorder,
    logits: &[f32],
    bias: Option<&[f32]>,
    rule: &GroupedRouting,
    what: &str,
) {
    let gpu = Arc::clone(r.gpu());
    let n = logits.len() / rule.experts;
    let len = n * rule.top_k;
    let (dlogits, ids, weights) = (
        upload(&gpu, logits),
        poisoned(&gpu, len),
        poisoned(&gpu, len),
    );
    let dbias = bias.map(|bias| upload(&gpu, bias));
    let views = (
        view(&dlogits, logits.len()),
        view(&ids, len),
        view(&weights, len),
    );
    let bias_view = dbias.as_ref().map(|bias| view(bias, rule.experts));
    ops::grouped_router(r, views, bias_view, rule, n).expect("it runs");
    let (mut e_ids, mut e_weights) = (vec![0; len], vec![0.0; len]);
    reference::route_grouped(logits, bias, rule, &mut e_ids, &mut e_weights).expect("it fits");
    assert_eq!(words(r, &ids, len), e_ids, "{what}: experts");
    let weights = floats(r, &weights, len);
    for (found, expected) in weights.chunks(rule.top_k).zip(e_weights.chunks(rule.top_k)) {
        match expected[0] {
            w if w.is_nan() => assert!(found.iter().all(|w| w.is_nan()), "{what}: {found:?}"),
            0.0 => assert_eq!(found, expected, "{what}"),
            _ => close(found, expected, 1e-6, what),
        }
    }
}

fn rules() -> Vec<GroupedRouting> {
    let shapes = [
        (256, 8, 8, 4),
        (64, 6, 1, 1),
        (60, 4, 12, 5),
        (7, 3, 7, 4),
        (1, 1, 1, 1),
    ];
    let mut all = Vec::new();
    for (experts, top_k, groups, kept_groups) in shapes {
        for (scores, renormalize) in [(Scores::Sigmoid, true), (Scores::Softmax, false)] {
            all.push(GroupedRouting {
                experts,
                top_k,
                groups,
                kept_groups,
                scores,
                renormalize,
                scale: 2.5,
            });
        }
    }
    all
}

#[test]
fn experts_of_the_best_groups() {
    let (_, mut r) = recorder();
    for rule in rules() {
        let logits: Vec<f32> = random(3, 9 * rule.experts)
            .iter()
            .map(|v| v * 6.0)
            .collect();
        let bias = random(4, rule.experts);
        check_router(&mut r, &logits, None, &rule, &format!("{rule:?}"));
        check_router(
            &mut r,
            &logits,
            Some(&bias),
            &rule,
            &format!("{rule:?}, corrected"),
        );
        // Few different values: most choices are among equals.
        let logits: Vec<f32> = logits.iter().map(|v| v.round()).collect();
        check_router(&mut r, &logits, None, &rule, &format!("{rule:?}, equals"));
    }
}

#[test]
fn the_lowest_ids_where_nothing_can_be_ranked() {
    let (_, mut r) = recorder();
    for rule in rules() {
        for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut logits = random(5, 2 * rule.experts);
            logits[rule.experts - 1] = odd;
            check_router(
                &mut r,
                &logits,
                None,
                &rule,
                &format!("{rule:?}, a logit of {odd}"),
            );
            let logits = random(5, rule.experts);
            let mut bias = random(6, rule.experts);
            bias[0] = odd;
            let what = format!("{rule:?}, a correction of {odd}");
            check_router(&mut r, &logits, Some(&bias), &rule, &what);
        }
    }
}

#[test]
fn products_by_head() {
    let (gpu, mut r) = recorder();
    for (heads, stride, first, rows, cols, n) in [
        (3, 10, 2, 7, 40, 4),
        (2, 4, 0, 4, 7, 1),
        (5, 9, 8, 1, 300, 3),
    ] {
        let values = random(1, heads * stride * cols);
        let matrix = Matrix::new(heads * stride, cols, MatrixData::F32(&values)).expect("it fits");
        let device = DeviceMatrix::upload(&gpu, &matrix).expect("there is memory");
        for transposed in [false, true] {
            let shape = HeadRows {
                heads,
                stride,
                first,
                rows,
                transposed,
            };
            let (before, after) = if transposed {
                (rows, cols)
            } else {
                (cols, rows)
            };
            let x = random(2, n * heads * before);
            let mut expected = vec![0.0; n * heads * after];
            reference::head_matmul(&matrix, &x, shape, &mut expected).expect("it fits");
            let (dx, out) = (upload(&gpu, &x), poisoned(&gpu, expected.len()));
            let views = (view(&dx, x.len()), view(&out, expected.len()));
            ops::head_matmul(&mut r, &device, views, shape, n).expect("it runs");
            let found = floats(&mut r, &out, expected.len());
            close(&found, &expected, 1e-6, &format!("{shape:?}"));
            let short = (view(&dx, x.len() - 1), view(&out, expected.len()));
            let refused = ops::head_matmul(&mut r, &device, short, shape, n);
            assert!(
                matches!(refused, Err(GpuError::Refused { .. })),
                "{refused:?}"
            );
        }
    }
}

#[test]
fn rows_of_pieces() {
    let (gpu, mut r) = recorder();
    let piece = |input, start, len| Piece { input, start, len };
    let pieces = [
        piece(1, 2, 3),
        piece(0, 0, 70),
        piece(1, 0, 0),
        piece(1, 2, 1),
        piece(2, 4, 1),
    ];
    let (widths, n, width) = ([75, 6, 5], 9, 75);
    let inputs: Vec<Vec<f32>> = (7..)
        .zip(widths)
        .map(|(seed, w)| random(seed, n * w))
        .collect();
    let slices: Vec<&[f32]> = inputs.iter().map(Vec::as_slice).collect();
    let mut expected = vec![0.0; n * width];
    reference::rearrange(&slices, &pieces, &mut expected).expect("it fits");
    let list = DevicePieces::upload(&gpu, &pieces, 3).expect("they fit");
    let buffers: Vec<_> = inputs.iter().map(|input| upload(&gpu, input)).collect();
    let views: Vec<_> = buffers
        .iter()
        .zip(widths)
        .map(|(b, width)| (view(b, n * width), width))
        .collect();
    let out = poisoned(&gpu, n * width);
    ops::rearrange(&mut r, &views, &list, n, view(&out, n * width)).expect("it runs");
    assert_eq!(floats(&mut r, &out, n * width), expected);
    let narrow = [views[0], (views[1].0, 4), views[2]];
    let refused = ops::rearrange(&mut r, &narrow, &list, n, view(&out, n * width));
    assert!(
        matches!(refused, Err(GpuError::Unsupported { .. })),
        "{refused:?}"
    );
    let refused = DevicePieces::upload(&gpu, &pieces, 2);
    assert!(
        matches!(refused, Err(GpuError::Unsupported { .. })),
        "{refused:?}"
    );
}

#[test]
fn the_same_bias_for_every_row() {
    let (gpu, mut r) = recorder();
    let (n, width) = (7, 33);
    let (x, bias) = (random(8, n * width), random(9, width));
    let [dx, dbias] = [&x, &bias].map(|v| upload(&gpu, v));
    let out = poisoned(&gpu, n * width);
    let views = (
        view(&dx, n * width),
        view(&dbias, width),
        view(&out, n * width),
    );
    ops::add_bias(&mut r, views, n, width).expect("it runs");
    let mut expected = vec![0.0; n * width];
    reference::add_bias(&x, &bias, &mut expected).expect("it fits");
    assert_eq!(floats(&mut r, &out, n * width), expected);
}
