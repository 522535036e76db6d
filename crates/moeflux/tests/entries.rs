//! Layers that see windows of positions as one entry each: sessions are rewound, saved and taken
//! back in the middle of such windows with the same bits, and entries take the memory of their own.

mod common;

use common::{assert_rows, fixture, logits, open, options, prompt, run};
use moeflux::{Engine, EngineOptions, Want};

/// Entries of 4 positions in two layers, of 16 in two.
const MODEL: &str = "deepseek_v4";

fn engine() -> Engine {
    open(&fixture(MODEL), &options())
}

#[test]
fn tokens_on_trial_are_taken_back_in_the_middle_of_windows() {
    let engine = engine();
    let tokens = prompt(MODEL);
    let expected = logits(&engine, &tokens);
    for at in [14, 15, 60, 61, 62, 63, 64, 126, 143] {
        let mut session = engine.session();
        run(&engine, &mut session, &tokens[..at]);
        let mut wrong = tokens[at..at + 9].to_vec();
        wrong[3..].reverse();
        engine.forward_trial(&mut session, &wrong).expect("runs");
        engine.retract(&mut session, at + 3).expect("on trial");
        engine
            .retract(&mut session, at + 1)
            .expect("still on trial");
        let rest = run(&engine, &mut session, &tokens[at + 1..]);
        assert_rows(&expected, at + 1, &rest, &format!("taken back at {at}"));
    }
}

#[test]
fn a_checkpoint_within_a_window_is_come_back_to() {
    let engine = engine();
    let tokens = prompt(MODEL);
    let expected = logits(&engine, &tokens);
    for at in [5, 70, 94, 95, 96] {
        let mut session = engine.session();
        run(&engine, &mut session, &tokens[..at]);
        session.checkpoint();
        run(&engine, &mut session, &tokens[..50]);
        let bytes = session.to_bytes().expect("its state is here");
        let mut restored = engine.restore(&bytes).expect("restores");
        for session in [&mut session, &mut restored] {
            session.rewind(at).expect("there is a checkpoint");
            let rest = run(&engine, session, &tokens[at..]);
            assert_rows(&expected, at, &rest, &format!("rewound to {at}"));
        }
    }
}

#[test]
fn chunks_of_any_size_give_the_same_bits() {
    let tokens = prompt(MODEL);
    let expected = logits(&engine(), &tokens);
    for chunk in [1, 3, 17, 64] {
        let options = EngineOptions {
            chunk_tokens: Some(chunk),
            ..options()
        };
        let engine = open(&fixture(MODEL), &options);
        let all = engine
            .prefill(&mut engine.session(), &tokens, Want::All)
            .expect("runs");
        assert_rows(&expected, 0, &all, &format!("chunks of {chunk}"));
    }
}

#[test]
fn entries_take_a_fraction_of_what_positions_take() {
    // Two layers have an entry of 48 elements, and one of their index of 32, for 4 positions; two
    // have an entry of 48 for 16. Elements are binary16; windows do not grow.
    let (of_four, of_sixteen) = ((48 + 32) * 2 / 4, 48 * 2 / 16);
    assert_eq!(
        engine().info().token_state_bytes,
        2 * of_four + 2 * of_sixteen
    );
}
