//! Sessions that go back, and prompts that are cut: each gives the bits of one step.

use moeflux::{EngineOptions, Want};

use super::{assert_rows, fixture, logits, open, options, prompt, run};

/// Tokens on trial, of which only the first three are right, are taken back in two goes.
pub fn take_back(model: &str, places: &[usize]) {
    let engine = open(&fixture(model), &options());
    let tokens = prompt(model);
    let expected = logits(&engine, &tokens);
    for &at in places {
        let mut session = engine.session();
        run(&engine, &mut session, &tokens[..at]);
        let mut wrong = tokens[at..at + 9].to_vec();
        wrong[3..].reverse();
        engine.forward_trial(&mut session, &wrong).expect("runs");
        engine.retract(&mut session, at + 3).expect("on trial");
        let at = at + 1;
        engine.retract(&mut session, at).expect("still on trial");
        let rest = run(&engine, &mut session, &tokens[at..]);
        assert_rows(&expected, at, &rest, &format!("{model} back at {at}"));
    }
}

/// A session, and one restored from its bytes, go back to a checkpoint.
pub fn come_back(model: &str, places: &[usize]) {
    let engine = open(&fixture(model), &options());
    let tokens = prompt(model);
    let expected = logits(&engine, &tokens);
    for &at in places {
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

/// A prompt in chunks of each length.
pub fn in_chunks(model: &str, lengths: &[usize]) {
    let tokens = prompt(model);
    let expected = logits(&open(&fixture(model), &options()), &tokens);
    for &chunk in lengths {
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
