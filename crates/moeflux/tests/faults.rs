//! What goes wrong is said clearly, loses nothing, and leaves the engine fit for the next step.

mod common;

use std::os::unix::fs::FileExt;
use std::sync::Arc;

use common::{assert_rows, fixture, logits, open, options, packed, prompt, run};
use moeflux::experts::{BufferedReader, FaultPlan, FaultyReader};
use moeflux::{Engine, EngineOptions, Error, PackOptions, ReaderChoice, Span, Want, pack};

const MODEL: &str = "qwen3_5_moe_text";

/// The error of opening a model, as text.
fn open_error(dir: &std::path::Path, options: &EngineOptions) -> String {
    let error = Engine::open(dir, options)
        .err()
        .expect("the model must not open");
    error.to_string()
}

#[test]
fn a_failed_read_leaves_the_session_as_it_was() {
    let model = packed(MODEL, 4);
    let tokens = &prompt(MODEL)[..60];
    let expected = logits(&open(&model.path(), &options()), tokens);
    let mut failures = 0;
    for seed in 0..6 {
        // A place fails on its first read and on the retry of the same read is fine; so that the
        // step fails, the fault is persistent in one layer's file.
        let plan = FaultPlan {
            seed,
            errors: 0.2,
            persistent: true,
            ..FaultPlan::default()
        };
        let inner = Arc::new(BufferedReader::open(&model.expert_files()).expect("opens"));
        let faulty = Arc::new(FaultyReader::new(inner, plan));
        let options = EngineOptions {
            reader: ReaderChoice::Custom(faulty),
            ..options()
        };
        let engine = open(&model.path(), &options);
        let mut session = engine.session();
        let mut at = 0;
        while at < tokens.len() {
            let before = session.to_bytes();
            let step = &tokens[at..at + 1];
            let mut spans = [Span {
                session: &mut session,
                tokens: step,
                want: Want::All,
            }];
            match engine.forward(&mut spans) {
                Ok(found) => {
                    assert_rows(&expected, at, &found[0], &format!("seed {seed}"));
                    at += 1;
                }
                Err(Error::Expert(e)) => {
                    failures += 1;
                    let text = e.to_string();
                    assert!(text.contains("layer") && text.contains("expert"), "{text}");
                    assert_eq!(session.to_bytes(), before, "seed {seed}, position {at}");
                    break;
                }
                Err(e) => panic!("another error: {e}"),
            }
        }
        // The session that survived goes on in an engine whose disk is well.
        let well = open(&model.path(), &common::options());
        let mut session = well.restore(&session.to_bytes()).expect("restores");
        let rest = run(&well, &mut session, &tokens[at..]);
        assert_rows(
            &expected,
            at,
            &rest,
            &format!("seed {seed} after the failure"),
        );
    }
    assert!(failures > 0, "the plan must make at least one step fail");
}

#[test]
fn transient_errors_are_retried_and_change_nothing() {
    let model = packed(MODEL, 4);
    let tokens = &prompt(MODEL)[..30];
    let expected = logits(&open(&model.path(), &options()), tokens);
    let plan = FaultPlan {
        seed: 3,
        errors: 0.3,
        flipped_bits: 0.3,
        ..FaultPlan::default()
    };
    let inner = Arc::new(BufferedReader::open(&model.expert_files()).expect("opens"));
    let reader = ReaderChoice::Custom(Arc::new(FaultyReader::new(inner, plan)));
    let engine = open(
        &model.path(),
        &EngineOptions {
            reader,
            ..options()
        },
    );
    assert_rows(
        &expected,
        0,
        &logits(&engine, tokens),
        "with transient faults",
    );
    assert!(engine.stats().experts.retries > 0, "faults happened");
}

