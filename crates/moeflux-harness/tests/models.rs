//! Whole models with random weights: every architecture's graph, every buffer.

#![allow(clippy::panic, clippy::print_stdout)]

mod common;

use std::path::Path;

use moeflux::config::Config;
use moeflux::formats::{AffineCodec, Codec};
use moeflux::models::{MatrixClass, blueprint};
use moeflux_harness::Tolerance;
use moeflux_harness::cases::model::random;

const ARCHITECTURES: [&str; 2] = ["qwen3_5_moe_text", "qwen3_moe"];

fn check(experts: Codec, codec: &dyn Fn(MatrixClass) -> Codec, tolerance: Tolerance) {
    for (seed, name) in (5..).zip(ARCHITECTURES) {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
        let config = Config::open(&fixtures.join(name)).expect("the fixture has a configuration");
        let blueprint = blueprint(&config).expect("it is supported");
        let mut case = random(&blueprint, codec, experts, (70, 3), seed).expect("can be coded");
        case.tolerance = tolerance;
        common::check(&case);
    }
}

#[test]
fn models_in_bf16_agree_everywhere() {
    let tolerance = Tolerance {
        f32: 1e-3,
        int8: 1e-3,
    };
    check(Codec::Bf16, &|_| Codec::Bf16, tolerance);
}

/// Random layers amplify what rounding the activations does, so with 8 bits only bits count.
#[test]
fn models_in_integers_agree_everywhere() {
    let affine = |bits, group| Codec::Affine(AffineCodec { bits, group });
    let codec = |class| match class {
        MatrixClass::Embedding => affine(8, 32),
        MatrixClass::Head => affine(6, 32),
        MatrixClass::Dense => affine(4, 32),
        MatrixClass::Sensitive => Codec::F32,
    };
    let tolerance = Tolerance {
        // Keys in binary16 may be rounded the other way, and a norm of little amplifies that.
        f32: 4e-3,
        int8: f64::INFINITY,
    };
    check(affine(4, 32), &codec, tolerance);
}
