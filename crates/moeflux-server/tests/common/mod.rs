//! The demo model, opened for a test.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use moeflux::text::{GenerationConfig, TextFiles, Tokenizer};
use moeflux::{Engine, EngineOptions};

pub fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo")
}

pub fn engine(options: &EngineOptions) -> Engine {
    Engine::open(&demo(), options).unwrap()
}

pub fn options() -> EngineOptions {
    EngineOptions {
        memory_bytes: Some(512 << 20),
        measure_disk: false,
        threads: Some(2),
        ..EngineOptions::default()
    }
}

pub fn text_files() -> (Tokenizer, GenerationConfig) {
    let files = TextFiles::open(&demo()).unwrap();
    let tokenizer = files.tokenizer().unwrap();
    let generation = files.generation_config(&tokenizer).unwrap();
    (tokenizer, generation)
}

/// A question as the demo's chat template renders it.
pub fn question(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
    let text = format!("<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n");
    tokenizer.encode(&text).unwrap()
}
