//! Attention over keys and values on the device.

use std::sync::Arc;

use moeflux::graph::StateDecl;
use moeflux::{KvType, RemoteState, RemoteStates};
use moeflux_gpu::ops::{self, SpanRows};
use moeflux_gpu::state::{DeviceKv, DeviceStates};
use moeflux_gpu::{CpuExperts, GpuError, Recorder, View};
use moeflux_kernels::{AttentionShape, AttentionSpan, KV_PAGE_TOKENS, KvPage, reference};

use crate::common::{close, poisoned, random, upload};
use crate::{floats, recorder, same, view};

/// The operation, or the one for prompts.
type Attention = fn(
    &mut Recorder,
    View<'_>,
    &DeviceKv,
    View<'_>,
    (AttentionShape, Option<View<'_>>),
    SpanRows,
) -> Result<(), GpuError>;

/// A session's history, and the last of its tokens as queries.
struct Case {
    shape: AttentionShape,
    sinks: Option<Vec<f32>>,
    kv_type: KvType,
    positions: usize,
    k: Vec<f32>,
    v: Vec<f32>,
    q: Vec<f32>,
}

impl Case {
    fn random((heads, kv_heads, head_dim): (usize, usize, usize), positions: usize) -> Case {
        let kv_len = positions * kv_heads * head_dim;
        // Scores of some size, so that the softmax is not flat.
        let q = random(3, positions * heads * head_dim);
        Case {
            shape: AttentionShape {
                heads,
                kv_heads,
                head_dim,
                scale: 0.3,
                window: None,
            },
            sinks: None,
            kv_type: KvType::F16,
            positions,
            k: random(1, kv_len).iter().map(|v| v * 4.0).collect(),
            v: random(2, kv_len),
            q: q.iter().map(|v| v * 2.0).collect(),
        }
    }

    fn kv_width(&self) -> usize {
        self.shape.kv_heads * self.shape.head_dim
    }

    fn q_width(&self) -> usize {
        self.shape.heads * self.shape.head_dim
    }

    fn pages(&self) -> Vec<KvPage> {
        let AttentionShape {
            kv_heads, head_dim, ..
        } = self.shape;
        let page = || KvPage::new(self.kv_type, kv_heads, head_dim);
        let mut pages: Vec<KvPage> = (0..self.positions.div_ceil(KV_PAGE_TOKENS))
            .map(|_| page())
            .collect();
        reference::kv_append(&mut pages, 0, &self.k, &self.v).expect("sizes agree");
        pages
    }

    /// Results of the queries from position `start` on.
    fn on_host(&self, start: usize) -> Vec<f32> {
        let q = &self.q[start * self.q_width()..];
        let mut out = vec![0.0; q.len()];
        let mut span = [AttentionSpan {
            q,
            start,
            dropped: 0,
            pages: &self.pages(),
            out: &mut out,
        }];
        reference::attention(&mut span, self.shape, self.sinks.as_deref()).expect("sizes agree");
        out
    }

    /// The same, taken in spans that end where `ends` say; keys and values come before each.
    fn on_device(&self, r: &mut Recorder, start: usize, ends: &[usize]) -> (Vec<f32>, Vec<f32>) {
        self.by(ops::attention, r, start, ends)
    }

    fn by(
        &self,
        attention: Attention,
        r: &mut Recorder,
        start: usize,
        ends: &[usize],
    ) -> (Vec<f32>, Vec<f32>) {
        let gpu = Arc::clone(r.gpu());
        r.forget_bindings();
        let states = DeviceStates(gpu.clone(), CpuExperts::Off);
        let AttentionShape {
            kv_heads, head_dim, ..
        } = self.shape;
        let mut state = states.make(&StateDecl::key_value(kv_heads, head_dim), self.kv_type);
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|x| (upload(&gpu, x), x.len()));
        let [q, k, v] = [&q, &k, &v].map(|(b, len)| view(b, *len));
        let len = self.positions * self.q_width();
        let out = poisoned(&gpu, len);
        let sinks = self.sinks.as_ref().map(|sinks| upload(&gpu, sinks));
        let sinks = sinks.as_ref().map(|sinks| view(sinks, self.shape.heads));
        let mut done = 0;
        for end in [&[start], ends].concat() {
            // Growing copies what was written, so that must have begun.
            r.submit();
            state.reserve(end).expect("there is memory");
            let kv = kv(&mut *state);
            let span = SpanRows {
                first_row: done,
                len: end - done,
                start: done,
            };
            ops::kv_append(r, k, v, kv, span).expect("it runs");
            if end > start {
                let shape = (self.shape, sinks);
                attention(r, q, kv, view(&out, len), shape, span).expect("it runs");
            }
            done = end;
        }
        let results = floats(r, &out, len).split_off(start * self.q_width());
        (
            results,
            state.values(self.positions).expect("they can be read"),
        )
    }
}

fn kv(state: &mut dyn RemoteState) -> &DeviceKv {
    state.as_any().downcast_ref().expect("keys and values")
}

const SHAPES: [(usize, usize, usize); 5] = [
    (16, 2, 256),
    (4, 4, 10),
    (6, 2, 64),
    (9, 3, 20),
    (1, 1, 512),
];

