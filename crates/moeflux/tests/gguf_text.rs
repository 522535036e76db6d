//! Tokenizer, chat template and stop tokens from GGUF metadata: the same as from the files of the
//! checkpoint that the GGUF file was made from.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod common;
#[path = "common/gguf.rs"]
mod gguf;

use std::path::Path;

use common::repository;
use gguf::{Copy, file};
use moeflux::text::{
    ChatTemplate, GenerationConfig, Message, RenderOptions, TextError, TextFiles, Tokenizer,
};
use proptest::prelude::*;
use serde_json::Value;

const VOCABULARY: &str = "demo_vocabulary.gguf";

fn ours() -> Tokenizer {
    TextFiles::open(&file(VOCABULARY))
        .unwrap()
        .tokenizer()
        .unwrap()
}

fn theirs() -> Tokenizer {
    Tokenizer::open(&repository().join("models/demo")).unwrap()
}

/// The conversations and answers that the demo model is evaluated on.
fn prompts() -> Vec<Value> {
    let text = std::fs::read_to_string(repository().join("models/demo/eval.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[track_caller]
fn same(ours: &Tokenizer, theirs: &Tokenizer, text: &str) {
    let ids = theirs.encode(text).unwrap();
    assert_eq!(ours.encode(text).unwrap(), ids, "{text:?}");
    for skip_special in [false, true] {
        let back = theirs.decode(&ids, skip_special).unwrap();
        assert_eq!(ours.decode(&ids, skip_special).unwrap(), back, "{text:?}");
    }
}

fn render(template: &ChatTemplate, prompt: &Value) -> String {
    let messages = prompt["messages"].as_array().unwrap();
    let message = |m: &Value| Message::from_fields(m.as_object().unwrap().clone());
    let messages: Vec<Message> = messages.iter().map(message).collect();
    let options = RenderOptions {
        tools: prompt["tools"].as_array().cloned(),
        add_generation_prompt: true,
        ..RenderOptions::default()
    };
    template.render(&messages, &options).unwrap()
}

#[test]
fn conversations_become_the_same_tokens() {
    let (ours, theirs) = (ours(), theirs());
    let template = TextFiles::open(&file(VOCABULARY))
        .unwrap()
        .chat_template()
        .unwrap();
    let original = ChatTemplate::open(&repository().join("models/demo")).unwrap();
    let prompts = prompts();
    assert_eq!(prompts.len(), 80);
    for prompt in &prompts {
        let text = render(&template, prompt);
        assert_eq!(text, render(&original, prompt));
        same(&ours, &theirs, &text);
        same(&ours, &theirs, prompt["answer"].as_str().unwrap());
    }
}

const ODD_TEXTS: [&str; 14] = [
    "",
    " ",
    "\n\n \t\r\n  x",
    "Don't you'LL I'M 'tis",
    "1234567890 3.14 1,000 ٣٤ ²",
    "naïve café cafe\u{301} A\u{30a} Å ﬁ",
    "你好，世界。 привет мир हिन्दी ไทย 한국어",
    "🚀👩‍👩‍👧‍👦 e\u{fe0f} \u{200d}",
    "fn main() {\n    println!(\"{}\", a[0] + 1);\n}\n",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "<think></think><tool_call>{\"a\": 1}</tool_call><|endoftext|>",
    "<|im_start|<|im_end|>> <think",
    "Ġ Ċ [PAD1900] \u{0} \u{7f} \u{ffff}",
    "x    y  z\t\tw   ",
];

/// Texts that the rules of Qwen 2 and 3.5 cut differently.
const MARKED_TEXTS: [&str; 3] = ["हिन्दी में लिखा", "ภาษาไทยที่มีสระ", "שָׁלוֹם עֲלֵיכֶם العَرَبِيَّة"];

#[test]
fn odd_texts_become_the_same_tokens() {
    let (ours, theirs) = (ours(), theirs());
    for text in ODD_TEXTS {
        same(&ours, &theirs, text);
    }
    assert_eq!(ours.vocab_size(), theirs.vocab_size());
    for id in 0..2048 {
        assert_eq!(ours.id_to_token(id), theirs.id_to_token(id), "{id}");
    }
}

/// Words with combining marks, by a tokenizer that knows some.
#[test]
fn the_other_rule_for_words_is_as_published() {
    const MARKED: &str = "marked_vocabulary.gguf";
    let open = |path: &Path| TextFiles::open(path).unwrap().tokenizer().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("tokenizer.json");
    std::fs::copy(file("marked_tokenizer.json"), json).unwrap();
    let (ours, theirs) = (open(&file(MARKED)), open(dir.path()));
    let texts = ODD_TEXTS.iter().chain(&MARKED_TEXTS);
    for text in texts {
        same(&ours, &theirs, text);
    }
    let copy = Copy::with_text(MARKED, "tokenizer.ggml.pre", "qwen2");
    let other = open(&copy.path());
    for text in MARKED_TEXTS {
        assert_ne!(
            ours.encode(text).unwrap(),
            other.encode(text).unwrap(),
            "{text}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn any_text_becomes_the_same_tokens(texts in prop::collection::vec(".{0,40}", 8)) {
        let (ours, theirs) = (ours(), theirs());
        for text in texts {
            same(&ours, &theirs, &text);
        }
    }
}

#[test]
fn generations_end_at_the_same_tokens() {
    let files = TextFiles::open(&file(VOCABULARY)).unwrap();
    let mut found = files.generation_config(&ours()).unwrap().stop_tokens;
    let dir = repository().join("models/demo");
    let mut expected = GenerationConfig::open(&dir, Some(&theirs()))
        .unwrap()
        .stop_tokens;
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);
}

/// Directories are read as before.
#[test]
fn directories_work_as_before() {
    let files = TextFiles::open(&repository().join("models/demo")).unwrap();
    let tokenizer = files.tokenizer().unwrap();
    same(&tokenizer, &theirs(), "Which day comes after Tuesday?");
    assert!(
        !files
            .generation_config(&tokenizer)
            .unwrap()
            .stop_tokens
            .is_empty()
    );
    files.chat_template().unwrap();
}

fn tokenizer_error(path: &Path) -> TextError {
    TextFiles::open(path).unwrap().tokenizer().unwrap_err()
}

#[test]
fn a_file_without_tokenizer_says_what_to_do() {
    let error = tokenizer_error(&file("qwen3_moe.gguf"));
    let message = error.to_string();
    assert!(matches!(error, TextError::NoTokenizer { .. }), "{message}");
    for words in ["qwen3_moe.gguf", "token ids", "convert"] {
        assert!(message.contains(words), "{message}");
    }
    let template = TextFiles::open(&file("qwen3_moe.gguf"))
        .unwrap()
        .chat_template();
    assert!(matches!(template, Err(TextError::NoTemplate { .. })));
}

#[test]
fn kinds_of_tokenizers_that_are_not_there_are_named() {
    let copy = Copy::with_text(VOCABULARY, "tokenizer.ggml.model", "bert");
    let message = tokenizer_error(&copy.path()).to_string();
    for words in ["copy.gguf", "tokenizer.ggml.model", "`bert`", "gpt2"] {
        assert!(message.contains(words), "{message}");
    }
    let copy = Copy::with_text(VOCABULARY, "tokenizer.ggml.pre", "other");
    let message = tokenizer_error(&copy.path()).to_string();
    for words in [
        "copy.gguf",
        "tokenizer.ggml.pre",
        "`other`",
        "qwen2, deepseek-r1-qwen, qwen35",
    ] {
        assert!(message.contains(words), "{message}");
    }
    for (key, other) in [
        ("tokenizer.ggml.pre", "tokenizer.ggml.prx"),
        ("tokenizer.ggml.tokens", "tokenizer.ggml.tokenz"),
        ("tokenizer.ggml.merges", "tokenizer.ggml.mergez"),
    ] {
        let copy = Copy::patched(VOCABULARY, key, other);
        let message = tokenizer_error(&copy.path()).to_string();
        assert!(
            message.contains(key) && message.contains("copy.gguf"),
            "{message}"
        );
    }
    // A merge of something that is no token, and one that is no pair.
    for (from, to) in [("Ġ \"", "Ġ\u{1}\u{1}"), ("Ġ \"", "Ġ \u{1}")] {
        let copy = Copy::patched(VOCABULARY, from, to);
        let message = tokenizer_error(&copy.path()).to_string();
        assert!(message.contains("copy.gguf"), "{message}");
    }
}
