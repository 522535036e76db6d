//! The memory bound: the smallest workable one is named and works, and sessions grow within it.

mod common;
#[path = "common/machine.rs"]
mod machine;

use std::path::Path;

use common::{assert_rows, logits, open, options, packed, prompt};
use machine::Machine;
use moeflux::{Engine, EngineOptions, Error, Want};

const MODEL: &str = "qwen3_5_moe_text";

/// The smallest bound that the engine says would do.
fn smallest(machine: &Machine, model: &Path) -> u64 {
    match Engine::open(model, &machine.options(1 << 20)).err() {
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

    let machine = Machine::new();
    let smallest = smallest(&machine, &model.path());
    // Room for the prompt's state besides.
    let engine = open(&model.path(), &machine.options(smallest + state_bytes));
    let found = engine.prefill(&mut engine.session(), &prompt(MODEL)[..40], Want::All);
    assert_rows(&expected, 0, &found.expect("runs"), "in the smallest bound");
    drop(engine);

    // All experts fit at first; then the session's state takes their place, until no more of
    // them can go, which is an error before anything is lost.
    let tight = EngineOptions {
        chunk_tokens: Some(8),
        // What is named is whole MiB, and one more.
        ..machine.options(smallest - (1 << 20) + expert_bytes)
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