#[test]
fn a_flipped_byte_names_file_layer_and_expert() {
    let model = packed(MODEL, 4);
    let file = model.expert_files().remove(2);
    let handle = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&file)
        .expect("opens");
    let packed = moeflux::formats::PackedModel::open(&model.path()).expect("opens");
    let offset = packed.layers[&2].records[5].offset + 100;
    let mut byte = [0];
    handle.read_exact_at(&mut byte, offset).expect("reads");
    handle.write_all_at(&[byte[0] ^ 1], offset).expect("writes");
    let engine = open(&model.path(), &options());
    let tokens = prompt(MODEL);
    let error = engine
        .prefill(&mut engine.session(), &tokens, Want::Last)
        .expect_err("the record is corrupt")
        .to_string();
    assert!(error.contains("layer-002.safetensors"), "{error}");
    assert!(
        error.contains("layer 2") && error.contains("expert 5"),
        "{error}"
    );
}

#[test]
fn bad_tokens_and_too_many_are_refused() {
    let engine = open(
        &fixture(MODEL),
        &EngineOptions {
            max_context: Some(10),
            ..options()
        },
    );
    let mut session = engine.session();
    let error = engine
        .prefill(&mut session, &[1, 9999], Want::Last)
        .expect_err("no such token");
    assert!(
        matches!(
            error,
            Error::Token {
                token: 9999,
                position: 1,
                vocab: 256
            }
        ),
        "{error}"
    );
    let error = engine
        .prefill(&mut session, &[1; 11], Want::Last)
        .expect_err("too many");
    assert!(
        matches!(
            error,
            Error::ContextExceeded {
                tokens: 11,
                limit: 10
            }
        ),
        "{error}"
    );
    let error = engine
        .prefill(&mut session, &[], Want::Last)
        .expect_err("none");
    assert!(
        matches!(error, Error::StepSize { tokens: 0, .. }),
        "{error}"
    );
    assert!(session.is_empty());
    engine
        .prefill(&mut session, &[1; 10], Want::Last)
        .expect("exactly the context");
    let other = open(&fixture(MODEL), &options());
    let error = other
        .prefill(&mut session, &[1], Want::Last)
        .expect_err("another engine's");
    assert!(matches!(error, Error::ForeignSession), "{error}");
}

#[test]
fn damaged_and_foreign_snapshots_are_refused() {
    let engine = open(&fixture(MODEL), &options());
    let mut session = engine.session();
    run(&engine, &mut session, &prompt(MODEL)[..20]);
    let bytes = session.to_bytes();
    for cut in [0, 7, 8, 100, bytes.len() - 1] {
        let error = engine
            .restore(&bytes[..cut])
            .err()
            .expect("truncated")
            .to_string();
        assert!(error.contains("cannot restore the session"), "{error}");
    }
    for at in [0, 9, 17, 30, bytes.len() / 2, bytes.len() - 1] {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        assert!(engine.restore(&bad).is_err(), "byte {at}");
    }
    let other = open(&fixture("qwen3_moe"), &options());
    let error = other
        .restore(&bytes)
        .err()
        .expect("another model's")
        .to_string();
    assert!(error.contains("another model"), "{error}");
}

#[test]
fn broken_model_directories_are_explained() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let error = open_error(dir.path(), &options());
    assert!(error.contains("config.json"), "{error}");

    let copy = |name: &str| {
        for entry in std::fs::read_dir(fixture(name)).expect("fixture") {
            let entry = entry.expect("readable");
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copies");
        }
    };
    let edit = |from: &str, to: &str| {
        let path = dir.path().join("config.json");
        let text = std::fs::read_to_string(&path).expect("readable");
        assert!(text.contains(from), "{from}");
        std::fs::write(&path, text.replace(from, to)).expect("writes");
    };
    copy("qwen3_moe");
    edit("\"qwen3_moe\"", "\"llama\"");
    let error = open_error(dir.path(), &options());
    assert!(
        error.contains("`llama`") && error.contains("qwen3_5_moe_text"),
        "{error}"
    );

    copy("qwen3_moe");
    edit("\"hidden_size\": 64", "\"hidden_size\": \"many\"");
    let error = open_error(dir.path(), &options());
    assert!(
        error.contains("hidden_size") && error.contains("config.json"),
        "{error}"
    );

    copy("qwen3_moe");
    edit("\"hidden_size\": 64", "\"hidden_size\": 128");
    let error = open_error(dir.path(), &options());
    assert!(error.contains("model.embed_tokens.weight"), "{error}");
    assert!(error.contains("128") && error.contains("64"), "{error}");

    copy("qwen3_moe");
    edit("\"num_experts\": 8", "\"num_experts\": 9");
    let error = open_error(dir.path(), &options());
    assert!(
        error.contains("mlp.gate.weight") || error.contains("experts.8"),
        "{error}"
    );

    copy("qwen3_moe");
    std::fs::remove_file(dir.path().join("model-00002-of-00002.safetensors")).expect("removes");
    let error = open_error(dir.path(), &options());
    assert!(
        error.contains("model-00002-of-00002.safetensors"),
        "{error}"
    );

    copy("qwen3_moe");
    let shard = dir.path().join("model-00002-of-00002.safetensors");
    let file = std::fs::File::options()
        .write(true)
        .open(&shard)
        .expect("opens");
    file.set_len(100_000).expect("truncates");
    let error = open_error(dir.path(), &options());
    assert!(
        error.contains("model-00002-of-00002.safetensors"),
        "{error}"
    );
}

