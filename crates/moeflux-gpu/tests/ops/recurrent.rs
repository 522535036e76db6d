//! Convolution and gated delta rule: results and states, in one span and in several.

use std::sync::Arc;

use moeflux_gpu::Recorder;
use moeflux_gpu::ops::{self, DeltaViews};
use moeflux_kernels::{ConvSpan, Decay, DeltaShape, DeltaSpan, HeadOrder, reference};

use crate::common::{close, poisoned, random, upload};
use crate::{floats, recorder, same, spans, view};

/// Results and the state after some tokens cut into spans of these lengths.
fn conv(
    r: &mut Recorder,
    (x, weight, state): (&[f32], &[f32], &[f32]),
    channels: usize,
    lens: &[usize],
) -> [Vec<f32>; 2] {
    let gpu = Arc::clone(r.gpu());
    r.forget_bindings();
    let [dx, dweight, mut current] = [x, weight, state].map(|v| upload(&gpu, v));
    let (out, mut next) = (poisoned(&gpu, x.len()), poisoned(&gpu, state.len()));
    let taps = weight.len() / channels;
    for span in spans(0, lens) {
        let views = (
            view(&dx, x.len()),
            view(&dweight, weight.len()),
            view(&out, x.len()),
        );
        ops::conv1d_silu(r, views, (&current, &next), channels, taps, span).expect("it runs");
        std::mem::swap(&mut current, &mut next);
    }
    [floats(r, &out, x.len()), floats(r, &current, state.len())]
}

#[test]
fn convolution() {
    let (_, mut r) = recorder();
    for (channels, taps, tokens) in [(8192, 4, 5), (7, 4, 40), (5, 2, 3), (6, 1, 3)] {
        let (x, weight) = (random(1, tokens * channels), random(2, taps * channels));
        let state = random(3, (taps - 1) * channels);
        let (mut out, mut next_state) = (vec![0.0; x.len()], vec![0.0; state.len()]);
        let mut span = [ConvSpan {
            x: &x,
            state: &state,
            next_state: &mut next_state,
            out: &mut out,
        }];
        reference::conv1d_silu(&mut span, &weight, channels).expect("sizes agree");
        let whole = conv(&mut r, (&x, &weight, &state), channels, &[tokens]);
        close(&whole[0], &out, 1e-6, "conv1d_silu");
        same(&whole[1], &next_state, "the state after conv1d_silu");
        let cut = conv(&mut r, (&x, &weight, &state), channels, &[1, tokens - 1]);
        same(&cut[0], &whole[0], "conv1d_silu in two spans");
        same(&cut[1], &whole[1], "its state");
    }
}

struct Delta {
    shape: DeltaShape,
    tokens: usize,
    qkv: Vec<f32>,
    a: Vec<f32>,
    b: Vec<f32>,
    a_log: Vec<f32>,
    dt_bias: Vec<f32>,
    state: Vec<f32>,
}

impl Delta {
    fn random(shape: DeltaShape, tokens: usize) -> Delta {
        let DeltaShape {
            key_heads,
            value_heads,
            key_dim,
            value_dim,
            ..
        } = shape;
        let width = 2 * key_heads * key_dim + value_heads * value_dim;
        Delta {
            shape,
            tokens,
            qkv: random(1, tokens * width),
            a: random(2, tokens * value_heads),
            b: random(3, tokens * value_heads),
            a_log: random(4, value_heads),
            dt_bias: random(5, value_heads),
            state: random(6, value_heads * key_dim * value_dim),
        }
    }

    fn out_len(&self) -> usize {
        self.tokens * self.shape.value_heads * self.shape.value_dim
    }

    fn on_device(&self, r: &mut Recorder, lens: &[usize], lanes: bool) -> [Vec<f32>; 2] {
        let gpu = Arc::clone(r.gpu());
        r.forget_bindings();
        let inputs = [&self.qkv, &self.a, &self.b, &self.a_log, &self.dt_bias];
        let inputs = inputs.map(|v| (upload(&gpu, v), v.len()));
        let [qkv, a, b, a_log, dt_bias] = inputs.each_ref().map(|(b, len)| view(b, *len));
        let (out, mut current) = (poisoned(&gpu, self.out_len()), upload(&gpu, &self.state));
        let mut next = poisoned(&gpu, self.state.len());
        for span in spans(0, lens) {
            let out = view(&out, self.out_len());
            let views = DeltaViews {
                qkv,
                a,
                b,
                a_log,
                dt_bias,
                out,
            };
            let states = (&current, &next);
            if lanes {
                ops::gated_delta(r, &views, states, self.shape, span).expect("it runs");
            } else {
                let ran = ops::gated_delta_by(r, &views, states, self.shape, span, false);
                ran.expect("it runs");
            }
            std::mem::swap(&mut current, &mut next);
        }
        let out = floats(r, &out, self.out_len());
        [out, floats(r, &current, self.state.len())]
    }

    fn on_host(&self) -> [Vec<f32>; 2] {
        let mut out = vec![0.0; self.out_len()];
        let mut next_state = vec![0.0; self.state.len()];
        let mut span = [DeltaSpan {
            qkv: &self.qkv,
            a: &self.a,
            b: &self.b,
            state: &self.state,
            next_state: &mut next_state,
            out: &mut out,
        }];
        reference::gated_delta(&mut span, self.shape, &self.a_log, &self.dt_bias)
            .expect("sizes agree");
        [out, next_state]
    }
}

#[test]
fn delta_rule() {
    let (_, mut r) = recorder();
    let shapes = [
        (2, 4, 128, 128),
        (1, 1, 6, 10),
        (3, 6, 64, 40),
        (2, 2, 17, 33),
    ];
    for (key_heads, value_heads, key_dim, value_dim) in shapes {
        for head_order in [HeadOrder::Grouped, HeadOrder::Tiled] {
            let shape = DeltaShape {
                key_heads,
                value_heads,
                key_dim,
                value_dim,
                head_order,
                decay: Decay::Head,
            };
            for tokens in [1, 2, 8, 21] {
                let case = Delta::random(shape, tokens);
                let [out, state] = case.on_host();
                let whole = case.on_device(&mut r, &[tokens], true);
                close(&whole[0], &out, 1e-5, "gated_delta");
                close(&whole[1], &state, 1e-5, "the state after gated_delta");
                let plain = case.on_device(&mut r, &[tokens], false);
                same(&plain[0], &whole[0], "gated_delta without subgroups");
                same(&plain[1], &whole[1], "its state without subgroups");
                let cut = case.on_device(&mut r, &[tokens / 3, tokens - tokens / 3], true);
                same(
                    &cut[1],
                    &whole[1],
                    "the state after gated_delta in two spans",
                );
                same(&cut[0], &whole[0], "gated_delta in two spans");
            }
        }
    }
}
