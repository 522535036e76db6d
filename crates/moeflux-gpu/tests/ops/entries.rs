//! Choosing among many entries: several rounds of counting, and equals.

use std::sync::Arc;

use moeflux::graph::StateDecl;
use moeflux::{KvType, RemoteStates};
use moeflux_gpu::ops::{self, SpanRows};
use moeflux_gpu::state::{DeviceKv, DeviceStates};
use moeflux_gpu::{CpuExperts, GpuError, Recorder};
use moeflux_kernels::{IndexShape, IndexSpan, KV_PAGE_TOKENS, KvPage, reference};

use crate::common::{poisoned, random, upload};
use crate::{recorder, view, words};

/// Entries `keys` `[entries, dim]` of a session, and the last `n` positions as queries.
struct Case {
    shape: IndexShape,
    keys: Vec<f32>,
    q: Vec<f32>,
    weights: Vec<f32>,
    n: usize,
}

impl Case {
    fn entries(&self) -> usize {
        self.keys.len() / self.shape.dim
    }

    /// Position of the first query: the last one completes the last entry.
    fn start(&self) -> usize {
        self.entries() * self.shape.rate - self.n
    }

    fn on_host(&self) -> Vec<u32> {
        let pages = self.entries().div_ceil(KV_PAGE_TOKENS);
        let page = || KvPage::joint(KvType::F16, 1, self.shape.dim);
        let mut pages: Vec<KvPage> = (0..pages).map(|_| page()).collect();
        reference::kv_append(&mut pages, 0, &self.keys, &self.keys).expect("sizes agree");
        let mut out = vec![0; self.n * self.shape.top_k];
        let mut span = [IndexSpan {
            q: &self.q,
            weights: &self.weights,
            start: self.start(),
            pages: &pages,
            out: &mut out,
        }];
        reference::choose_entries(&mut span, self.shape).expect("sizes agree");
        out
    }

    fn on_device(&self, r: &mut Recorder) -> Vec<u32> {
        let gpu = Arc::clone(r.gpu());
        r.forget_bindings();
        let states = DeviceStates(Arc::clone(&gpu), CpuExperts::Off);
        let IndexShape { dim, rate, .. } = self.shape;
        let mut state = states.make(&StateDecl::entries(dim, rate), KvType::F16);
        state
            .reserve(self.start() + self.n)
            .expect("there is memory");
        let kv: &DeviceKv = state.as_any().downcast_ref().expect("keys");
        let [keys, q, weights] = [&self.keys, &self.q, &self.weights].map(|x| upload(&gpu, x));
        let all = SpanRows {
            first_row: 0,
            len: self.entries(),
            start: 0,
        };
        let keys = view(&keys, self.keys.len());
        ops::kv_append(r, keys, keys, kv, all).expect("it runs");
        let len = self.n * self.shape.top_k;
        let out = poisoned(&gpu, len);
        let views = (
            view(&q, self.q.len()),
            Some(view(&weights, self.weights.len())),
            view(&out, len),
        );
        let span = SpanRows {
            first_row: 0,
            len: self.n,
            start: self.start(),
        };
        ops::choose_entries(r, views, kv, self.shape, span).expect("it runs");
        words(r, &out, len)
    }
}

#[test]
fn entries_of_the_best_scores_and_the_first_of_equals() {
    let (_, mut r) = recorder();
    for (entries, top_k, rate) in [(700, 300, 2), (1025, 1, 1), (257, 256, 3), (40, 64, 4)] {
        let shape = IndexShape {
            heads: 3,
            dim: 10,
            rate,
            top_k,
        };
        let n = 5;
        for steps in [1e4, 2.0, 0.0] {
            // Few different values: most scores have equals.
            let coarse = |seed, len| -> Vec<f32> {
                let values = random(seed, len);
                values.iter().map(|v| (v * steps).round() / 4.0).collect()
            };
            let case = Case {
                shape,
                keys: coarse(1, entries * shape.dim),
                q: coarse(2, n * shape.heads * shape.dim),
                weights: coarse(3, n * shape.heads),
                n,
            };
            let what = format!("{shape:?}, {entries} entries, values in steps of {steps}");
            assert_eq!(case.on_device(&mut r), case.on_host(), "{what}");
        }
    }
}

#[test]
fn entries_of_another_shape_are_refused() {
    let (gpu, mut r) = recorder();
    let states = DeviceStates(Arc::clone(&gpu), CpuExperts::Off);
    let mut state = states.make(&StateDecl::entries(8, 4), KvType::F16);
    state.reserve(4).expect("there is memory");
    let kv: &DeviceKv = state.as_any().downcast_ref().expect("keys");
    let x = poisoned(&gpu, 64);
    let shape = IndexShape {
        heads: 1,
        dim: 16,
        rate: 4,
        top_k: 2,
    };
    let span = SpanRows {
        first_row: 0,
        len: 1,
        start: 3,
    };
    let views = (view(&x, 64), None, view(&x, 64));
    let refused = ops::choose_entries(&mut r, views, kv, shape, span);
    assert!(
        matches!(refused, Err(GpuError::Unsupported { .. })),
        "{refused:?}"
    );
}
