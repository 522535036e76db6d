//! Tables of n-grams that are read by rows: the same bits whatever reads them, a step that cannot
//! read one does not happen, and tensors that do not make up the table are named.

mod common;

use std::path::Path;

use common::{assert_rows, fixture, logits, open, options, packed, prompt, run};
use moeflux::{Engine, EngineOptions, ReaderChoice, ReaderKind, Span, Want};
use serde_json::{Value, json};

/// Tables in seven tensors, and a table in one.
const MODELS: [&str; 2] = ["qwen4_exp_text", "qwen4_exp"];

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

#[test]
fn a_row_that_cannot_be_read_fails_its_step_alone() {
    let name = MODELS[0];
    let (model, tokens) = (packed(name, 4), prompt(name));
    let engine = open(&model.path(), &options());
    let expected = logits(&engine, &tokens);
    // Another engine, whose tables have no rows in memory yet but for those of the first tokens.
    let engine = open(&model.path(), &options());
    let mut session = engine.session();
    run(&engine, &mut session, &tokens[..20]);
    let file = model.path().join("dense.safetensors");
    let bytes = std::fs::read(&file).expect("is there");
    let cut = std::fs::File::options().write(true).open(&file);
    cut.and_then(|cut| cut.set_len(8)).expect("is cut");
    let mut spans = [Span {
        session: &mut session,
        tokens: &tokens[20..],
        want: Want::All,
        is_prompt: false,
    }];
    let error = engine.forward(&mut spans).expect_err("rows are gone");
    let message = error.to_string();
    assert!(message.contains("dense.safetensors"), "{message}");
    assert_eq!(session.len(), 20, "the step did not happen");

    std::fs::write(&file, bytes).expect("is written");
    let rest = run(&engine, &mut session, &tokens[20..]);
    assert_rows(&expected, 20, &rest, "after a step that failed");
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
