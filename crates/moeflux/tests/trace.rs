//! Traces and popularity of an engine: what is replayed is what was counted.

mod common;

use common::{fixture, open, prompt};
use moeflux::experts::{Replay, ReplayPolicy, Trace};
use moeflux::{EngineOptions, Lookahead, PolicyKind, Want};

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
