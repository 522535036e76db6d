//! The memory bound while the engine runs: scratch memory, sessions and the system's own limits
//! take experts' places and give them back, and no bit of an answer changes.
//!
//! The system is a directory of files, so that what it says does not depend on the machine.

mod common;
#[path = "common/machine.rs"]
mod machine;

use std::path::Path;
use std::time::Duration;

use common::{assert_rows, logits, open, options, packed, prompt};
use machine::{Machine, RESIDENT_BYTES};
use moeflux::memory::Locked;
use moeflux::{Engine, EngineOptions, Error, Logits, Session, Want};

const MODEL: &str = "qwen3_5_moe_text";
const MIB: u64 = 1 << 20;

/// What the model takes beside experts and state, and its experts.
fn parts(model: &Path, machine: &Machine) -> (u64, u64) {
    let memory = open(model, &machine.options(1 << 30)).stats().memory;
    let slack = memory.limit_bytes / 128;
    let fixed = memory.overhead_bytes - slack + memory.dense_bytes + memory.scratch_bytes;
    (fixed, memory.arena_bytes)
}

fn step(engine: &Engine, session: &mut Session, tokens: &[u32]) -> Logits {
    let logits = engine.prefill(session, tokens, Want::Last);
    logits.expect("there is room")
}

#[test]
fn a_limit_lowered_while_running_takes_experts_and_a_raised_one_brings_them_back() {
    let (model, machine) = (packed(MODEL, 4), Machine::new());
    let tokens = &prompt(MODEL)[..40];
    let expected = logits(&open(&model.path(), &options()), tokens);
    let (fixed, experts) = parts(&model.path(), &machine);
    let bound = 512 * MIB;
    let engine = open(&model.path(), &machine.options(bound));
    let all = engine.stats().experts.slots;
    let mut session = engine.session();
    assert_rows(
        &expected,
        9,
        &step(&engine, &mut session, &tokens[..10]),
        "at first",
    );
    assert_eq!(engine.stats().limit_bytes, bound);

    // What the bound keeps back stays kept back.
    let state = engine.stats().state_bytes;
    let lowered = fixed + bound / 128 + state + experts / 2;
    machine.allow(lowered);
    // The engine looks once a second.
    std::thread::sleep(Duration::from_millis(1100));
    assert_rows(
        &expected,
        19,
        &step(&engine, &mut session, &tokens[10..20]),
        "with less",
    );
    let stats = engine.stats();
    assert_eq!(stats.limit_bytes, lowered);
    assert_eq!(stats.experts.slots, all / 2);

    machine.allow(1 << 40);
    std::thread::sleep(Duration::from_millis(1100));
    assert_rows(
        &expected,
        29,
        &step(&engine, &mut session, &tokens[20..30]),
        "with more",
    );
    assert_eq!(engine.stats().limit_bytes, bound);
    assert_eq!(engine.stats().experts.slots, all);

    // Below what works, what is in memory goes on, and nothing new is begun.
    machine.allow(RESIDENT_BYTES);
    std::thread::sleep(Duration::from_millis(1100));
    assert_rows(
        &expected,
        39,
        &step(&engine, &mut session, &tokens[30..]),
        "with nothing",
    );
    assert_eq!(engine.stats().experts.slots, 2);
    let refused = engine.prefill(&mut engine.session(), &tokens[..8], Want::Last);
    match refused {
        Err(Error::MemoryFull { given, fit, .. }) => assert_eq!((given, fit), (RESIDENT_BYTES, 0)),
        other => unreachable!("a new session needs memory: {other:?}"),
    }
}

#[test]
fn a_large_prompt_takes_experts_places_for_its_scratch_alone() {
    let (model, machine) = (packed(MODEL, 4), Machine::new());
    let tokens: Vec<u32> = (0..600).map(|i| i * 7 % 250).collect();
    let (fixed, experts) = parts(&model.path(), &machine);
    let roomy = open(&model.path(), &options());
    let expected = roomy.prefill(&mut roomy.session(), &tokens, Want::Last);
    let expected = expected.expect("runs");
    let state = 600 * roomy.info().token_state_bytes + roomy.stats().memory.state_bytes;

    // All experts fit beside the state and a small step, but not beside a large one.
    let bound = (fixed + state + experts + MIB) * 128 / 127 + MIB;
    let options = EngineOptions {
        chunk_tokens: Some(512),
        ..machine.options(bound)
    };
    let engine = open(&model.path(), &options);
    let memory = engine.stats().memory;
    assert!(memory.chunk_scratch_bytes - memory.scratch_bytes > experts);
    let all = engine.stats().experts.slots;
    let mut session = engine.session();
    let found = step(&engine, &mut session, &tokens);
    assert_rows(&expected, 0, &found, "a large prompt");
    assert!(engine.stats().experts.slots < all, "experts gave way");
    step(&engine, &mut session, &tokens[..1]);
    assert_eq!(engine.stats().experts.slots, all, "and are back");
}

#[test]
fn what_does_not_fit_is_refused_before_it_begins_and_what_fits_is_named() {
    let (model, machine) = (packed(MODEL, 4), Machine::new());
    let tokens: Vec<u32> = (0..4000).map(|i| i * 7 % 250).collect();
    let (fixed, experts) = parts(&model.path(), &machine);
    let per_token = open(&model.path(), &options()).info().token_state_bytes;
    let bound = (fixed + experts + 1000 * per_token) * 128 / 127 + MIB;
    let engine = open(&model.path(), &machine.options(bound));
    let mut session = engine.session();
    step(&engine, &mut session, &tokens[..100]);
    let before = session.to_bytes().expect("its state is here");
    let (fit, needed) = match engine.prefill(&mut session, &tokens[100..], Want::Last) {
        Err(Error::MemoryFull {
            tokens: 3900,
            fit,
            given,
            needed,
        }) if given == bound => (fit, needed),
        other => unreachable!("4,000 tokens do not fit: {other:?}"),
    };
    assert!(fit > 800 && fit < 3900, "{fit}");
    assert_eq!(session.to_bytes().expect("its state is here"), before);
    // One more than fits is still refused, what fits is not, and is the same as ever.
    let more = engine.prefill(&mut session, &tokens[100..101 + fit], Want::Last);
    assert!(matches!(more, Err(Error::MemoryFull { .. })), "{more:?}");
    let found = step(&engine, &mut session, &tokens[100..100 + fit]);
    let roomy = open(&model.path(), &options());
    let expected = roomy.prefill(&mut roomy.session(), &tokens[..100 + fit], Want::Last);
    assert_rows(&expected.expect("runs"), 0, &found, "to the brim");
    // The bound that the error names is enough.
    let engine = open(&model.path(), &machine.options(needed));
    step(&engine, &mut engine.session(), &tokens);
}

#[test]
fn weights_are_locked_unless_that_is_not_wanted_or_not_allowed() {
    let model = packed(MODEL, 4);
    let engine = open(&model.path(), &options());
    match engine.stats().locked {
        Locked::Yes => {}
        refused => assert!(refused.note().is_some(), "{refused:?}"),
    }
    let unlocked = EngineOptions {
        lock_weights: false,
        ..options()
    };
    let engine = open(&model.path(), &unlocked);
    assert_eq!(engine.stats().locked, Locked::NotAsked);
}
