//! The demo model as a whole on the device: the host's answers, logits near the host's, and the
//! same bits however it is cut, kept and restored.

#![allow(clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use moeflux::graph::{BufferPool, Op};
use moeflux::{Activations, Best, Engine, EngineOptions, Session, Span, Want};
use moeflux_gpu::{DeviceChoice, Gpu, GpuBackend, GpuOptions};

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
    on(common::gpu(), expert_bytes)
}

/// A device whose counts are one test's own.
fn own_gpu() -> Arc<Gpu> {
    Gpu::open(DeviceChoice::Any).expect("a device; lavapipe serves")
}

fn on(gpu: Arc<Gpu>, expert_bytes: Option<u64>) -> Engine {
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

/// The experts of each token of a prompt, ascending, layer by layer.
fn choices(engine: &Engine, prompt: &[u32]) -> Vec<Vec<Vec<u32>>> {
    let mut all = vec![Vec::new(); prompt.len()];
    let mut see = |op: &Op, pool: &BufferPool| {
        let Op::Router { ids, top_k, .. } = op else {
            return;
        };
        for (own, ids) in all.iter_mut().zip(pool.get(*ids).chunks_exact(*top_k)) {
            let mut ids: Vec<u32> = ids.iter().map(|id| id.to_bits()).collect();
            ids.sort_unstable();
            own.push(ids);
        }
    };
    let mut session = engine.session();
    let logits = engine.prefill_observed(&mut session, prompt, Want::None, &mut see);
    logits.expect("it runs");
    all
}

/// A matrix unit rounds what prompts multiply: a token may get another expert where two are nearly
/// as good, and only then are its logits, and those of later tokens, further off than by rounding.
fn prompt_rows_are_close(
    found: &[f32],
    expected: &[f32],
    vocab: usize,
    choices: &[Vec<Vec<Vec<u32>>>; 2],
) {
    let (rounding, choosing) = match common::gpu().matrix_unit() {
        Some(_) => (1e-2, 2e-1),
        None => (1e-3, 1e-3),
    };
    let mut others = 0;
    let rows = found.chunks_exact(vocab).zip(expected.chunks_exact(vocab));
    for (row, (found, expected)) in rows.enumerate() {
        let layers = choices[0][row].iter().zip(&choices[1][row]);
        others += layers.filter(|(host, device)| host != device).count();
        let tolerance = if others > 0 { choosing } else { rounding };
        let what = format!("row {row} of a prompt, {others} other choices so far");
        common::close(found, expected, tolerance, &what);
    }
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
        prompt_rows_are_close(
            &found,
            &expected,
            vocab,
            &[&host, &device].map(|engine| choices(engine, &prompt)),
        );
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
    assert!(states(&session) == states(&plain), "the same state");
}

/// The token that most likely follows `token`.
fn best(engine: &Engine, session: &mut Session, token: u32) -> u32 {
    match engine.decode_best(session, token).expect("it runs") {
        Best::Token(token) => token,
        Best::Logits(logits) => largest(logits.last()) as u32,
    }
}

fn states(session: &Session) -> Vec<Vec<f32>> {
    session.state_values().expect("the device is there")
}

/// Steps that begin before their token is known give the tokens, logits and states of others, also
/// where keys and values need new memory on the way.
#[test]
fn steps_begun_ahead_change_nothing() {
    let gpu = own_gpu();
    let device = on(Arc::clone(&gpu), None);
    device.warm(&mut |_, _| ()).expect("all can be read");
    let prompt = tokens(&device, 41, 240);
    let (mut plain, mut session) = (device.session(), device.session());
    prefill(&device, &mut plain, &prompt);
    prefill(&device, &mut session, &prompt);
    let mut expected = vec![7];
    for step in 0..40 {
        let logits = device.decode(&mut plain, expected[step]).expect("it runs");
        expected.push(largest(logits.last()) as u32);
    }
    let mut token = 7;
    for (step, expected) in expected[1..].iter().enumerate() {
        token = best(&device, &mut session, token);
        assert_eq!(token, *expected, "step {step}");
    }
    assert!(gpu.steps_ahead() > 30, "steps begin ahead");
    assert!(states(&session) == states(&plain), "the same state");
    let next = |session| device.decode(session, token).expect("it runs").values;
    assert!(next(&mut session) == next(&mut plain), "the same logits");
}

/// A step that has begun counts for nothing if the answer goes on otherwise.
#[test]
fn steps_begun_ahead_can_be_dropped() {
    let device = on_device(None);
    device.warm(&mut |_, _| ()).expect("all can be read");
    let prompt = tokens(&device, 43, 20);
    let text = tokens(&device, 47, 12);
    let expected = one_by_one(
        &device,
        &mut device.session(),
        &[&prompt[..], &text].concat(),
    );
    let vocab = device.info().vocab_size;
    let rows: Vec<&[f32]> = expected.chunks_exact(vocab).skip(prompt.len()).collect();
    let goes_on = |what: &str, session: &mut Session| {
        for (at, token) in text.iter().enumerate() {
            let logits = device.decode(session, *token).expect("it runs");
            assert!(logits.last() == rows[at], "{what}, token {at}");
        }
    };
    // A step has begun behind the prompt.
    let begun = || {
        let mut session = device.session();
        for token in &prompt[..17] {
            one_by_one(&device, &mut session, &[*token]);
        }
        session.checkpoint();
        for token in &prompt[17..] {
            best(&device, &mut session, *token);
        }
        session
    };
    goes_on("another token", &mut begun());
    let mut session = begun();
    for (at, token) in text.iter().enumerate() {
        let found = best(&device, &mut session, *token);
        assert_eq!(found as usize, largest(rows[at]), "other tokens each time");
    }
    let mut session = begun();
    let bytes = session.to_bytes().expect("the device is there");
    goes_on(
        "restored",
        &mut device.restore(&bytes).expect("it restores"),
    );
    goes_on("saved", &mut session);
    let mut session = begun();
    best(&device, &mut device.session(), 3);
    goes_on("after another session", &mut session);
    let mut session = begun();
    session.rewind(17).expect("there is a checkpoint");
    for token in &prompt[17..] {
        best(&device, &mut session, *token);
    }
    goes_on("rewound", &mut session);
    let mut session = begun();
    let trial = [text[0], text[1], 9, 2];
    device.forward_trial(&mut session, &trial).expect("it runs");
    device
        .retract(&mut session, prompt.len())
        .expect("it is on trial");
    goes_on("retracted", &mut session);
}

/// A cold start is one on the device too.
#[test]
fn cooled_experts_are_brought_again() {
    let device = on(own_gpu(), None);
    device.warm(&mut |_, _| ()).expect("all can be read");
    let text = tokens(&device, 53, 9);
    let brought = || device.stats().tier.expect("it has a tier").brought;
    let warmed = brought();
    let expected = one_by_one(&device, &mut device.session(), &text);
    assert_eq!(brought(), warmed, "all are there");
    device.cool();
    device.reset_stats();
    let found = one_by_one(&device, &mut device.session(), &text);
    assert!(found == expected, "the same bits");
    assert!(brought() > warmed, "they were brought again");
    assert!(device.stats().experts.bytes_read > 0, "and read again");
}
