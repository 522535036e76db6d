//! What a device cannot do: too little memory, a device that goes away, one that is not there.

#![allow(clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use moeflux::{Activations, Engine, EngineOptions, Session, Want};
use moeflux_gpu::{DeviceChoice, Gpu, GpuBackend, GpuError, GpuOptions};

const PROMPT: [u32; 9] = [5, 17, 300, 42, 42, 7, 99, 1, 260];

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo")
}

fn options() -> EngineOptions {
    EngineOptions {
        memory_bytes: Some(1 << 30),
        threads: Some(2),
        measure_disk: false,
        lock_weights: false,
        activations: Activations::F32,
        ..EngineOptions::default()
    }
}

/// An engine on a device of its own, which a test may spoil.
fn on_device(expert_bytes: Option<u64>) -> (Arc<Gpu>, Engine) {
    let gpu = Gpu::open(DeviceChoice::Any).expect("a device; lavapipe serves");
    let own = Arc::clone(&gpu);
    let make = move || {
        let backend = GpuBackend::new(
            Arc::clone(&own),
            GpuOptions {
                expert_bytes,
                ..GpuOptions::default()
            },
        );
        Ok(Box::new(backend) as Box<_>)
    };
    let options = EngineOptions {
        backend: Some(Arc::new(make)),
        ..options()
    };
    (
        gpu,
        Engine::open(&demo(), &options).expect("the demo opens"),
    )
}

fn prefill(engine: &Engine, session: &mut Session) -> Result<Vec<f32>, moeflux::Error> {
    Ok(engine.prefill(session, &PROMPT, Want::Last)?.values)
}

fn next(engine: &Engine, session: &mut Session, token: u32) -> Result<Vec<f32>, moeflux::Error> {
    let logits = engine.decode(session, token)?;
    Ok(logits.last().to_vec())
}

fn refusal<T>(result: Result<T, moeflux::Error>) -> String {
    match result {
        Ok(_) => panic!("it should have failed"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_device_without_memory_says_what_would_do() {
    let (gpu, engine) = on_device(None);
    gpu.limit_memory(gpu.bytes_in_use() + (1 << 20));
    let words = refusal(prefill(&engine, &mut engine.session()));
    for word in ["memory left for", "in use", "--device cpu"] {
        assert!(words.contains(word), "{words}");
    }
    // What holds experts could be given back.
    gpu.limit_memory(u64::MAX);
    let mut session = engine.session();
    prefill(&engine, &mut session).expect("there is memory again");
    next(&engine, &mut session, 2).expect("there is memory again");
    gpu.limit_memory(gpu.bytes_in_use());
    let mut long = engine.session();
    let words = refusal(prefill(&engine, &mut long));
    assert!(
        words.contains("--gpu-memory") && words.contains("--context"),
        "{words}"
    );
    // Who has memory goes on.
    next(&engine, &mut session, 3).expect("it needs no more");
}

#[test]
fn too_small_a_budget_names_the_least() {
    let (_, engine) = on_device(Some(1000));
    let words = refusal(prefill(&engine, &mut engine.session()));
    assert!(words.contains("--gpu-memory"), "{words}");
    let numbers = words.split(|c: char| !c.is_ascii_digit());
    let least: Option<u64> = numbers.filter_map(|n| n.parse().ok()).find(|&n| n > 1000);
    let least = least.unwrap_or_else(|| panic!("no budget in: {words}"));
    let (_, engine) = on_device(Some(least));
    prefill(&engine, &mut engine.session()).expect("the least is enough");
    let (_, engine) = on_device(Some(least - 1));
    refusal(prefill(&engine, &mut engine.session()));
    // Also where experts are there already, in fewer slots.
    let (_, engine) = on_device(Some(least - 1));
    engine.warm(&mut |_, _| ()).expect("there is room for some");
    let words = refusal(prefill(&engine, &mut engine.session()));
    assert!(words.contains("--gpu-memory"), "{words}");
}

#[test]
fn a_lost_device_leaves_the_last_snapshot() {
    let (gpu, engine) = on_device(None);
    let mut session = engine.session();
    prefill(&engine, &mut session).expect("it runs");
    let kept = session.to_bytes().expect("the device is there");
    next(&engine, &mut session, 3).expect("it runs");
    gpu.give_up();
    for _ in 0..2 {
        let words = refusal(next(&engine, &mut session, 4));
        assert!(
            words.contains("lost") && words.contains("snapshot"),
            "{words}"
        );
    }
    refusal(session.to_bytes());
    // The processor goes on from the snapshot.
    let host = Engine::open(&demo(), &options()).expect("the demo opens");
    let mut restored = host.restore(&kept).expect("it is whole");
    let found = next(&host, &mut restored, 3).expect("it runs");
    let mut fresh = host.session();
    prefill(&host, &mut fresh).expect("it runs");
    let expected = next(&host, &mut fresh, 3).expect("it runs");
    common::close(&found, &expected, 2e-3, "logits after the loss");
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let refused = Gpu::open(DeviceChoice::Number(99));
    let refused = refused.err().expect("nobody has so many");
    assert!(matches!(refused, GpuError::NoAdapter { .. }));
    let words = refused.to_string();
    assert!(
        words.contains("number 99") && words.contains("--device cpu"),
        "{words}"
    );
}