#[test]
fn results_are_those_of_the_reference() {
    // (first query, positions): decode at page and chunk borders, drafts, prompts.
    let (_, mut r) = recorder();
    let spans = [
        (0, 1),
        (63, 64),
        (64, 65),
        (128, 129),
        (300, 303),
        (0, 100),
        (77, 150),
    ];
    for shape in SHAPES {
        for (start, positions) in spans {
            for kv_type in [KvType::F16, KvType::F32] {
                let case = Case {
                    kv_type,
                    ..Case::random(shape, positions)
                };
                let (out, _) = case.on_device(&mut r, start, &[positions]);
                let what = format!("{shape:?} {kv_type} {start}..{positions}");
                close(&out, &case.on_host(start), 1e-5, &what);
            }
        }
    }
}

/// Keys and values are kept to the bit as the host keeps them, also when they are taken and given
/// back.
#[test]
fn keys_and_values_are_kept_as_on_the_host() {
    let (gpu, mut r) = recorder();
    for kv_type in [KvType::F16, KvType::F32] {
        let mut case = Case {
            kv_type,
            ..Case::random((4, 2, 10), 300)
        };
        // Subnormal, halfway and too large ones.
        let odd = [1e-7, 5.9e-8, 1.0005, 65519.0, 1e6, -1e30, 6.1e-5, -0.0];
        case.k[..8].copy_from_slice(&odd);
        let (_, kept) = case.on_device(&mut r, 100, &[300]);
        let (mut keys, mut values) = (vec![], vec![]);
        let (mut key, mut value) = ([0.0; 10], [0.0; 10]);
        for (at, page) in case.pages().iter().enumerate() {
            for place in 0..KV_PAGE_TOKENS.min(case.positions - at * KV_PAGE_TOKENS) {
                for head in 0..2 {
                    page.read(place, head, &mut key, &mut value)
                        .expect("it is there");
                    keys.extend(key);
                    values.extend(value);
                }
            }
        }
        keys.extend(values);
        same(&kept, &keys, "kept keys and values");
        let states = DeviceStates(gpu.clone(), CpuExperts::Off);
        let decl = StateDecl::key_value(2, 10);
        let mut restored = states.make(&decl, kv_type);
        restored.set(300, Some(&kept)).expect("there is memory");
        same(
            &restored.values(300).expect("they can be read"),
            &kept,
            "given back",
        );
        assert_eq!(case.kv_width() * 600, kept.len());
    }
}

/// Windows that end within chunks and blocks, and scores without values: near the reference, and the
/// same bits in spans of any lengths.
#[test]
fn windows_and_sinks_are_those_of_the_reference() {
    let (_, mut r) = recorder();
    for (shape, window) in [
        ((6, 2, 64), Some(1)),
        ((6, 2, 64), Some(7)),
        ((4, 4, 10), Some(64)),
        ((9, 3, 20), Some(130)),
        ((16, 2, 256), Some(1000)),
        ((6, 2, 64), None),
    ] {
        for has_sinks in [false, true] {
            let mut case = Case::random(shape, 420);
            case.shape.window = window;
            case.sinks = has_sinks.then(|| random(7, shape.0).iter().map(|v| v * 9.0).collect());
            let what = format!("{shape:?}, window {window:?}, sinks {has_sinks}");
            let (whole, _) = case.on_device(&mut r, 300, &[420]);
            close(&whole, &case.on_host(300), 1e-5, &what);
            let (cut, _) = case.on_device(&mut r, 300, &[301, 310, 385, 386, 420]);
            same(&cut, &whole, &what);
        }
    }
}

/// A query's result does not depend on the others of its span, nor on how many they are.
#[test]
fn spans_do_not_matter() {
    let (_, mut r) = recorder();
    for shape in SHAPES {
        for kv_type in [KvType::F16, KvType::F32] {
            let case = Case {
                kv_type,
                ..Case::random(shape, 300)
            };
            let (whole, _) = case.on_device(&mut r, 250, &[300]);
            for ends in [&[270, 271, 300][..], &[251, 253, 263, 300]] {
                let (cut, _) = case.on_device(&mut r, 250, ends);
                same(
                    &cut,
                    &whole,
                    &format!("{shape:?} {kv_type} in spans to {ends:?}"),
                );
            }
        }
    }
}

/// Prompts, which a matrix unit may compute, at borders of blocks and tiles; cut anywhere they give
/// the same bits.
#[test]
fn prompts_are_near_the_reference_however_they_are_cut() {
    let (gpu, mut r) = recorder();
    let tolerance = if gpu.matrix_unit().is_some() {
        5e-3
    } else {
        1e-5
    };
    for shape in [(16, 2, 256), (6, 2, 128), (7, 7, 128), (4, 4, 10)] {
        for (start, positions) in [(0, 1), (0, 100), (63, 65), (77, 150), (120, 300)] {
            let case = Case::random(shape, positions);
            let what = format!("{shape:?}, {start}..{positions}");
            let (whole, _) = case.by(ops::attention_prompt, &mut r, start, &[positions]);
            close(&whole, &case.on_host(start), tolerance, &what);
            let cut = [start + 1, (start + positions).div_ceil(2), positions];
            let ends = if positions - start > 2 {
                &cut[..]
            } else {
                &cut[2..]
            };
            let (cut, _) = case.by(ops::attention_prompt, &mut r, start, ends);
            same(&cut, &whole, &format!("{what} in spans to {ends:?}"));
        }
    }
}
