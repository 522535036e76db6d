//! Experts that the processor computes beside the device: the same bits wherever an expert is
//! computed, and what cannot be computed on both is refused or left alone.

#![allow(clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use moeflux::backend::TierStats;
use moeflux::{Engine, EngineOptions, Session, Span, Want};
use moeflux_gpu::{CpuExperts, GpuBackend, GpuOptions};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn open(model: &str, expert_bytes: Option<u64>, cpu_experts: CpuExperts) -> Engine {
    let gpu = common::gpu();
    let limits = GpuOptions {
        expert_bytes,
        cpu_experts,
    };
    let make = move || Ok(Box::new(GpuBackend::new(Arc::clone(&gpu), limits)) as Box<_>);
    let options = EngineOptions {
        memory_bytes: Some(1 << 30),
        threads: Some(2),
        measure_disk: false,
        lock_weights: false,
        backend: Some(Arc::new(make)),
        ..EngineOptions::default()
    };
    Engine::open(&root().join(model), &options).expect("the model opens")
}

fn step(
    engine: &Engine,
    session: &mut Session,
    tokens: &[u32],
) -> Result<Vec<f32>, moeflux::Error> {
    let mut span = [Span {
        session,
        tokens,
        want: Want::All,
        is_prompt: false,
    }];
    Ok(engine.forward(&mut span)?.remove(0).values)
}

fn one_by_one(engine: &Engine, tokens: &[u32]) -> Vec<f32> {
    let mut session = engine.session();
    let steps = tokens.iter();
    steps
        .flat_map(|token| step(engine, &mut session, &[*token]).expect("it runs"))
        .collect()
}

fn tokens(engine: &Engine, count: usize) -> Vec<u32> {
    let vocab = engine.info().vocab_size as u32;
    (0..count as u32).map(|i| (31 + i * 7919) % vocab).collect()
}

#[test]
fn bits_do_not_depend_on_where_experts_are_computed() {
    let whole = open("models/demo", None, CpuExperts::On);
    let text = tokens(&whole, 40);
    let expected = one_by_one(&whole, &text);
    let found = step(&whole, &mut whole.session(), &text);
    assert!(found.expect("it runs") == expected, "all at once");
    whole.warm(&mut |_, _| ()).expect("all can be read");
    assert!(one_by_one(&whole, &text) == expected, "all on the device");
    for bytes in [1 << 20, 2 << 20, 3 << 20] {
        let split = open("models/demo", Some(bytes), CpuExperts::On);
        let before = split.stats().tier.expect("there is a device");
        assert!(one_by_one(&split, &text) == expected, "{bytes} bytes");
        let found = step(&split, &mut split.session(), &text);
        assert!(found.expect("it runs") == expected, "{bytes}, at once");
        let tier = split
            .stats()
            .tier
            .expect("there is a device")
            .since(&before);
        assert!(tier.beside > 0 && tier.brought > 0, "{tier:?}");
    }
    // This device passes its own test, so it is on by itself too, and off it is near.
    let auto = open("models/demo", Some(1 << 20), CpuExperts::Auto);
    assert!(one_by_one(&auto, &text) == expected, "by itself");
    let off = open("models/demo", Some(1 << 20), CpuExperts::Off);
    let before = off.stats().tier;
    let other = one_by_one(&off, &text);
    common::close(&expected, &other, 0.2, "from activations in f32");
    let beside = |tier: Option<TierStats>| tier.expect("there is a device").beside;
    assert_eq!(beside(off.stats().tier), beside(before));
}

#[test]
fn a_prompt_is_the_same_with_and_without() {
    let with = open("models/demo", Some(1 << 20), CpuExperts::On);
    let without = open("models/demo", None, CpuExperts::Off);
    let text = tokens(&with, 30);
    let [a, b] = [&with, &without].map(|engine| {
        let logits = engine.prefill(&mut engine.session(), &text, Want::All);
        logits.expect("it runs").values
    });
    assert!(a == b);
}

#[test]
fn experts_of_floats_are_refused_by_name_or_left_alone() {
    let name = "fixtures/qwen3_moe";
    let on = open(name, None, CpuExperts::On);
    let refused = step(&on, &mut on.session(), &[1, 2]);
    let refused = refused.err().map(|error| error.to_string());
    let refused = refused.unwrap_or_else(|| panic!("floats have no such kernel"));
    assert!(
        refused.contains("--cpu-experts") && refused.contains("layer 0"),
        "{refused}"
    );
    let auto = open(name, None, CpuExperts::Auto);
    let off = open(name, None, CpuExperts::Off);
    let text = tokens(&off, 9);
    assert!(one_by_one(&auto, &text) == one_by_one(&off, &text));
}
