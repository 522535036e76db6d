//! A tokenizer from `tiktoken.model`, and from what conversions to GGUF make of it, gives the ids
//! that tiktoken gives. The fixtures are made by `tools/goldens/tiktoken/make_tiktoken.py` and
//! `tools/goldens/gguf-models/make_gguf.py`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use moeflux::text::{TextError, TextFiles, Tokenizer};
use serde_json::Value;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tiktoken")
}

/// A directory with the fixture's files, one of them changed.
fn changed(file: &str, change: impl Fn(String) -> String) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["tiktoken.model", "tokenizer_config.json"] {
        let text = std::fs::read_to_string(fixture().join(name)).unwrap();
        let text = if name == file { change(text) } else { text };
        std::fs::write(dir.path().join(name), text).unwrap();
    }
    dir
}

#[test]
fn ids_are_those_of_tiktoken() {
    let gguf = "../../fixtures/gguf/kimi_vocabulary.gguf";
    let gguf = Path::new(env!("CARGO_MANIFEST_DIR")).join(gguf);
    let gguf = TextFiles::open(&gguf).unwrap().tokenizer().unwrap();
    for tokenizer in [Tokenizer::open(&fixture()).unwrap(), gguf] {
        ids_are_those_of(&tokenizer);
    }
}

fn ids_are_those_of(tokenizer: &Tokenizer) {
    let golden = std::fs::read(fixture().join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() >= 10);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), ids, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
    let end = tokenizer.token_to_id("<|im_end|>").unwrap();
    assert_eq!(tokenizer.decode(&[end], true).unwrap(), "");
}

#[test]
fn files_that_are_no_such_tokenizer_are_refused() {
    let message = |dir: &tempfile::TempDir| -> String {
        let error: TextError = Tokenizer::open(dir.path()).unwrap_err();
        error.to_string()
    };
    let other = changed("tokenizer_config.json", |text| {
        text.replace("TikToken", "Other")
    });
    let refused = message(&other);
    assert!(
        refused.contains("OtherTokenizer") && refused.contains("tokenizer.json"),
        "{refused}"
    );
    for broken in ["IA== 7\n", "no rank\n", "I*== 0\n", "= 0\n"] {
        let dir = changed("tiktoken.model", |_| broken.to_owned());
        let refused = message(&dir);
        assert!(
            refused.contains("tiktoken.model") && refused.contains("line 1"),
            "{refused}"
        );
    }
}
