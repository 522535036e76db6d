//! Layers that see the last positions only: their memory is bounded by the window, and sessions are
//! rewound, saved and taken back over what it has passed with the same bits.

mod common;

use common::back::{in_chunks, take_back};
use common::{assert_rows, fixture, logits, open, options, prompt, run};
use moeflux::Engine;

/// Two layers see 40 positions, two see all; a page of a layer has 64.
const MODEL: &str = "gpt_oss";
/// Two heads of 16 elements, keys and values, binary16.
const PAGE_BYTES: u64 = 64 * 2 * 2 * 16 * 2;

fn engine() -> Engine {
    open(&fixture(MODEL), &options())
}

#[test]
fn pages_that_the_window_has_passed_take_no_memory() {
    let engine = engine();
    let tokens = prompt(MODEL);
    let expected = logits(&engine, &tokens);
    let mut session = engine.session();
    let empty = engine.stats().state_bytes;
    for at in 0..tokens.len() {
        let one = run(&engine, &mut session, &tokens[at..=at]);
        assert_rows(&expected, at, &one, "token by token");
        // The page of the query, those before it back to the first position in the window.
        let all = at / 64 + 1;
        let seen = at / 64 - (at + 1).saturating_sub(40) / 64 + 1;
        let held = (engine.stats().state_bytes - empty) / PAGE_BYTES;
        assert_eq!(held as usize, 2 * all + 2 * seen, "at {at}");
    }
    assert!(engine.info().token_state_bytes * 64 == 2 * PAGE_BYTES);
}

#[test]
fn a_session_is_rewound_as_far_as_the_window_or_a_checkpoint_reaches() {
    let engine = engine();
    let tokens = prompt(MODEL);
    let expected = logits(&engine, &tokens);
    let mut session = engine.session();
    run(&engine, &mut session, &tokens[..90]);
    session.checkpoint();
    for at in 90..220 {
        run(&engine, &mut session, &tokens[at..=at]);
    }
    session.rewind(210).expect("its window is still there");
    let rest = run(&engine, &mut session, &tokens[210..215]);
    assert_rows(&expected, 210, &rest, "rewound within the window");
    let error = session.rewind(120).expect_err("the window has passed");
    assert!(error.to_string().contains("position 120"), "{error}");
    assert_eq!(session.len(), 215, "a refused rewind changes nothing");

    // The checkpoint survives a trip through bytes.
    let bytes = session.to_bytes().expect("its state is here");
    let mut restored = engine.restore(&bytes).expect("restores");
    assert!(restored.to_bytes().expect("its state is here") == bytes);
    for session in [&mut session, &mut restored] {
        let more = run(&engine, session, &tokens[215..220]);
        assert_rows(&expected, 215, &more, "restored");
        session.rewind(90).expect("there is a checkpoint");
        let rest = run(&engine, session, &tokens[90..]);
        assert_rows(&expected, 90, &rest, "rewound to the checkpoint");
        session.rewind(0).expect("the start is always there");
        let rest = run(&engine, session, &tokens);
        assert_rows(&expected, 0, &rest, "from the start");
    }
}

#[test]
fn prompts_in_chunks_and_saved_sessions_give_the_same_bits() {
    in_chunks(MODEL, &[1, 7, 64, 100]);
    let (engine, other) = (engine(), engine());
    let tokens = prompt(MODEL);
    let expected = logits(&engine, &tokens);
    for at in [103, 104, 128, 167, 168, 200] {
        let mut session = engine.session();
        for token in &tokens[..at] {
            run(&engine, &mut session, &[*token]);
        }
        let bytes = session.to_bytes().expect("its state is here");
        let mut restored = other.restore(&bytes).expect("restores");
        let rest = run(&other, &mut restored, &tokens[at..]);
        assert_rows(&expected, at, &rest, &format!("restored at {at}"));
    }
}

#[test]
fn tokens_on_trial_are_taken_back_across_the_window() {
    take_back(MODEL, &[60, 100, 104, 170]);
}
