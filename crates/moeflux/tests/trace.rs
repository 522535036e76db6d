//! Traces and popularity of an engine: what is replayed is what was counted.

mod common;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use common::{fixture, open, options, prompt};
use moeflux::experts::{Replay, ReplayPolicy, Trace};
use moeflux::{Engine, EngineOptions, Lookahead, PolicyKind, Span, Want};

#[test]
fn a_replay_of_an_engines_trace_gives_its_hits_and_misses() {
    let name = "qwen3_5_moe_text";
    let tokens = prompt(name);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("trace");
    let plain = EngineOptions::default();
    let slot = open(&fixture(name), &plain).stats().experts.slot_bytes;
    for policy in [
        PolicyKind::Lru,
        PolicyKind::Frequency,
        PolicyKind::LeastStale,
    ] {
        let options = EngineOptions {
            expert_cache_bytes: Some(slot * 14),
            policy,
            lookahead: Lookahead::Off,
            trace: Some(path.clone()),
            ..EngineOptions::default()
        };
        let engine = open(&fixture(name), &options);
        let mut session = engine.session();
        for token in &tokens {
            let logits = engine.prefill(&mut session, &[*token], Want::Last);
            assert_eq!(logits.expect("runs").rows, 1);
        }
        let stats = engine.stats().experts;
        let trace = Trace::read(&path).expect("every step is in the file at once");
        assert_eq!(trace.steps.len(), tokens.len());
        assert_eq!(trace.header.model, name);
        assert_eq!(trace.header.top_k as usize, engine.info().top_k);
        assert!(
            trace
                .steps
                .iter()
                .all(|s| s.layers.len() == engine.info().moe_layers)
        );
        let weights = &trace.steps[0].layers[0].weights;
        let sum: f32 = weights.iter().sum();
        assert!((sum - 1.0).abs() < 0.02, "{weights:?}");
        let replay = Replay::new(&[trace]).expect("one model");
        let found = replay.run(ReplayPolicy::Online(policy), stats.slots);
        assert_eq!(
            (found.all.hits, found.all.misses),
            (stats.hits, stats.misses),
            "{policy}"
        );
        assert!(
            stats.hits > 0 && stats.misses > 0,
            "the arena matters: {stats:?}"
        );
    }
}

#[test]
fn a_step_of_many_answers_reads_each_expert_once() {
    let name = "qwen3_5_moe_text";
    let tokens = prompt(name);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("trace");
    let model = common::packed(name, 4);
    let slot = open(&model.path(), &options()).stats().experts.slot_bytes;
    let options = EngineOptions {
        // Fewer than the answers use together in a layer.
        expert_cache_bytes: Some(slot * 5),
        lookahead: Lookahead::Off,
        trace: Some(path.clone()),
        ..options()
    };
    let engine = open(&model.path(), &options);
    let mut sessions: Vec<_> = (0..8).map(|_| engine.session()).collect();
    for (at, session) in sessions.iter_mut().enumerate() {
        let prompt = &tokens[at * 5..at * 5 + 5];
        let logits = engine.prefill(session, prompt, Want::Last);
        assert_eq!(logits.expect("runs").rows, 1);
    }
    engine.cool();
    engine.reset_stats();
    let span = |(at, session)| Span {
        session,
        tokens: &tokens[at..=at],
        want: Want::Last,
        is_prompt: false,
    };
    let mut spans: Vec<_> = sessions.iter_mut().enumerate().map(span).collect();
    engine.forward(&mut spans).expect("runs");
    let trace = Trace::read(&path).expect("every step is in the file at once");
    let step = trace.steps.last().expect("a step");
    assert_eq!(step.tokens, 8);
    let distinct = |ids: &Vec<u32>| ids.iter().collect::<HashSet<_>>().len();
    let experts = step.layers.iter().map(|layer| distinct(&layer.ids));
    assert!(experts.clone().max() > Some(5), "memory holds them");
    let stats = engine.stats().experts;
    assert_eq!(stats.reads as usize, experts.sum::<usize>());
}

#[test]
fn a_trace_that_cannot_be_created_names_its_file() {
    let options = EngineOptions {
        trace: Some("/nowhere/at/all".into()),
        ..EngineOptions::default()
    };
    let error = moeflux::Engine::open(&fixture("qwen3_moe"), &options);
    let message = error.err().expect("refused").to_string();
    assert!(
        message.contains("cannot create the trace /nowhere/at/all"),
        "{message}"
    );
}

/// A packed model, and options that give its experts 20 slots and a warm start.
fn warm(model: &common::Packed) -> EngineOptions {
    let slot = open(&model.path(), &options()).stats().experts.slot_bytes;
    EngineOptions {
        expert_cache_bytes: Some(slot * 20),
        lookahead: Lookahead::Off,
        warm_start: true,
        ..options()
    }
}

/// Runs the tokens one by one; returns the logits of the last.
fn decode(engine: &Engine, tokens: &[u32]) -> Vec<f32> {
    let mut session = engine.session();
    let mut last = Vec::new();
    for token in tokens {
        let logits = engine.prefill(&mut session, &[*token], Want::Last);
        last = logits.expect("runs").values;
    }
    last
}

#[test]
fn what_one_engine_used_the_next_one_reads_before_it_is_asked() {
    let name = "qwen3_5_moe_text";
    let model = common::packed(name, 4);
    let tokens = &prompt(name)[..40];
    let record = model.path().join(".moeflux-popularity");
    let options = warm(&model);
    let expected = {
        let engine = open(&model.path(), &options);
        assert!(engine.notes().is_empty());
        let few = decode(&engine, &tokens[..8]);
        drop(engine);
        assert!(!record.exists(), "a few tokens are not worth a record");
        let engine = open(&model.path(), &options);
        assert_eq!(decode(&engine, &tokens[..8]), few);
        decode(&engine, tokens)
    };
    let written = std::fs::read(&record).expect("a record");
    let engine = open(&model.path(), &options);
    let deadline = Instant::now() + Duration::from_secs(60);
    while engine.stats().experts.resident < 20 {
        assert!(Instant::now() < deadline, "memory is never filled");
        std::thread::sleep(Duration::from_millis(2));
    }
    let stats = engine.stats().experts;
    assert_eq!((stats.leases, stats.misses, stats.evictions), (0, 0, 0));
    assert!(decode(&engine, tokens) == expected, "it changes no answer");
    drop(engine);
    assert_ne!(
        std::fs::read(&record).expect("a record"),
        written,
        "it is brought up to date"
    );

    // Who asks for a cold start gets one, whatever the record says.
    let engine = open(&model.path(), &options);
    engine.cool();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(engine.stats().experts.resident, 0);
    drop(engine);

    // A damaged record is told of, and replaced.
    std::fs::write(&record, b"garbage").expect("writes");
    let engine = open(&model.path(), &options);
    assert!(engine.notes()[0].contains(".moeflux-popularity cannot be used"));
    assert!(decode(&engine, tokens) == expected);
    drop(engine);
    assert!(open(&model.path(), &options).notes().is_empty());
}

#[test]
fn where_everything_fits_nothing_is_written() {
    let name = "qwen3_5_moe_text";
    let model = common::packed(name, 4);
    let roomy = EngineOptions {
        expert_cache_bytes: None,
        ..warm(&model)
    };
    let tokens = prompt(name);
    decode(&open(&model.path(), &roomy), &tokens);
    let plain = EngineOptions {
        warm_start: false,
        ..warm(&model)
    };
    decode(&open(&model.path(), &plain), &tokens);
    assert!(!model.path().join(".moeflux-popularity").exists());
}
