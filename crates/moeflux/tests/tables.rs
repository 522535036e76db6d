//! Tables of n-grams that are read by rows, beside an index of blocks: sessions are rewound, saved
//! and taken back with the same bits, whatever reads the rows, and tensors that do not make up the
//! table are named.

mod common;

use std::path::Path;

use common::{assert_rows, fixture, logits, open, options, packed, prompt, run};
use moeflux::{Engine, EngineOptions, ReaderChoice, ReaderKind, Want};
use serde_json::{Value, json};

/// Blocks of 4 positions, tables in seven tensors, and of 8 positions, a table in one.
const MODELS: [&str; 2] = ["qwen4_exp_text", "qwen4_exp"];

#[test]
fn tokens_on_trial_are_taken_back_in_the_middle_of_blocks() {
    for name in MODELS {
        let engine = open(&fixture(name), &options());
        let tokens = prompt(name);
        let expected = logits(&engine, &tokens);
        for at in [2, 14, 15, 61, 62, 63, 64, 90] {
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
            assert_rows(&expected, at + 1, &rest, &format!("{name} back at {at}"));
        }
    }
}

#[test]
fn a_checkpoint_within_a_block_is_come_back_to() {
    for name in MODELS {
        let engine = open(&fixture(name), &options());
        let tokens = prompt(name);
        let expected = logits(&engine, &tokens);
        for at in [1, 5, 70, 94, 95, 96] {
            let mut session = engine.session();
            run(&engine, &mut session, &tokens[..at]);
            session.checkpoint();
            run(&engine, &mut session, &tokens[..50]);
            let bytes = session.to_bytes().expect("its state is here");
            let mut restored = engine.restore(&bytes).expect("restores");
            for session in [&mut session, &mut restored] {
                session.rewind(at).expect("there is a checkpoint");
                let rest = run(&engine, session, &tokens[at..]);
                assert_rows(&expected, at, &rest, &format!("{name} rewound to {at}"));
            }
        }
    }
}

#[test]
fn chunks_and_readers_give_the_same_bits() {
    for name in MODELS {
        let tokens = prompt(name);
        let model = packed(name, 4);
        let whole = open(&model.path(), &options());
        let expected = logits(&whole, &tokens);
        let kinds = [ReaderKind::Buffered, ReaderKind::Auto, ReaderKind::Uring];
        for (chunk, kind) in [3, 17, 64].into_iter().zip(kinds) {
            let options = EngineOptions {
                chunk_tokens: Some(chunk),
                reader: ReaderChoice::Kind(kind),
                ..options()
            };
            let engine = open(&model.path(), &options);
            let all = engine
                .prefill(&mut engine.session(), &tokens, Want::All)
                .expect("runs");
            assert_rows(
                &expected,
                0,
                &all,
                &format!("{name}, {kind}, chunks of {chunk}"),
            );
        }
    }
}

/// What opening `qwen4_exp_text` says where a field has another value.
fn refusal(field: &str, value: Value) -> String {
    let dir = tempfile::tempdir().expect("a directory");
    let from = fixture("qwen4_exp_text");
    let text = std::fs::read_to_string(from.join("config.json")).expect("is there");
    let mut config: Value = serde_json::from_str(&text).expect("is JSON");
    config[field] = value;
    let write = |path: &Path, bytes: Vec<u8>| std::fs::write(path, bytes).expect("is written");
    write(&dir.path().join("config.json"), config.to_string().into());
    let weights = std::fs::read(from.join("model.safetensors")).expect("is there");
    write(&dir.path().join("model.safetensors"), weights);
    let refused = Engine::open(dir.path(), &options()).err();
    refused.expect("it is refused").to_string()
}

#[test]
fn tensors_that_do_not_make_up_the_table_are_named() {
    // More rows than the seven tensors have, fewer, and rows of another length.
    for (field, value, tensor) in [
        ("make_ngram_vocab_size_divisible_by", json!(4096), "shard_7"),
        ("ngram_vocab_size_base", json!(200), "shard_"),
        ("ple_embed_dim", json!(96), "shard_0"),
    ] {
        let message = refusal(field, value);
        assert!(message.contains("ngram_embedding"), "{field}: {message}");
        assert!(message.contains(tensor), "{field}: {message}");
    }
}
