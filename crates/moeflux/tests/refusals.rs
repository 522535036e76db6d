//! What is wrong with a model, a request or an option is said clearly, and refused before it does
//! harm.

mod common;

use common::{fixture, open, options, packed, prompt, run};
use moeflux::{Engine, EngineOptions, Error, PackOptions, Want, pack};

const MODEL: &str = "qwen3_5_moe_text";

/// The error of opening a model, as text.
fn open_error(dir: &std::path::Path, options: &EngineOptions) -> String {
    let error = Engine::open(dir, options)
        .err()
        .expect("the model must not open");
    error.to_string()
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
    let bytes = session.to_bytes().expect("its state is here");
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
            group: Some(48),
            ..PackOptions::default()
        },
        "--group",
    );
    refuse(
        PackOptions {
            bits: 8,
            group: Some(PackOptions::BLOCKS),
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
