//! The demo model as a whole on the device: the host's answers, logits near the host's, and the
//! same bits however it is cut, kept and restored.

#![allow(clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use moeflux::{Activations, Engine, EngineOptions, Session, Span, Want};
use moeflux_gpu::{GpuBackend, GpuOptions};

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

fn on_host() -> Engine {
    Engine::open(&demo(), &options()).expect("the demo opens")
}

fn on_device(expert_bytes: Option<u64>) -> Engine {
    let gpu = common::gpu();
    let make = move || {
        let backend = GpuBackend::new(
            Arc::clone(&gpu),
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
    Engine::open(&demo(), &options).expect("the demo opens")
}

/// Tokens like any others.
fn tokens(engine: &Engine, seed: u32, count: usize) -> Vec<u32> {
    let vocab = engine.info().vocab_size as u32;
    let next = |i| (seed + i as u32 * 7919) % vocab;
    (0..count).map(next).collect()
}

fn prefill(engine: &Engine, session: &mut Session, tokens: &[u32]) -> Vec<f32> {
    let logits = engine.prefill(session, tokens, Want::All);
    logits.expect("it runs").values
}

/// The same as tokens that are not of a prompt, in one step.
fn decoded(engine: &Engine, session: &mut Session, tokens: &[u32]) -> Vec<f32> {
    let mut span = [Span {
        session,
        tokens,
        want: Want::All,
        is_prompt: false,
    }];
    let mut logits = engine.forward(&mut span).expect("it runs");
    logits.remove(0).values
}

fn one_by_one(engine: &Engine, session: &mut Session, tokens: &[u32]) -> Vec<f32> {
    let steps = tokens.iter();
    steps
        .flat_map(|token| decoded(engine, session, &[*token]))
        .collect()
}

fn largest(row: &[f32]) -> usize {
    let better = |best: usize, at: usize| if row[at] > row[best] { at } else { best };
    (1..row.len()).fold(0, better)
}

/// Greedy continuation of what is not read as a prompt, so that nothing is rounded.
fn answer(engine: &Engine, prompt: &[u32], count: usize) -> Vec<usize> {
    let mut session = engine.session();
    let logits = decoded(engine, &mut session, prompt);
    let mut next = largest(&logits[logits.len() - engine.info().vocab_size..]);
    let mut all = vec![next];
    while all.len() < count {
        let mut span = [Span {
            session: &mut session,
            tokens: &[next as u32],
            want: Want::Last,
            is_prompt: false,
        }];
        next = largest(engine.forward(&mut span).expect("it runs")[0].last());
        all.push(next);
    }
    all
}

#[test]
fn logits_and_answers_are_the_hosts() {
    let (host, device) = (on_host(), on_device(None));
    for seed in [3, 500] {
        let prompt = tokens(&host, seed, 23);
        let expected = prefill(&host, &mut host.session(), &prompt);
        let found = prefill(&device, &mut device.session(), &prompt);
        let vocab = host.info().vocab_size;
        let decoded = decoded(&device, &mut device.session(), &prompt);
        let rows = decoded
            .chunks_exact(vocab)
            .zip(expected.chunks_exact(vocab));
        for (decoded, expected) in rows {
            common::close(decoded, expected, 1e-3, "logits");
        }
        // A matrix unit rounds what prompts multiply, so that a token may be given another expert.
        let tolerance = match common::gpu().matrix_unit() {
            Some(_) => 5e-2,
            None => 1e-3,
        };
        common::close(&found, &expected, tolerance, "logits of a prompt");
        let answers = [&host, &device].map(|engine| answer(engine, &prompt, 24));
        assert_eq!(answers[0], answers[1], "seed {seed}");
    }
}

#[test]
fn bits_do_not_depend_on_steps_memory_or_snapshots() {
    let device = on_device(None);
    let prompt = tokens(&device, 11, 19);
    let expected = prefill(&device, &mut device.session(), &prompt);
    let mut one_by_one = Vec::new();
    let mut session = device.session();
    for token in &prompt {
        one_by_one.extend(prefill(&device, &mut session, &[*token]));
    }
    assert!(one_by_one == expected, "one by one");
    // Slots for few experts: they take turns.
    let small = on_device(Some(1 << 20));
    assert!(
        prefill(&small, &mut small.session(), &prompt) == expected,
        "few slots"
    );
    // Saved in the middle, restored by another engine.
    let mut session = device.session();
    prefill(&device, &mut session, &prompt[..8]);
    let bytes = session.to_bytes().expect("the device is there");
    let mut restored = small.restore(&bytes).expect("it restores");
    let rest = prefill(&small, &mut restored, &prompt[8..]);
    assert!(
        rest[..] == expected[expected.len() - rest.len()..],
        "restored"
    );
    // Back to a checkpoint.
    let mut session = device.session();
    prefill(&device, &mut session, &prompt[..8]);
    session.checkpoint();
    prefill(&device, &mut session, &prompt[3..9]);
    session.rewind(8).expect("there is a checkpoint");
    let rest = prefill(&device, &mut session, &prompt[8..]);
    assert!(
        rest[..] == expected[expected.len() - rest.len()..],
        "rewound"
    );
}

/// A prompt's last token has the same logits where no others are wanted, and in a step of its own.
#[test]
fn bits_do_not_depend_on_whose_logits_are_wanted() {
    let device = on_device(None);
    let prompt = tokens(&device, 23, 19);
    let all = prefill(&device, &mut device.session(), &prompt);
    let expected = &all[all.len() - device.info().vocab_size..];
    for cut in [0, 18] {
        let mut session = device.session();
        if cut > 0 {
            prefill(&device, &mut session, &prompt[..cut]);
        }
        let logits = device.prefill(&mut session, &prompt[cut..], Want::Last);
        let logits = logits.expect("it runs");
        assert!(logits.last() == expected, "from token {cut} on");
    }
}

/// Steps that wait for missing experts, steps that hope for none and are run again, and steps that
/// have company give the same bits.
#[test]
fn bits_of_decode_do_not_depend_on_memory_or_company() {
    let device = on_device(None);
    let text = tokens(&device, 31, 40);
    let mut session = device.session();
    let expected = one_by_one(&device, &mut session, &text);
    assert!(
        decoded(&device, &mut device.session(), &text) == expected,
        "all at once"
    );
    let small = on_device(Some(1 << 20));
    let found = one_by_one(&small, &mut small.session(), &text);
    assert!(found == expected, "few slots");
    let warm = on_device(None);
    warm.warm(&mut |_, _| ()).expect("all can be read");
    let found = one_by_one(&warm, &mut warm.session(), &text);
    assert!(found == expected, "all experts there");
    // A prompt and another's token in the same step.
    let (mut one, mut other, mut third) = (warm.session(), warm.session(), warm.session());
    let before = one_by_one(&warm, &mut one, &text[..39]);
    assert!(before == expected[..before.len()], "again");
    one_by_one(&warm, &mut other, &text[..7]);
    let prompt = prefill(&warm, &mut warm.session(), &text[3..20]);
    let mut spans = [
        (&mut third, &text[3..20], true),
        (&mut one, &text[39..], false),
        (&mut other, &text[5..6], false),
    ]
    .map(|(session, tokens, is_prompt)| Span {
        session,
        tokens,
        want: Want::All,
        is_prompt,
    });
    let found = warm.forward(&mut spans).expect("it runs");
    assert!(found[0].values == prompt, "the prompt");
    assert!(found[1].values == expected[before.len()..], "in company");
}

#[test]
fn drafted_tokens_can_be_taken_back() {
    let device = on_device(None);
    let prompt = tokens(&device, 17, 12);
    let mut plain = device.session();
    prefill(&device, &mut plain, &prompt);
    let expected = decoded(&device, &mut plain, &[5, 6]);
    let mut session = device.session();
    prefill(&device, &mut session, &prompt);
    let logits = device.forward_trial(&mut session, &[5, 6, 9, 2]);
    let logits = logits.expect("it runs");
    assert!(
        logits.values[..expected.len()] == expected[..],
        "the same logits"
    );
    device
        .retract(&mut session, prompt.len() + 2)
        .expect("it is on trial");
    let states = |session: &Session| session.state_values().expect("the device is there");
    assert!(states(&session) == states(&plain), "the same state");
}
