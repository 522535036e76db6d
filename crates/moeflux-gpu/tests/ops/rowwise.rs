//! Norms, positions, and operations that move rows.

use moeflux_gpu::View;
use moeflux_gpu::ops::{self, RopeShape};
use moeflux_kernels::{RopeStyle, reference};

use crate::common::{close, poisoned, random, upload};
use crate::{floats, recorder, upload_words, view, words};

#[test]
fn norms() {
    let (gpu, mut r) = recorder();
    for (pieces, len) in [(1, 8), (3, 7), (5, 256), (2, 2048), (1, 7168), (33_000, 4)] {
        let n = pieces * len;
        let [x, gate] = [1, 2].map(|seed| random(seed, n));
        let (weight, eps) = (random(3, len), 1e-6);
        let [dx, dgate, dweight] = [&x, &gate, &weight].map(|v| upload(&gpu, v));
        let [out, gated] = [0; 2].map(|_| poisoned(&gpu, n));
        let w = view(&dweight, len);
        let [vx, vgate, vout, vgated] = [&dx, &dgate, &out, &gated].map(|b| view(b, n));
        ops::rms_norm(&mut r, (vx, w, vout), pieces, len, eps).expect("it runs");
        ops::rms_norm_gated(&mut r, (vx, vgate, w, vgated), pieces, len, eps).expect("it runs");

        let mut expected = vec![0.0; n];
        reference::rms_norm(&x, &weight, eps, &mut expected).expect("sizes agree");
        close(&floats(&mut r, &out, n), &expected, 1e-6, "rms_norm");
        reference::rms_norm_gated(&x, &gate, &weight, eps, &mut expected).expect("sizes agree");
        close(
            &floats(&mut r, &gated, n),
            &expected,
            1e-6,
            "rms_norm_gated",
        );
    }
}

/// Angles are reduced exactly, so far positions are as good as near ones.
#[test]
fn positions_near_and_far() {
    let (gpu, mut r) = recorder();
    let positions = [0u32, 1, 2, 3, 17, 1000, 4095, 131_071, 262_143, 8_388_607];
    for (heads, head_dim, pairs) in [(3, 20, 4), (2, 20, 10), (1, 64, 32), (5, 8, 0)] {
        for style in [RopeStyle::HalfSplit, RopeStyle::Interleaved] {
            let n = positions.len() * heads * head_dim;
            let (x, scale) = (random(4, n), 1.25);
            let frequency = |i: usize| 10_000f32.powf(-(i as f32) / pairs as f32);
            let inv_freq: Vec<f32> = (0..pairs).map(frequency).collect();
            let [dx, dfreq] = [&x, &inv_freq].map(|v| upload(&gpu, v));
            let (dpositions, out) = (upload_words(&gpu, &positions), poisoned(&gpu, n));
            let freq = View::from(&dfreq);
            let shape = RopeShape {
                heads,
                head_dim,
                pairs,
                style,
                attention_scale: scale,
            };
            let views = (view(&dx, n), view(&dpositions, 10), freq, view(&out, n));
            ops::rope(&mut r, views, shape, positions.len()).expect("it runs");
            let mut expected = vec![0.0; n];
            let (p, f) = (&positions, &inv_freq);
            reference::rope(&x, p, heads, head_dim, f, scale, style, &mut expected)
                .expect("sizes agree");
            close(&floats(&mut r, &out, n), &expected, 1e-6, "rope");
        }
    }
}

#[test]
fn pairs_are_split_and_rows_selected() {
    let (gpu, mut r) = recorder();
    let (n, heads, dim) = (3, 4, 5);
    let len = n * heads * dim;
    let x = random(5, 2 * len);
    let dx = upload(&gpu, &x);
    let [first, second] = [0; 2].map(|_| poisoned(&gpu, len));
    let views = (view(&dx, 2 * len), view(&first, len), view(&second, len));
    ops::split_pairs(&mut r, views, n * heads, dim).expect("it runs");
    let (mut a, mut b) = (vec![0.0; len], vec![0.0; len]);
    reference::split_pairs(&x, heads, dim, &mut a, &mut b).expect("sizes agree");
    assert_eq!(floats(&mut r, &first, len), a);
    assert_eq!(floats(&mut r, &second, len), b);

    let list = upload_words(&gpu, &[2, 0]);
    let (width, out) = (2 * heads * dim, poisoned(&gpu, 4 * heads * dim));
    let views = (view(&dx, 2 * len), view(&list, 2), view(&out, 2 * width));
    ops::select_rows(&mut r, views, 2, width).expect("it runs");
    let expected = [&x[2 * width..], &x[..width]].concat();
    assert_eq!(floats(&mut r, &out, 2 * width), expected);
}

#[test]
fn the_largest_is_found_and_the_lowest_of_equals() {
    let (gpu, mut r) = recorder();
    for width in [1, 255, 2048, 5000, 248_320] {
        let rows = 3;
        let mut x = random(6, rows * width);
        for (row, x) in x.chunks_exact_mut(width).enumerate() {
            // Equal ones in different workgroups, or all equal.
            for at in [width - 1, width / 2, width * 3 / 4] {
                x[at] = 1.5;
            }
            if row == 2 {
                x.fill(-7.0);
            }
        }
        let expected: Vec<u32> = x.chunks_exact(width).map(first_of_largest).collect();
        let (dx, out) = (upload(&gpu, &x), poisoned(&gpu, rows));
        ops::argmax(
            &mut r,
            view(&dx, rows * width),
            view(&out, rows),
            rows,
            width,
        )
        .expect("it runs");
        assert_eq!(words(&mut r, &out, rows), expected, "width {width}");
    }
}

#[test]
fn a_row_with_what_is_not_finite_has_no_largest() {
    let (gpu, mut r) = recorder();
    let mut x = random(7, 5 * 300);
    for (row, odd) in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY]
        .into_iter()
        .enumerate()
    {
        x[row * 300 + 77 * row] = odd;
    }
    // Zeros of both signs are equal.
    x[4 * 300..].fill(-0.0);
    x[4 * 300 + 9] = 0.0;
    let (dx, out) = (upload(&gpu, &x), poisoned(&gpu, 5));
    ops::argmax(&mut r, view(&dx, 5 * 300), view(&out, 5), 5, 300).expect("it runs");
    let none = ops::NOT_FINITE;
    assert_eq!(words(&mut r, &out, 5), [none, none, none, none, 0]);
}

fn first_of_largest(x: &[f32]) -> u32 {
    let first = (0, f32::NEG_INFINITY);
    let best = (0u32..).zip(x).fold(
        first,
        |best, (at, &value)| {
            if value > best.1 { (at, value) } else { best }
        },
    );
    best.0
}
