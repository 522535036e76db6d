//! The demo model: rounding activations to 8 bits, and keys and values to 16, stays within the
//! numerics contract.

#![allow(clippy::print_stdout)] // the figures for the log

mod common;

use common::{open, options, repository};
use moeflux::text::{ChatTemplate, Message, RenderOptions, Tokenizer};
use moeflux::{Activations, Engine, EngineOptions, KvType, Want};
use serde_json::Value;

/// The evaluation's conversations, each with its answer, as tokens.
fn conversations() -> Vec<Vec<u32>> {
    let dir = repository().join("models/demo");
    let tokenizer = Tokenizer::open(&dir).expect("tokenizer");
    let template = ChatTemplate::open(&dir).expect("template");
    let text = std::fs::read_to_string(dir.join("eval.json")).expect("evaluation");
    let prompts: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let render = |prompt: &Value| {
        let field = |name: &str| prompt[name].as_array().cloned();
        let messages: Vec<Message> = field("messages")
            .expect("messages")
            .iter()
            .map(|m| Message::from_fields(m.as_object().expect("an object").clone()))
            .collect();
        let options = RenderOptions {
            tools: field("tools"),
            add_generation_prompt: true,
            ..RenderOptions::default()
        };
        let mut text = template.render(&messages, &options).expect("renders");
        text.push_str(prompt["expected"].as_str().expect("an answer"));
        tokenizer.encode(&text).expect("encodes")
    };
    prompts.iter().map(render).collect()
}

fn log_softmax(logits: &[f32]) -> Vec<f64> {
    let most = logits.iter().fold(f64::MIN, |m, &x| m.max(f64::from(x)));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - most).exp()).sum();
    logits
        .iter()
        .map(|&x| f64::from(x) - most - sum.ln())
        .collect()
}

/// Kullback-Leibler divergence of `found` from `expected`, in nats, at each position.
fn divergences(expected: &Engine, found: &Engine, tokens: &[u32]) -> Vec<f64> {
    let all = |engine: &Engine| {
        engine
            .prefill(&mut engine.session(), tokens, Want::All)
            .expect("runs")
    };
    let (p, q) = (all(expected), all(found));
    (0..p.rows)
        .map(|row| {
            let (p, q) = (log_softmax(p.row(row)), log_softmax(q.row(row)));
            p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum()
        })
        .collect()
}

/// Mean and 99th percentile of the divergences over the evaluation.
fn divergence(exact: &EngineOptions, rounded: &EngineOptions) -> (f64, f64) {
    let dir = repository().join("models/demo");
    let (exact, rounded) = (open(&dir, exact), open(&dir, rounded));
    let conversations = conversations();
    assert_eq!(conversations.len(), 80);
    let mut all: Vec<f64> = conversations
        .iter()
        .flat_map(|tokens| divergences(&exact, &rounded, tokens))
        .collect();
    all.sort_by(f64::total_cmp);
    let mean = all.iter().sum::<f64>() / all.len() as f64;
    let percentile = all[all.len() * 99 / 100];
    println!(
        "{} positions: mean {mean:.2e}, 99th percentile {percentile:.2e} nats",
        all.len()
    );
    (mean, percentile)
}

#[test]
fn eight_bit_activations_diverge_by_less_than_the_contract_allows() {
    let activations = |activations| EngineOptions {
        activations,
        ..options()
    };
    let (exact, rounded) = (
        activations(Activations::F32),
        activations(Activations::Int8),
    );
    let (mean, _) = divergence(&exact, &rounded);
    assert!(mean < 1e-4, "mean divergence {mean}");
    assert!(
        mean > 0.0,
        "the two ways must differ, or one of them is not what it says"
    );
}

#[test]
fn binary16_keys_and_values_diverge_by_far_less() {
    let kv = |kv| EngineOptions {
        kv,
        activations: Activations::F32,
        ..options()
    };
    let (mean, percentile) = divergence(&kv(KvType::F32), &kv(KvType::F16));
    assert!(mean < 1e-6, "mean divergence {mean}");
    assert!(percentile < 1e-5, "99th percentile {percentile}");
    assert!(mean != 0.0, "the two types must differ");
}
