//! What tests of the demo model share: its prompts as tokens, and answers.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::path::{Path, PathBuf};

use moeflux::draft::{Speculate, Speculation};
use moeflux::generate::{Generation, Limits};
use moeflux::sampling::{Sampler, SamplingParams};
use moeflux::text::{ChatTemplate, GenerationConfig, Message, RenderOptions, Tokenizer};
use moeflux::{Engine, Error};

use crate::common::{open, options, repository};

/// Where it lies.
pub fn dir() -> PathBuf {
    repository().join("models/demo")
}

/// Copies the files of a model.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("makes");
    for entry in std::fs::read_dir(from).expect("reads") {
        let path = entry.expect("readable").path();
        let target = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy(&path, &target),
            false => _ = std::fs::copy(&path, &target).expect("copies"),
        }
    }
}

/// The demo with its chat template, tokenizer and stop tokens.
pub struct Demo {
    pub engine: Engine,
    template: ChatTemplate,
    tokenizer: Tokenizer,
    pub stop_tokens: Vec<u32>,
}

impl Demo {
    pub fn open() -> Demo {
        let dir = dir();
        let tokenizer = Tokenizer::open(&dir).expect("tokenizer");
        let config = GenerationConfig::open(&dir, Some(&tokenizer)).expect("configuration");
        Demo {
            engine: open(&dir, &options()),
            template: ChatTemplate::open(&dir).expect("template"),
            tokenizer,
            stop_tokens: config.stop_tokens,
        }
    }

    /// The first evaluation prompts of a skill.
    pub fn prompts(&self, skill: &str, count: usize) -> Vec<Vec<u32>> {
        let text = std::fs::read_to_string(dir().join("eval.json")).expect("evaluation");
        let all: Vec<serde_json::Value> = serde_json::from_str(&text).expect("JSON");
        let render = |prompt: &serde_json::Value| {
            let messages = prompt["messages"].as_array().expect("messages").iter();
            let messages: Vec<Message> = messages
                .map(|m| Message::from_fields(m.as_object().expect("an object").clone()))
                .collect();
            let options = RenderOptions {
                tools: prompt["tools"].as_array().cloned(),
                add_generation_prompt: true,
                ..RenderOptions::default()
            };
            let text = self.template.render(&messages, &options).expect("renders");
            self.tokenizer.encode(&text).expect("encodes")
        };
        let found = all.iter().filter(|prompt| prompt["skill"] == skill);
        found.take(count).map(render).collect()
    }
}

/// What is asked for, and how it is answered.
#[derive(Clone)]
pub struct Request {
    pub prompt: Vec<u32>,
    pub sampling: SamplingParams,
    pub limits: Limits,
}

/// An answer that was had in the end.
#[derive(Debug)]
pub struct Answered {
    pub tokens: Vec<u32>,
    /// The session as bytes.
    pub session: Vec<u8>,
    /// What went wrong before.
    pub errors: Vec<Error>,
}

impl Request {
    /// Answers as somebody does who tries again until it works; `between` sees the number of tokens
    /// so far before each try, and the error of the last one.
    pub fn answer(
        &self,
        engine: &Engine,
        speculate: Speculate,
        between: &mut dyn FnMut(usize, Option<&Error>),
    ) -> Answered {
        let mut session = engine.session();
        let mut sampler = Sampler::new(self.sampling.clone()).expect("valid");
        let mut speculation = Speculation::new(speculate);
        let limits = self.limits.clone();
        let mut generation =
            Generation::new(engine, &mut session, &self.prompt, &mut sampler, limits)
                .expect("a prompt")
                .speculate(&mut speculation);
        let (mut tokens, mut errors) = (Vec::new(), Vec::new());
        let mut failed = false;
        loop {
            between(tokens.len(), errors.last().filter(|_| failed));
            match generation.next_token() {
                Ok(Some(token)) => tokens.push(token),
                Ok(None) => break,
                Err(error @ (Error::Expert(_) | Error::MemoryFull { .. })) => {
                    errors.push(error);
                    assert!(errors.len() < 10_000, "it never works: {errors:?}");
                    failed = true;
                    continue;
                }
                Err(error) => unreachable!("another error: {error}"),
            }
            failed = false;
        }
        drop(generation);
        Answered {
            tokens,
            session: session.to_bytes().expect("its state is here"),
            errors,
        }
    }
}
