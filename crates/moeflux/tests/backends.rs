//! The op harness on whole models: the reference and the optimized kernels agree on every buffer
//! of every operation, bit for bit.

mod common;

use std::path::Path;

use common::{FIXTURES, bits, fixture, open, options, packed, prompt};
use moeflux::{EngineOptions, Isa, Span, Want};

/// Every buffer that every operation writes, with the operation's name.
fn trace(dir: &Path, options: &EngineOptions, tokens: &[u32]) -> Vec<(String, Vec<u32>)> {
    let engine = open(dir, options);
    let mut session = engine.session();
    let mut seen = Vec::new();
    let mut spans = [Span {
        session: &mut session,
        tokens,
        want: Want::All,
        is_prompt: true,
    }];
    engine
        .forward_observed(&mut spans, &mut |op, buffers| {
            for buffer in op.writes() {
                seen.push((op.name().to_owned(), bits(buffers.get(buffer))));
            }
        })
        .expect("the step runs");
    seen
}

fn compare(dir: &Path, tokens: &[u32], what: &str) {
    let reference = EngineOptions {
        reference: true,
        ..options()
    };
    let expected = trace(dir, &reference, tokens);
    assert!(
        expected.iter().any(|(op, _)| op.ends_with("experts")),
        "{what}"
    );
    for isa in Isa::available() {
        let options = EngineOptions {
            isa: Some(isa),
            threads: Some(2),
            ..options()
        };
        let found = trace(dir, &options, tokens);
        assert_eq!(expected.len(), found.len(), "{what}");
        for (index, (a, b)) in expected.iter().zip(&found).enumerate() {
            assert!(
                a == b,
                "{what} on {isa}: operation {index}, {} differs",
                a.0
            );
        }
    }
}

#[test]
fn every_buffer_of_every_fixture_equals_the_reference() {
    for name in FIXTURES {
        compare(&fixture(name), &prompt(name)[..67], name);
    }
}

#[test]
fn every_buffer_of_packed_models_equals_the_reference() {
    for bits in [2, 3, 4, 6] {
        let model = packed("qwen3_5_moe_text", bits);
        compare(
            &model.path(),
            &prompt("qwen3_5_moe_text")[..33],
            &format!("{bits} bits"),
        );
    }
}
