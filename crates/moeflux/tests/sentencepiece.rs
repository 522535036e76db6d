//! A tokenizer from pieces and scores gives the ids that sentencepiece gives, from a
//! `tokenizer.model` and from GGUF. The fixture is made by
//! `tools/goldens/sentencepiece/make_sentencepiece.py`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use moeflux::text::{TextFiles, TextStream, Tokenizer};
use proptest::prelude::*;
use serde_json::Value;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/sentencepiece")
}

/// The same tokenizer from both forms.
fn both() -> [Tokenizer; 2] {
    let gguf = TextFiles::open(&fixture().join("vocabulary.gguf")).unwrap();
    [
        Tokenizer::open(&fixture()).unwrap(),
        gguf.tokenizer().unwrap(),
    ]
}

fn golden(of: &str) -> Vec<(String, Vec<u32>, Option<String>)> {
    let golden = std::fs::read(fixture().join("golden.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    let case = |case: &Value| {
        let text = case["text"].as_str().unwrap().to_owned();
        let ids = serde_json::from_value(case["ids"].clone()).unwrap();
        (text, ids, case["back"].as_str().map(str::to_owned))
    };
    golden[of].as_array().unwrap().iter().map(case).collect()
}

#[test]
fn ids_are_those_of_sentencepiece() {
    let cases = golden("cases");
    assert!(cases.len() >= 12);
    for tokenizer in both() {
        for (text, ids, back) in &cases {
            // There what a text spells is never a token of the model's own.
            if !text.contains("<unk>") {
                assert_eq!(tokenizer.encode(text).unwrap(), *ids, "{text:?}");
            }
            let found = tokenizer.decode(ids, false).unwrap();
            assert_eq!(Some(&found), back.as_ref(), "{text:?}");
        }
    }
}

#[test]
fn tokens_of_the_models_own_are_found_in_the_text() {
    // Conversions take a user's piece that looks like one for a mark of the model's own.
    for (tokenizer, is_mark) in both().into_iter().zip([false, true]) {
        for (text, ids, _) in golden("marked") {
            assert_eq!(tokenizer.encode(&text).unwrap(), ids, "{text:?}");
        }
        assert_eq!(tokenizer.encode("<unk>").unwrap(), [0]);
        let [start, end, mark] = ["<s>", "</s>", "<|mark|>"].map(|t| tokenizer.token_to_id(t));
        assert_eq!((start, end, mark), (Some(1), Some(2), Some(3)));
        assert!(tokenizer.is_special(1));
        assert_eq!(tokenizer.is_special(3), is_mark);
        let shown = tokenizer.decode(&[1, 3, 2], true).unwrap();
        assert_eq!(shown, if is_mark { "" } else { "<|mark|>" });
    }
}

/// Token by token, with ends of characters missing and tokens left out on the way.
#[test]
fn streams_join_to_the_whole() {
    let cases = golden("cases").into_iter().chain(golden("marked"));
    for tokenizer in both() {
        for (text, ids, _) in cases.clone() {
            for skip_special in [false, true] {
                let mut stream = TextStream::new(&tokenizer, skip_special);
                let pieces = ids.iter().map(|&id| stream.push(id).unwrap());
                let mut joined: String = pieces.collect();
                joined.push_str(&stream.finish().unwrap());
                let whole = tokenizer.decode(&ids, skip_special).unwrap();
                assert_eq!(joined, whole, "{text:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_text_comes_back(texts in prop::collection::vec("[^<\u{2581}]{0,40}", 8)) {
        let [model, gguf] = both();
        for text in texts {
            let ids = model.encode(&text).unwrap();
            prop_assert_eq!(&gguf.encode(&text).unwrap(), &ids);
            prop_assert_eq!(model.decode(&ids, false).unwrap(), text);
        }
    }
}

/// A directory with the fixture's `tokenizer.model` changed, and what it is refused for.
fn refused(change: impl Fn(&mut Vec<u8>)) -> String {
    let dir = tempfile::tempdir().unwrap();
    let mut bytes = std::fs::read(fixture().join("tokenizer.model")).unwrap();
    change(&mut bytes);
    std::fs::write(dir.path().join("tokenizer.model"), bytes).unwrap();
    Tokenizer::open(dir.path()).unwrap_err().to_string()
}

#[test]
fn files_that_are_no_such_model_are_refused() {
    // A later field of the same number stands in its place.
    let trainer = |field: &[u8]| {
        let field = [&[0x12, field.len() as u8], field].concat();
        refused(move |bytes| bytes.extend(&field))
    };
    let normalizer = |field: &[u8]| {
        let field = [&[0x1a, field.len() as u8], field].concat();
        refused(move |bytes| bytes.extend(&field))
    };
    for (message, words) in [
        (trainer(&[0x18, 1]), "trainer_spec.model_type `1`"),
        (trainer(&[0xc0, 1, 1]), "treat_whitespace_as_suffix"),
        (normalizer(&[0x12, 1, 7]), "normalizer_spec.name `identity`"),
        (normalizer(&[0x20, 1]), "remove_extra_whitespaces"),
        (normalizer(&[0x28, 0]), "escape_whitespaces"),
        (normalizer(&[0x0a, 9]), "the normalizer"),
        (refused(|bytes| bytes.truncate(100)), "the outline"),
        (refused(|bytes| bytes[2] = 0xff), "piece 0"),
    ] {
        assert!(message.contains(words), "{words}: {message}");
        assert!(message.contains("tokenizer.model"), "{message}");
    }
}

/// Tokens that files beside the model add, and their say on the space before a text.
#[test]
fn files_beside_it_are_heeded() {
    let dir = tempfile::tempdir().unwrap();
    let model = fixture().join("tokenizer.model");
    std::fs::copy(model, dir.path().join("tokenizer.model")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("added_tokens.json", r#"{"<|im_start|>": 702}"#);
    let config = r#"{"add_prefix_space": false, "added_tokens_decoder":
        {"701": {"content": "<|im_end|>", "special": true}}}"#;
    write("tokenizer_config.json", config);
    let tokenizer = Tokenizer::open(dir.path()).unwrap();
    let ids = tokenizer.encode("<|im_start|>a<|im_end|>").unwrap();
    let a = tokenizer.token_to_id("a").unwrap();
    assert_eq!(ids, [702, a, 701]);
    assert!(tokenizer.is_special(701));
    assert_eq!(tokenizer.decode(&ids, true).unwrap(), "<|im_start|>a");
    write("added_tokens.json", r#"{"<|far|>": 99999999}"#);
    let message = Tokenizer::open(dir.path()).unwrap_err().to_string();
    assert!(message.contains("<|far|>"), "{message}");
}