#[test]
fn pack_refuses_what_it_cannot_do() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let refuse = |options: PackOptions, what: &str| {
        let dst = dir.path().join("out");
        let error = pack(&fixture(MODEL), &dst, &options, &mut |_| {}).expect_err(what);
        assert!(error.to_string().contains(what), "{error}");
        assert!(!dst.exists());
    };
    refuse(
        PackOptions {
            bits: 7,
            ..PackOptions::default()
        },
        "--bits",
    );
    refuse(
        PackOptions {
            group: 48,
            ..PackOptions::default()
        },
        "--group",
    );
    refuse(
        PackOptions {
            head_bits: Some(1),
            ..PackOptions::default()
        },
        "--head-bits",
    );
    let once = packed(MODEL, 4);
    let again = dir.path().join("again");
    let error = pack(&once.path(), &again, &PackOptions::default(), &mut |_| {})
        .expect_err("already packed")
        .to_string();
    assert!(error.contains("packed already"), "{error}");
    let error = pack(
        &fixture(MODEL),
        &once.path(),
        &PackOptions::default(),
        &mut |_| {},
    )
    .expect_err("the destination exists")
    .to_string();
    assert!(error.contains("exists already"), "{error}");
}

/// Every number, text and list of a configuration replaced by others that may not be there.
#[test]
fn any_configuration_is_opened_or_explained() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let strange = [
        "null",
        "true",
        "0",
        "-1",
        "1",
        "3",
        "1048576",
        "1099511627776",
        "1e308",
        "\"x\"",
        "[]",
        "[1]",
        "[\"x\"]",
        "{}",
    ];
    let mut refused = 0;
    for name in ["qwen3_5_moe", "qwen3_5_moe_text", "qwen3_moe"] {
        for entry in std::fs::read_dir(fixture(name)).expect("fixture") {
            let entry = entry.expect("readable");
            std::fs::copy(entry.path(), dir.path().join(entry.file_name())).expect("copies");
        }
        let path = dir.path().join("config.json");
        let text = std::fs::read_to_string(&path).expect("readable");
        let whole: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        for pointer in pointers("", &whole) {
            for value in strange {
                let mut config = whole.clone();
                *config.pointer_mut(&pointer).expect("it is there") =
                    serde_json::from_str(value).expect("JSON");
                std::fs::write(&path, config.to_string()).expect("writes");
                let opened = Engine::open(dir.path(), &options())
                    .and_then(|engine| engine.prefill(&mut engine.session(), &[1, 2], Want::Last));
                if let Err(error) = opened {
                    refused += 1;
                    let message = error.to_string();
                    assert!(
                        !message.contains("internal error"),
                        "{pointer} {value}: {message}"
                    );
                }
            }
        }
    }
    assert!(refused > 500, "{refused}");
}

/// The places of all values in `value`, below `place`.
fn pointers(place: &str, value: &serde_json::Value) -> Vec<String> {
    let Some(object) = value.as_object() else {
        return vec![place.to_owned()];
    };
    let mut all = if place.is_empty() {
        vec![]
    } else {
        vec![place.to_owned()]
    };
    all.extend(
        object
            .iter()
            .flat_map(|(key, value)| pointers(&format!("{place}/{key}"), value)),
    );
    all
}
