//! The demo model, opened for a test.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use moeflux::generate::{Generation, Limits as Ends};
use moeflux::sampling::{Sampler, SamplingParams};
use moeflux::text::{GenerationConfig, TextFiles, Tokenizer};
use moeflux::{Engine, EngineOptions};
use moeflux_server::scheduler::{End, Event, JobError};
use tokio::sync::mpsc::UnboundedReceiver;

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

/// What a generation alone gives.
pub fn alone(engine: &Engine, prompt: &[u32], params: SamplingParams, max: usize) -> Vec<u32> {
    let (mut session, mut sampler) = (engine.session(), Sampler::new(params).unwrap());
    let ends = Ends {
        max_tokens: Some(max),
        ..Ends::default()
    };
    let mut run = Generation::new(engine, &mut session, prompt, &mut sampler, ends).unwrap();
    let mut tokens = Vec::new();
    while let Some(token) = run.next_token().unwrap() {
        tokens.push(token);
    }
    tokens
}

/// All answers of a job and its end.
pub fn collect(
    mut events: UnboundedReceiver<Event>,
    choices: usize,
) -> Result<Vec<(Vec<u32>, End)>, JobError> {
    let mut tokens = vec![Vec::new(); choices];
    let mut ends = vec![None; choices];
    while ends.iter().any(Option::is_none) {
        match events.blocking_recv().unwrap() {
            Event::Begin { .. } => {}
            Event::Token { choice, sampled } => tokens[choice].push(sampled.token),
            Event::End { choice, end } => ends[choice] = Some(end),
            Event::Failed(error) => return Err(error),
        }
    }
    assert_eq!(events.blocking_recv(), None, "nothing follows the ends");
    Ok(tokens.into_iter().zip(ends.into_iter().flatten()).collect())
}
