//! The router's choice and the sum of its experts.

use std::sync::Arc;

use moeflux_gpu::ops::{self, CombineViews, RouterShape};
use moeflux_gpu::{GpuError, Recorder, View};
use moeflux_kernels::reference;

use crate::common::{close, poisoned, random, upload};
use crate::{floats, recorder, upload_words, view, words};

type Kernel =
    fn(&mut Recorder, (View<'_>, View<'_>, View<'_>), RouterShape, usize) -> Result<(), GpuError>;

/// That of prompts and single operations, and that of few tokens.
const KERNELS: [Kernel; 2] = [ops::router, ops::decode::choice];

fn check_router(r: &mut Recorder, logits: &[f32], shape: RouterShape, what: &str) {
    for kernel in KERNELS {
        check_kernel(r, kernel, logits, shape, what);
    }
}

fn check_kernel(r: &mut Recorder, kernel: Kernel, logits: &[f32], shape: RouterShape, what: &str) {
    let gpu = Arc::clone(r.gpu());
    let RouterShape {
        experts,
        top_k,
        renormalize,
    } = shape;
    let n = logits.len() / experts;
    let len = n * top_k;
    let (dlogits, ids, weights) = (
        upload(&gpu, logits),
        poisoned(&gpu, len),
        poisoned(&gpu, len),
    );
    let views = (
        view(&dlogits, logits.len()),
        view(&ids, len),
        view(&weights, len),
    );
    kernel(r, views, shape, n).expect("it runs");
    let (mut e_ids, mut e_weights) = (vec![0; len], vec![0.0; len]);
    reference::route(
        logits,
        experts,
        top_k,
        renormalize,
        &mut e_ids,
        &mut e_weights,
    )
    .expect("sizes agree");
    assert_eq!(words(r, &ids, len), e_ids, "{what}: experts");
    let weights = floats(r, &weights, len);
    if e_weights.iter().any(|w| w.is_nan()) {
        let is_nan = |v: &[f32]| v.iter().map(|v| v.is_nan()).collect::<Vec<_>>();
        assert_eq!(
            is_nan(&weights),
            is_nan(&e_weights),
            "{what}: which are NaN"
        );
    } else {
        close(&weights, &e_weights, 1e-6, what);
    }
}

#[test]
fn experts_of_random_logits() {
    let (_, mut r) = recorder();
    for (experts, top_k) in [(256, 8), (512, 10), (5, 5), (1, 1), (100, 3)] {
        for renormalize in [false, true] {
            let logits: Vec<f32> = random(7, 9 * experts).iter().map(|v| v * 8.0).collect();
            let shape = RouterShape {
                experts,
                top_k,
                renormalize,
            };
            check_router(&mut r, &logits, shape, "random logits");
        }
    }
}

#[test]
fn the_lowest_ids_of_equal_ones() {
    let (_, mut r) = recorder();
    let shape = RouterShape {
        experts: 64,
        top_k: 8,
        renormalize: true,
    };
    check_router(&mut r, &[0.25; 128], shape, "all equal");
    // Few different values: most choices are among equals.
    let logits: Vec<f32> = random(8, 640).iter().map(|v| (v * 3.0).round()).collect();
    check_router(&mut r, &logits, shape, "many equal");
    // All but one vanish in the softmax.
    let mut logits = vec![-200.0; 64];
    logits[40] = 100.0;
    check_router(&mut r, &logits, shape, "one takes all");
}

#[test]
fn the_lowest_ids_where_nothing_compares() {
    let (_, mut r) = recorder();
    let shape = RouterShape {
        experts: 64,
        top_k: 8,
        renormalize: false,
    };
    for odd in [f32::NAN, f32::INFINITY] {
        let mut logits = random(9, 64);
        logits[17] = odd;
        check_router(&mut r, &logits, shape, "not a number");
    }
    check_router(&mut r, &[f32::NEG_INFINITY; 64], shape, "all impossible");
}

#[test]
fn experts_are_added_in_ascending_order() {
    let (gpu, mut r) = recorder();
    for (tokens, top_k, width) in [(1, 8, 2048), (7, 3, 130), (5, 1, 3)] {
        let slots = tokens * top_k;
        let (rows, weights) = (random(10, slots * width), random(11, slots));
        // Different experts of a token, in no order.
        let ids: Vec<u32> = (0..slots).map(|s| (s * 7 % 31) as u32).collect();
        // Results lie in another order: slot s in row places[s].
        let places: Vec<u32> = (0..slots).map(|s| (slots - 1 - s) as u32).collect();
        let (mut offsets, mut by_slot, mut by_place) = (vec![0], vec![], vec![]);
        for t in 0..tokens {
            let mut order: Vec<usize> = (t * top_k..(t + 1) * top_k).collect();
            order.sort_by_key(|&s| ids[s]);
            by_slot.extend(order.iter().map(|&s| (s as u32, weights[s])));
            by_place.extend(order.iter().map(|&s| (places[s], weights[s])));
            offsets.push(by_slot.len() as u32);
        }
        let [drows, dweights] = [&rows, &weights].map(|v| upload(&gpu, v));
        let [dids, dplaces] = [&ids, &places].map(|v| upload_words(&gpu, v));
        for (entries, has_places) in [(&by_slot, false), (&by_place, true)] {
            let out = poisoned(&gpu, tokens * width);
            let views = CombineViews {
                rows: view(&drows, slots * width),
                places: has_places.then(|| view(&dplaces, slots)),
                ids: view(&dids, slots),
                weights: view(&dweights, slots),
                out: view(&out, tokens * width),
            };
            ops::combine(&mut r, &views, width, top_k, tokens).expect("it runs");
            let mut expected = vec![0.0; tokens * width];
            reference::combine(&rows, &offsets, entries, width, &mut expected)
                .expect("sizes agree");
            let found = floats(&mut r, &out, tokens * width);
            close(&found, &expected, 1e-6, "combine");
        }
    }
}
