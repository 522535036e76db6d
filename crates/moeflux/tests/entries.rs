//! Layers that see windows of positions as one entry each: sessions are rewound, saved and taken
//! back in the middle of such windows with the same bits, and entries take the memory of their own.

mod common;

use common::{assert_rows, fixture, logits, open, options, prompt, run};
use moeflux::{Engine, EngineOptions, Want};

/// Entries of 4 positions in two layers, of 16 in two; and indexes of windows of 4 positions, which
/// are attended to themselves.
const MODELS: [&str; 2] = ["deepseek_v4", "glm5_next"];

fn engine(model: &str) -> Engine {
    open(&fixture(model), &options())
}

#[test]
fn tokens_on_trial_are_taken_back_in_the_middle_of_windows() {
    for model in MODELS {
        let engine = engine(model);
        let tokens = prompt(model);
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
            assert_rows(
                &expected,
                at + 1,
                &rest,
                &format!("{model} taken back at {at}"),
            );
        }
    }
}

#[test]
fn a_checkpoint_within_a_window_is_come_back_to() {
    for model in MODELS {
        let engine = engine(model);
        let tokens = prompt(model);
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
                assert_rows(&expected, at, &rest, &format!("{model} rewound to {at}"));
            }
        }
    }
}

#[test]
fn chunks_of_any_size_give_the_same_bits() {
    for model in MODELS {
        let tokens = prompt(model);
        let expected = logits(&engine(model), &tokens);
        for chunk in [1, 3, 17, 64] {
            let options = EngineOptions {
                chunk_tokens: Some(chunk),
                ..options()
            };
            let engine = open(&fixture(model), &options);
            let all = engine
                .prefill(&mut engine.session(), &tokens, Want::All)
                .expect("runs");
            assert_rows(&expected, 0, &all, &format!("{model} in chunks of {chunk}"));
        }
    }
}

#[test]
fn entries_take_a_fraction_of_what_positions_take() {
    // Two layers have an entry of 48 elements, and one of their index of 32, for 4 positions; two
    // have an entry of 48 for 16. Elements are binary16; windows do not grow.
    let (of_four, of_sixteen) = ((48 + 32) * 2 / 4, 48 * 2 / 16);
    assert_eq!(
        engine("deepseek_v4").info().token_state_bytes,
        2 * of_four + 2 * of_sixteen
    );
    // Three layers have a latent of 32 elements for each position; two have an entry of 16 for 4.
    let (latent, entry) = (32 * 2, 16 * 2 / 4);
    assert_eq!(
        engine("glm5_next").info().token_state_bytes,
        3 * latent + 2 * entry
    );
}
