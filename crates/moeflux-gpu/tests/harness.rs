//! The harness's cases on the device: every buffer of every operation against the reference, whole
//! models among them, and the same bits in other steps and beside strangers.

#![allow(clippy::panic, clippy::print_stdout)]

mod common;

use std::path::Path;

use moeflux::Activations;
use moeflux::backend::Backend;
use moeflux::config::Config;
use moeflux::formats::{AffineCodec, Codec};
use moeflux::models::{MatrixClass, blueprint};
use moeflux_gpu::{GpuBackend, GpuOptions};
use moeflux_harness::backends::reference;
use moeflux_harness::cases::{model, one_op, seed};
use moeflux_harness::compare::{close, identical, identical_timelines};
use moeflux_harness::{Case, Trace, run::run};

/// Relative L2 error of an operation against the reference.
const TOLERANCE: f64 = 1e-4;

fn device() -> Box<dyn Backend> {
    Box::new(GpuBackend::new(common::gpu(), GpuOptions::default()))
}

fn agreed<T, E: std::fmt::Debug>(case: &Case, result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{}: {error:?}", case.name),
    }
}

fn near_reference(case: &Case, tolerance: f64) -> Trace {
    let found = agreed(case, run(case, device()));
    let expected = agreed(case, run(case, reference(Activations::F32)));
    let error = agreed(case, close(&found, &expected, tolerance));
    println!("{}: error {error:.2e}, allowed {tolerance:.0e}", case.name);
    found
}

/// The same bits in other steps, and beside strangers.
fn same_in_any_company(case: &Case, expected: &Trace) {
    for lengths in [&[1][..], &[2, 3, 1]] {
        let cut = agreed(case, case.in_steps(lengths));
        agreed(
            &cut,
            identical(&agreed(&cut, run(&cut, device())), expected),
        );
    }
    let wide = agreed(case, case.beside_strangers());
    let found = agreed(&wide, run(&wide, device()));
    for (number, expected) in expected.sessions.iter().enumerate() {
        let own = &found.sessions[3 * number + 1];
        agreed(&wide, identical_timelines(own, expected));
    }
}

#[test]
fn random_operations_are_near_the_reference() {
    for case in one_op::cases(3).expect("cases can be made") {
        // Some allow more: an entry may be rounded to binary16 the other way.
        let found = near_reference(&case, TOLERANCE.max(case.tolerance.f32));
        same_in_any_company(&case, &found);
    }
}

#[test]
fn cases_of_the_seed_are_near_the_reference() {
    for name in seed::NAMES {
        let seed_case = seed::case(name).expect("the case is listed");
        // A large case is sampled, as it is for the reference.
        let case = seed_case
            .sample
            .map_or(seed_case.case, |sample| sample.case);
        near_reference(&case, TOLERANCE);
    }
}

fn whole_model(name: &str, experts: Codec, codec: &dyn Fn(MatrixClass) -> Codec) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let config = Config::open(&fixtures.join(name)).expect("the fixture has a configuration");
    let blueprint = blueprint(&config).expect("it is supported");
    let case = model::random(&blueprint, codec, experts, (20, 3), 5).expect("can be coded");
    let found = near_reference(&case, 1e-3);
    same_in_any_company(&case, &found);
}

/// One of each architecture, and of each variant of one.
const ARCHITECTURES: [&str; 17] = [
    "deepseek_v2",
    "deepseek_v2_lite",
    "deepseek_v3",
    "deepseek_v4",
    "glm4_moe",
    "glm4_moe_air",
    "glm5_next",
    "gpt_oss",
    "kimi_linear",
    "minimax_m2",
    "mixtral",
    "olmoe",
    "qwen2_moe",
    "qwen3_5_moe",
    "qwen3_next",
    "qwen4_exp",
    "qwen4_exp_text",
];

#[test]
fn every_architecture_is_near_the_reference() {
    for name in ARCHITECTURES {
        whole_model(name, Codec::Bf16, &|_| Codec::Bf16);
    }
}

#[test]
fn whole_models_are_near_the_reference() {
    let affine = |bits, group| Codec::Affine(AffineCodec { bits, group });
    for name in ["qwen3_5_moe_text", "qwen3_moe"] {
        whole_model(name, Codec::Bf16, &|_| Codec::Bf16);
        whole_model(name, affine(4, 32), &|class| match class {
            MatrixClass::Embedding => affine(8, 32),
            MatrixClass::Head => affine(6, 32),
            MatrixClass::Dense => affine(4, 32),
            MatrixClass::Sensitive => Codec::F32,
        });
    }
}
