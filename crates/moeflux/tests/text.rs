//! Tokenizer, incremental decoding and stop tokens, on a small byte-level tokenizer built here.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use moeflux::text::{GenerationConfig, TextError, TextStream, Tokenizer};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

/// The printable character that byte-level tokenizers use for a byte.
fn byte_character(byte: u8) -> char {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|b| !printable(*b)).count() as u32;
    char::from_u32(256 + before).unwrap()
}

/// One token a byte (id = byte), "he" merged, and three added tokens, two of them special.
fn write_tokenizer(dir: &Path) {
    let mut vocab: Map<String, Value> = (0..=255)
        .map(|b| (byte_character(b).to_string(), json!(b)))
        .collect();
    vocab.insert("he".into(), json!(256));
    let added = |id: u32, content: &str, special: bool| {
        json!({"id": id, "content": content, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false, "special": special})
    };
    let tokenizer = json!({
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0},
        "padding": null,
        "added_tokens": [added(257, "<|end|>", true), added(258, "<|start|>", true),
                         added(259, "<tool>", false)],
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
                          "use_regex": true},
        "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true,
                    "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null,
                  "continuing_subword_prefix": null, "end_of_word_suffix": null,
                  "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": vocab, "merges": [["h", "e"]]},
    });
    std::fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

fn tokenizer() -> Tokenizer {
    let dir = tempfile::tempdir().unwrap();
    write_tokenizer(dir.path());
    Tokenizer::open(dir.path()).unwrap()
}

#[test]
fn text_and_tokens_convert_both_ways() {
    let tokenizer = tokenizer();
    let tokens = tokenizer.encode("<|start|>hello<tool><|end|>").unwrap();
    assert_eq!(tokens, [258, 256, 108, 108, 111, 259, 257]);
    assert_eq!(
        tokenizer.decode(&tokens, false).unwrap(),
        "<|start|>hello<tool><|end|>"
    );
    assert_eq!(tokenizer.decode(&tokens, true).unwrap(), "hello<tool>");
    assert_eq!(tokenizer.vocab_size(), 260);
    assert_eq!(tokenizer.token_to_id("<|end|>"), Some(257));
    assert_eq!(tokenizer.id_to_token(259).as_deref(), Some("<tool>"));
    assert_eq!(tokenizer.id_to_token(5000), None);
    assert_eq!(tokenizer.decode(&[104, 5000], false).unwrap(), "h");
}

fn stream(tokenizer: &Tokenizer, tokens: &[u32], skip_special: bool) -> Vec<String> {
    let mut stream = TextStream::new(tokenizer, skip_special);
    let mut pieces: Vec<String> = tokens
        .iter()
        .map(|token| stream.push(*token).unwrap())
        .collect();
    pieces.push(stream.finish().unwrap());
    pieces
}

#[test]
fn a_character_appears_when_it_is_whole() {
    let tokenizer = tokenizer();
    let tokens = tokenizer.encode("aé🎈<|end|>b").unwrap();
    let pieces = stream(&tokenizer, &tokens, true);
    assert_eq!(pieces, ["a", "", "é", "", "", "", "🎈", "", "b", ""]);
    assert_eq!(stream(&tokenizer, &tokens, false).concat(), "aé🎈<|end|>b");
    // An unfinished character at the end is shown as what it is.
    assert_eq!(
        stream(&tokenizer, &tokens[..2], true),
        ["a", "", "\u{fffd}"]
    );
    // Bytes that are no text do not hold back what follows, or everything for ever.
    let broken: Vec<u32> = [0xff; 500].into_iter().chain([u32::from(b'x')]).collect();
    let pieces = stream(&tokenizer, &broken, true);
    assert!(pieces[..500].concat().chars().count() > 450);
    assert!(pieces.concat().ends_with('x'));
}

proptest! {
    #[test]
    fn pieces_join_to_the_whole_text(text in "\\PC{0,60}", special in any::<bool>()) {
        let tokenizer = tokenizer();
        let tokens = tokenizer.encode(&text).unwrap();
        prop_assert_eq!(tokenizer.decode(&tokens, false).unwrap(), text.as_str());
        let whole = tokenizer.decode(&tokens, special).unwrap();
        prop_assert_eq!(stream(&tokenizer, &tokens, special).concat(), whole);
    }

    #[test]
    fn pieces_join_to_the_whole_text_for_any_tokens(
        tokens in prop::collection::vec(0_u32..262, 0..50),
    ) {
        let tokenizer = tokenizer();
        let whole = tokenizer.decode(&tokens, false).unwrap();
        prop_assert_eq!(stream(&tokenizer, &tokens, false).concat(), whole);
    }
}

#[test]
fn stop_tokens_come_from_the_first_file_that_names_them() {
    let dir = tempfile::tempdir().unwrap();
    write_tokenizer(dir.path());
    let tokenizer = Tokenizer::open(dir.path()).unwrap();
    let write = |name: &str, value: Value| {
        std::fs::write(dir.path().join(name), value.to_string()).unwrap();
    };
    let open = || GenerationConfig::open(dir.path(), Some(&tokenizer));
    assert_eq!(open().unwrap(), GenerationConfig::default());

    write(
        "tokenizer_config.json",
        json!({"eos_token": {"content": "<|end|>"}}),
    );
    assert_eq!(open().unwrap().stop_tokens, [257]);
    write("config.json", json!({"text_config": {"eos_token_id": 5}}));
    assert_eq!(open().unwrap().stop_tokens, [5]);
    write(
        "config.json",
        json!({"eos_token_id": 6, "text_config": {"eos_token_id": 5}}),
    );
    assert_eq!(open().unwrap().stop_tokens, [6]);
    write(
        "generation_config.json",
        json!({"temperature": 0.6, "top_k": 20, "do_sample": true}),
    );
    let config = open().unwrap();
    assert_eq!(config.stop_tokens, [6]);
    assert_eq!(config.suggested.temperature, Some(0.6));
    assert_eq!(config.suggested.top_k, Some(20));
    assert_eq!(config.suggested.top_p, None);
    write("generation_config.json", json!({"eos_token_id": [7, 8]}));
    assert_eq!(open().unwrap().stop_tokens, [7, 8]);
    write("generation_config.json", json!({"eos_token_id": 9}));
    assert_eq!(open().unwrap().stop_tokens, [9]);

    for bad in [
        json!({"eos_token_id": -1}),
        json!({"eos_token_id": ["x"]}),
        json!({"top_p": "a"}),
    ] {
        write("generation_config.json", bad);
        let error = open().unwrap_err().to_string();
        assert!(
            error.contains("generation_config.json") && error.contains("field"),
            "{error}"
        );
    }
}

#[test]
fn bad_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = Tokenizer::open(dir.path()).unwrap_err();
    assert!(matches!(error, TextError::Missing { .. }));
    assert!(error.to_string().contains("tokenizer.json"), "{error}");
    for bad in ["", "{}", "[1]", "{\"model\": {\"type\": \"Nonsense\"}}"] {
        std::fs::write(dir.path().join("tokenizer.json"), bad).unwrap();
        let error = Tokenizer::open(dir.path()).unwrap_err();
        assert!(matches!(error, TextError::Invalid { .. }), "{bad}: {error}");
        assert!(error.to_string().contains("tokenizer.json"), "{error}");
    }
    std::fs::write(dir.path().join("tokenizer.json"), [0xff, 0xfe]).unwrap();
    let error = Tokenizer::open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("UTF-8"), "{error}");
}
