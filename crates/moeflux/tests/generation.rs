//! The generation loop on the demo model: ends, what the session holds, and going on.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};

use moeflux::generate::{End, Generation, Limits};
use moeflux::sampling::{Sampler, SamplingParams};
use moeflux::text::{ChatTemplate, GenerationConfig, Message, RenderOptions, Tokenizer};
use moeflux::{Engine, EngineOptions, Error, Session};

fn demo() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/demo")
}

fn engine() -> Engine {
    Engine::open(&demo(), &EngineOptions::default()).unwrap()
}

fn sampler() -> Sampler {
    let params = SamplingParams {
        temperature: 0.9,
        seed: 4,
        ..SamplingParams::default()
    };
    Sampler::new(params).unwrap()
}

/// Generates and returns the tokens, the end, and the pending token.
fn generate(
    engine: &Engine,
    session: &mut Session,
    prompt: &[u32],
    limits: Limits,
) -> (Vec<u32>, End, Option<u32>) {
    let mut sampler = sampler();
    let mut generation = Generation::new(engine, session, prompt, &mut sampler, limits).unwrap();
    let mut tokens = Vec::new();
    while let Some(token) = generation.next_token().unwrap() {
        tokens.push(token);
    }
    assert_eq!(
        generation.next_token().unwrap(),
        None,
        "an ended generation stays ended"
    );
    let timings = generation.timings();
    assert_eq!(
        (timings.prompt_tokens, timings.generated_tokens),
        (prompt.len(), tokens.len())
    );
    assert!(timings.prefill_tokens_per_second() > 0.0);
    (tokens, generation.end().unwrap(), generation.pending())
}

const PROMPT: [u32; 9] = [1872, 40, 300, 7, 7, 1100, 250, 31, 8];

#[test]
fn a_generation_continues_by_its_pending_token() {
    let engine = engine();
    let most = |max_tokens| Limits {
        max_tokens: Some(max_tokens),
        ..Limits::default()
    };
    let mut whole = engine.session();
    let (expected, end, pending) = generate(&engine, &mut whole, &PROMPT, most(20));
    assert_eq!(
        (expected.len(), end, pending),
        (20, End::MaxTokens, expected.last().copied())
    );
    assert_eq!(whole.tokens(), [&PROMPT[..], &expected[..19]].concat());

    let mut session = engine.session();
    let (mut tokens, _, pending) = generate(&engine, &mut session, &PROMPT, most(7));
    let mut restored = engine
        .restore(&session.to_bytes().expect("its state is here"))
        .unwrap();
    let (rest, _, _) = generate(&engine, &mut restored, &[pending.unwrap()], most(13));
    tokens.extend(rest);
    assert_eq!(tokens, expected);
    assert_eq!(restored.tokens(), whole.tokens());
}

#[test]
fn stop_tokens_end_it_and_are_not_part_of_it() {
    let engine = engine();
    let mut session = engine.session();
    let limits = Limits {
        max_tokens: Some(20),
        ..Limits::default()
    };
    let (free, _, _) = generate(&engine, &mut session, &PROMPT, limits.clone());
    let stop = free[11];
    let before = free.iter().position(|token| *token == stop).unwrap();
    let mut session = engine.session();
    let limits = Limits {
        stop_tokens: vec![9999, stop],
        ..limits
    };
    let (tokens, end, pending) = generate(&engine, &mut session, &PROMPT, limits);
    assert_eq!(end, End::Stop(stop));
    assert_eq!(tokens, free[..before]);
    assert_eq!(pending, None);
    assert_eq!(session.tokens(), [&PROMPT[..], &tokens[..]].concat());
}

#[test]
fn a_context_ends_it_when_full() {
    let options = EngineOptions {
        max_context: Some(12),
        ..EngineOptions::default()
    };
    let engine = Engine::open(&demo(), &options).unwrap();
    let mut session = engine.session();
    let (tokens, end, _) = generate(&engine, &mut session, &PROMPT, Limits::default());
    // Three tokens fit after the prompt, and one more is known without being computed.
    assert_eq!(
        (tokens.len(), end, session.len()),
        (4, End::ContextFull, 12)
    );
}

#[test]
fn prompts_that_cannot_be_are_refused_before_any_work() {
    let engine = engine();
    let mut session = engine.session();
    let mut sampler = sampler();
    let mut new = |prompt: &[u32]| {
        Generation::new(
            &engine,
            &mut session,
            prompt,
            &mut sampler,
            Limits::default(),
        )
        .err()
    };
    assert!(matches!(new(&[]), Some(Error::StepSize { tokens: 0, .. })));
    assert!(matches!(
        new(&[1, 5000]),
        Some(Error::Token {
            token: 5000,
            position: 1,
            ..
        })
    ));
    let long = vec![1; 10_000];
    assert!(matches!(
        new(&long),
        Some(Error::ContextExceeded { tokens: 10_000, .. })
    ));
    assert!(session.is_empty());
}

#[test]
fn after_an_answer_the_session_is_a_prefix_of_the_next_rendering() {
    let engine = engine();
    let dir = demo();
    let tokenizer = Tokenizer::open(&dir).unwrap();
    let template = ChatTemplate::open(&dir).unwrap();
    let stop_tokens = GenerationConfig::open(&dir, Some(&tokenizer))
        .unwrap()
        .stop_tokens;
    let options = RenderOptions {
        add_generation_prompt: true,
        ..RenderOptions::default()
    };
    let mut messages = vec![Message::new("user", "Which month comes after September?")];
    let prompt = tokenizer
        .encode(&template.render(&messages, &options).unwrap())
        .unwrap();
    let mut session = engine.session();
    let mut greedy = Sampler::new(SamplingParams::default()).unwrap();
    let limits = Limits {
        stop_tokens,
        ..Limits::default()
    };
    let mut generation =
        Generation::new(&engine, &mut session, &prompt, &mut greedy, limits).unwrap();
    let mut tokens = Vec::new();
    while let Some(token) = generation.next_token().unwrap() {
        tokens.push(token);
    }
    assert!(matches!(generation.end(), Some(End::Stop(_))));
    drop(generation);
    let answer = tokenizer.decode(&tokens, true).unwrap();
    assert_eq!(answer, "October comes after September.");
    messages.push(Message::new("assistant", &answer));
    messages.push(Message::new("user", "And then?"));
    let next = tokenizer
        .encode(&template.render(&messages, &options).unwrap())
        .unwrap();
    assert!(next.starts_with(session.tokens()));
    assert_eq!(session.len(), prompt.len() + tokens.len());
}
