//! A whole model with entries for windows of positions on the device: near the processor's
//! logits, and the same bits however its sessions are cut, kept, restored, shared and taken back,
//! in the middle of such windows too.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use moeflux::{Activations, Engine, EngineOptions, Logits, Session, Span, Want};
use moeflux_gpu::{GpuBackend, GpuOptions};

/// Entries of 4 positions in two layers, of 16 in two; windows of 20.
fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/deepseek_v4")
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

fn on_device(expert_bytes: Option<u64>) -> Engine {
    let gpu = common::gpu();
    let make = move || {
        let options = GpuOptions {
            expert_bytes,
            ..GpuOptions::default()
        };
        Ok(Box::new(GpuBackend::new(Arc::clone(&gpu), options)) as Box<_>)
    };
    let options = EngineOptions {
        backend: Some(Arc::new(make)),
        ..options()
    };
    Engine::open(&model(), &options).expect("the model opens")
}

/// Tokens like any others.
fn text(count: u32) -> Vec<u32> {
    (0..count).map(|i| (7 + i * 7919) % 255).collect()
}

fn decoded(engine: &Engine, session: &mut Session, tokens: &[u32]) -> Logits {
    let mut span = [Span {
        session,
        tokens,
        want: Want::All,
        is_prompt: false,
    }];
    engine.forward(&mut span).expect("it runs").remove(0)
}

/// Requires the bits of the last rows.
fn same_end(expected: &Logits, found: &Logits, what: &str) {
    let (expected, found) = (&expected.values, &found.values);
    assert!(!found.is_empty(), "{what}: nothing");
    let end = &expected[expected.len() - found.len()..];
    let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert!(bits(end) == bits(found), "{what}: other bits");
}

#[test]
fn logits_are_the_processors() {
    let (host, device) = (
        Engine::open(&model(), &options()).expect("the model opens"),
        on_device(None),
    );
    let text = text(150);
    let expected = host
        .prefill(&mut host.session(), &text, Want::All)
        .expect("it runs");
    let found = decoded(&device, &mut device.session(), &text);
    let rows = found.values.chunks_exact(found.vocab);
    for (row, (found, expected)) in rows
        .zip(expected.values.chunks_exact(expected.vocab))
        .enumerate()
    {
        common::close(found, expected, 1e-3, &format!("logits of position {row}"));
    }
}

#[test]
fn bits_do_not_depend_on_steps_nor_memory() {
    let device = on_device(None);
    let text = text(150);
    for is_prompt in [false, true] {
        let run = |engine: &Engine, session: &mut Session, tokens: &[u32]| match is_prompt {
            true => engine.prefill(session, tokens, Want::All).expect("it runs"),
            false => decoded(engine, session, tokens),
        };
        let expected = run(&device, &mut device.session(), &text);
        let few = on_device(Some(1 << 18));
        for (engine, lengths) in [(&device, [1, 1]), (&device, [17, 5]), (&few, [3, 90])] {
            let mut session = engine.session();
            let mut at = 0;
            for len in lengths.iter().cycle() {
                let end = text.len().min(at + len);
                let found = run(engine, &mut session, &text[at..end]);
                let vocab = found.vocab;
                let until = Logits {
                    values: expected.values[..end * vocab].to_vec(),
                    ..expected
                };
                same_end(&until, &found, &format!("{lengths:?}, prompt {is_prompt}"));
                at = end;
                if at == text.len() {
                    break;
                }
            }
        }
    }
}

#[test]
fn sessions_are_kept_restored_and_taken_back_within_windows() {
    let device = on_device(None);
    let text = text(100);
    let expected = decoded(&device, &mut device.session(), &text);
    for at in [5, 30, 31, 32, 64, 79] {
        let mut session = device.session();
        decoded(&device, &mut session, &text[..at]);
        session.checkpoint();
        decoded(&device, &mut session, &text[..21]);
        let bytes = session.to_bytes().expect("the device is there");
        let mut restored = device.restore(&bytes).expect("it restores");
        for session in [&mut session, &mut restored] {
            session.rewind(at).expect("there is a checkpoint");
            let rest = decoded(&device, session, &text[at..]);
            same_end(&expected, &rest, &format!("rewound to {at}"));
        }
    }
}

#[test]
fn sessions_go_on_from_shared_state() {
    let device = on_device(None);
    let text = text(100);
    let expected = decoded(&device, &mut device.session(), &text);
    for at in [1, 3, 47, 48, 70] {
        let mut session = device.session();
        decoded(&device, &mut session, &text[..at]);
        let parts = [0..at / 3, at / 3..at].map(|part| session.key_values(part).expect("is here"));
        let recurrent = session.recurrent_state().expect("is here");
        let parts: Vec<_> = parts.iter().filter(|p| !p.positions().is_empty()).collect();
        let mut resumed = device
            .resume(&text[..at], &parts, recurrent.as_ref())
            .expect("it resumes");
        for session in [&mut session, &mut resumed] {
            let rest = decoded(&device, session, &text[at..]);
            same_end(&expected, &rest, &format!("shared at {at}"));
        }
    }
}

#[test]
fn tokens_on_trial_are_taken_back_within_windows() {
    let device = on_device(None);
    let text = text(100);
    let expected = decoded(&device, &mut device.session(), &text);
    for at in [14, 15, 60, 61, 62, 63, 64] {
        let mut session = device.session();
        decoded(&device, &mut session, &text[..at]);
        let mut wrong = text[at..at + 9].to_vec();
        wrong[3..].reverse();
        device.forward_trial(&mut session, &wrong).expect("it runs");
        device.retract(&mut session, at + 3).expect("on trial");
        device.retract(&mut session, at + 1).expect("on trial");
        let rest = decoded(&device, &mut session, &text[at + 1..]);
        same_end(&expected, &rest, &format!("taken back at {at}"));
    }
}
