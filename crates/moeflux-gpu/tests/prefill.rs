//! The harness's cases run as prompts: near the reference, and the same bits however a prompt is
//! cut into steps and whatever runs beside it.

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
use moeflux_harness::cases::{model, one_op};
use moeflux_harness::compare::{close, identical, identical_timelines};
use moeflux_harness::{Case, Trace, run::run};

fn device() -> Box<dyn Backend> {
    Box::new(GpuBackend::new(common::gpu(), GpuOptions::default()))
}

/// Relative L2 error against the reference: of an operation, and of a whole model with random
/// weights, whose layers amplify.
fn tolerances() -> (f64, f64) {
    match common::gpu().matrix_unit() {
        Some(_) => (5e-3, 5e-2),
        None => (1e-4, 1e-3),
    }
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
fn products_and_experts_are_near_the_reference() {
    let cases = one_op::cases(5).expect("cases can be made");
    let named =
        |case: &Case, names: &[&str]| case.graph.ops.iter().any(|op| names.contains(&op.name()));
    let mut seen = 0;
    for mut case in cases {
        if !named(&case, &["matmul", "experts", "biased_experts"]) {
            continue;
        }
        case.is_prompt = true;
        let found = near_reference(&case, tolerances().0);
        same_in_any_company(&case, &found);
        seen += 1;
    }
    assert!(seen >= 2, "{seen} cases");
}

/// A configuration whose tokens use all experts where products are rounded: which are the best few
/// with random weights would depend on that.
fn all_experts(config: &str) -> String {
    if common::gpu().matrix_unit().is_none() {
        return config.to_owned();
    }
    let (few, all) = (r#""num_experts_per_tok": 3"#, r#""num_experts_per_tok": 8"#);
    assert!(config.contains(few), "three of eight experts");
    config.replace(few, all)
}

#[test]
fn whole_models_are_near_the_reference() {
    let affine = |bits, group| Codec::Affine(AffineCodec { bits, group });
    let codec = |class| match class {
        MatrixClass::Embedding => affine(8, 32),
        MatrixClass::Head => affine(6, 32),
        MatrixClass::Dense => affine(4, 32),
        MatrixClass::Sensitive => Codec::F32,
    };
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    for name in ["qwen3_5_moe_text", "qwen3_moe"] {
        let path = fixtures.join(name).join("config.json");
        let text = std::fs::read_to_string(&path).expect("the fixture has a configuration");
        let config = Config::parse(&path, &all_experts(&text)).expect("it is one");
        let blueprint = blueprint(&config).expect("it is supported");
        let case = model::random(&blueprint, &codec, affine(4, 32), (20, 3), 5);
        let mut case = case.expect("can be coded");
        case.is_prompt = true;
        let found = near_reference(&case, tolerances().1);
        same_in_any_company(&case, &found);
    }
}
