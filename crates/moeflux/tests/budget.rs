//! The memory bound: the smallest workable one is named and works, and sessions grow within it.
//! One test, because what the process occupies counts.

mod common;

use common::{assert_rows, logits, open, options, packed, prompt};
use moeflux::{Engine, EngineOptions, Error, Want};

const MODEL: &str = "qwen3_5_moe_text";

/// The smallest bound that the engine says would do.
fn smallest(model: &std::path::Path) -> u64 {
    let tiny = EngineOptions {
        memory_bytes: Some(1 << 20),
        chunk_tokens: None,
        ..options()
    };
    match Engine::open(model, &tiny).err() {
        Some(Error::MemoryBudget { given, needed }) => {
            assert_eq!(given, 1 << 20);
            needed
        }
        other => unreachable!("1 MiB must be too small: {other:?}"),
    }
}

#[test]
fn the_memory_bound_is_kept_by_giving_up_experts() {
    let model = packed(MODEL, 4);
    let tokens: Vec<u32> = (0..4080).map(|i| i * 7 % 250).collect();
    let (expected, state_bytes, expert_bytes) = {
        let roomy = open(&model.path(), &options());
        let expected = logits(&roomy, &prompt(MODEL)[..40]);
        let mut session = roomy.session();
        roomy
            .prefill(&mut session, &tokens[..512], Want::None)
            .expect("runs");
        (
            expected,
            roomy.stats().state_bytes,
            roomy.info().expert_bytes,
        )
    };

    // The smallest bound works. What the process occupies may still grow a little.
    let margin = 2 << 20;
    let small = EngineOptions {
        memory_bytes: Some(smallest(&model.path()) + margin),
        chunk_tokens: None,
        ..options()
    };
    let engine = open(&model.path(), &small);
    let found = engine.prefill(&mut engine.session(), &prompt(MODEL)[..40], Want::All);
    assert_rows(&expected, 0, &found.expect("runs"), "in the smallest bound");
    drop(engine);

    // All experts fit at first; then the session's state takes their place, until no more of
    // them can go, which is an error before anything is lost.
    let bound = smallest(&model.path()) + state_bytes + expert_bytes;
    let tight = EngineOptions {
        memory_bytes: Some(bound),
        chunk_tokens: Some(8),
        ..options()
    };
    let engine = open(&model.path(), &tight);
    let before = engine.stats().experts.slots;
    let mut session = engine.session();
    let mut last = None;
    let error = loop {
        let held = session.len();
        let next = tokens
            .get(held..held + 8)
            .expect("the bound is reached within the context");
        match engine.prefill(&mut session, next, Want::Last) {
            Ok(logits) => last = Some(logits),
            Err(e) => {
                assert_eq!(session.len(), held, "a refused step changes nothing");
                break e;
            }
        }
    };
    assert!(matches!(error, Error::MemoryFull { .. }), "{error}");
    let slots = engine.stats().experts.slots;
    assert!(slots < before, "{slots} of {before} slots");
    let held = session.len();
    assert!(held >= 512, "{held} tokens fit");
    // With the session gone, its room goes back to the experts.
    drop(session);
    let mut short = engine.session();
    engine
        .prefill(&mut short, &tokens[..8], Want::None)
        .expect("there is room again");
    let after = engine.stats().experts.slots;
    assert!(after > slots, "{after} slots, {slots} before");
    drop(engine);
    let roomy = open(&model.path(), &options());
    let whole = roomy
        .prefill(&mut roomy.session(), &tokens[..held], Want::Last)
        .expect("runs");
    assert_rows(
        &whole,
        0,
        &last.expect("steps ran"),
        "with a shrinking arena",
    );
}
