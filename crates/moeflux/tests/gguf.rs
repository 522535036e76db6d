//! GGUF files as llama.cpp's converter writes them: the same answers as `transformers` gives and
//! as the checkpoint gives that they came from, and clear errors where something is off.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod common;
#[path = "common/gguf.rs"]
mod gguf;

use std::path::PathBuf;

use common::{bits, fixture, logits, open, run};
use gguf::{Copy, MADE_FROM, WITH_ANSWERS, file};
use moeflux::formats::Checkpoint;
use moeflux::{Activations, Engine, EngineOptions, Error, KvType, Logits, inspect, model_path};

/// Nothing is rounded that the file has not rounded.
fn options() -> EngineOptions {
    EngineOptions {
        kv: KvType::F32,
        activations: Activations::F32,
        ..common::options()
    }
}

/// The reference's prompt and logits.
struct Golden {
    tokens: Vec<u32>,
    logits: Vec<f32>,
}

fn golden(path: PathBuf) -> Golden {
    let answers = Checkpoint::open_files(vec![path]).unwrap();
    let info = answers.require("tokens").unwrap();
    let mut bytes = vec![0; info.bytes as usize];
    answers.read(info, 0, &mut bytes).unwrap();
    let tokens = bytes.as_chunks().0.iter();
    let shape = answers.require("logits").unwrap().shape.clone();
    Golden {
        tokens: tokens.map(|b| u32::from_le_bytes(*b)).collect(),
        logits: answers.read_f32("logits", &shape).unwrap(),
    }
}

/// Relative L2 of each position.
fn distances(ours: &Logits, reference: &[f32]) -> Vec<f64> {
    assert_eq!(ours.values.len(), reference.len());
    let rows = reference.chunks_exact(ours.vocab).enumerate();
    let relative = |(row, reference): (usize, &[f32])| {
        let pairs = ours.row(row).iter().zip(reference);
        let error: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let size: f64 = reference.iter().map(|&b| f64::from(b).powi(2)).sum();
        (error / size).sqrt()
    };
    rows.map(relative).collect()
}

/// Relative L2 of the worst position.
fn distance(ours: &Logits, reference: &[f32]) -> f64 {
    // NaN must not get lost.
    let worse = |worst, x| if x <= worst { worst } else { x };
    distances(ours, reference).into_iter().fold(0.0, worse)
}

#[test]
fn answers_are_those_of_transformers() {
    let made = MADE_FROM.map(|(name, source, limit)| {
        (
            name,
            fixture(source).join("golden.safetensors"),
            limit.max(1e-4),
        )
    });
    let made = made.map(|(name, answers, limit)| (name.to_owned(), answers, limit));
    let own = WITH_ANSWERS.map(|name| {
        let answers = file(&format!("{name}.golden.safetensors"));
        (format!("{name}.gguf"), answers, 1e-4)
    });
    for (name, answers, limit) in made.into_iter().chain(own) {
        let golden = golden(answers);
        let ours = logits(&open(&file(&name), &options()), &golden.tokens);
        let found = distance(&ours, &golden.logits);
        println!("{name}: relative L2 {found:.1e}");
        assert!(found <= limit, "{name}: {found:.1e}");
    }
}

#[test]
fn answers_are_those_of_the_checkpoint() {
    for (name, source, limit) in MADE_FROM {
        let tokens = common::prompt(source);
        let ours = logits(&open(&file(name), &options()), &tokens);
        let theirs = logits(&open(&fixture(source), &options()), &tokens);
        let found = distance(&ours, &theirs.values);
        println!("{name}: relative L2 {found:.1e}");
        assert!(found <= limit, "{name}: {found:.1e}");
    }
}

/// 8-bit weights are close to what they were made from, but for tokens whose experts change.
#[test]
fn quantized_answers_are_close() {
    let golden = golden(fixture("qwen3_5_moe_text_f32").join("golden.safetensors"));
    let path = file("qwen3_5_moe_q8_0.gguf");
    for (activations, limit) in [(Activations::F32, 0.02), (Activations::Int8, 0.04)] {
        let setting = EngineOptions {
            activations,
            ..options()
        };
        let ours = logits(&open(&path, &setting), &golden.tokens);
        let mut found = distances(&ours, &golden.logits);
        found.sort_by(f64::total_cmp);
        let median = found[found.len() / 2];
        println!("{activations:?}: relative L2 {median:.1e} (median)");
        assert!(median <= limit, "{activations:?}: {median:.1e}");
        let reference = EngineOptions {
            reference: true,
            ..setting
        };
        let other = logits(&open(&path, &reference), &golden.tokens);
        assert_eq!(bits(&other.values), bits(&ours.values), "{activations:?}");
    }
}

/// Batches, threads, backends and what fits in memory change no bit.
#[test]
fn one_answer_however_it_is_computed() {
    // Some of these files have integers for weights.
    let options = || EngineOptions {
        activations: Activations::Int8,
        ..options()
    };
    let made = MADE_FROM.map(|(name, source, _)| (name.to_owned(), common::prompt(source)));
    let own = WITH_ANSWERS.map(|name| {
        let answers = golden(file(&format!("{name}.golden.safetensors")));
        (format!("{name}.gguf"), answers.tokens)
    });
    for (name, tokens) in made.into_iter().chain(own) {
        let tokens = &tokens[..tokens.len().min(90)];
        let whole = logits(&open(&file(&name), &options()), tokens);
        let few_slots = EngineOptions {
            expert_cache_bytes: Some(3 * inspect(&file(&name)).unwrap().expert_record_bytes),
            threads: Some(3),
            ..options()
        };
        let engine = open(&file(&name), &few_slots);
        let mut session = engine.session();
        for (row, token) in tokens.iter().enumerate() {
            let one = run(&engine, &mut session, std::slice::from_ref(token));
            assert_eq!(bits(one.row(0)), bits(whole.row(row)), "{name}: {row}");
        }
        let reference = EngineOptions {
            reference: true,
            ..options()
        };
        let other = logits(&open(&file(&name), &reference), tokens);
        assert_eq!(bits(&other.values), bits(&whole.values), "{name}");
    }
}

#[test]
fn figures_come_from_the_header() {
    let info = inspect(&file("qwen3_5_moe.gguf")).unwrap();
    let gguf = info.gguf.as_ref().unwrap();
    assert_eq!(gguf.architecture, "qwen35moe");
    assert_eq!(gguf.file_type.as_deref(), Some("BF16"));
    assert_eq!(gguf.name.as_deref(), Some("Qwen3_5_Moe"));
    let plain = inspect(&fixture("qwen3_5_moe")).unwrap();
    assert_eq!(info.layers, plain.layers);
    assert_eq!(info.context_tokens, plain.context_tokens);
    assert_eq!(info.expert_bytes, plain.expert_bytes);
    assert_eq!(info.token_state_bytes, plain.token_state_bytes);
    assert_eq!(info.token_multiply_adds, plain.token_multiply_adds);
    // Its one layer, as far as the fixture has it.
    let skipped = info.skipped.join(" ");
    assert!(
        skipped.contains("multi-token prediction head (9 tensors)"),
        "{skipped}"
    );

    let quantized = inspect(&file("qwen3_5_moe_q8_0.gguf")).unwrap();
    let codec = |class: &str| {
        let found = quantized.codecs.iter().find(|(name, _)| name == class);
        found.unwrap().1.clone()
    };
    assert_eq!(codec("routed experts"), "q8_0");
    assert_eq!(codec("attention and shared expert"), "q8_0");
    // 34 bytes hold 32 elements.
    let plain = inspect(&file("qwen3_5_moe_gate_up.gguf")).unwrap();
    assert_eq!(quantized.expert_bytes, plain.expert_bytes / 4 / 32 * 34);
    assert_eq!(quantized.expert_records, plain.expert_records);
}

#[test]
fn a_directory_stands_for_the_file_it_holds() {
    let first = file("split/model-00001-of-00002.gguf");
    assert_eq!(model_path(&file("split")).unwrap(), first);
    assert!(inspect(&file("split")).unwrap().gguf.is_some());
    let error = inspect(&file("")).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, Error::SeveralModels { .. }), "{message}");
    assert!(message.contains("deepseek_v2.gguf"), "{message}");
    // A file is known by how it begins, and not by its name.
    let copy = Copy::of(&std::fs::read(file("qwen3_moe.gguf")).unwrap());
    let renamed = copy.dir().join("model.bin");
    std::fs::rename(copy.path(), &renamed).unwrap();
    assert!(inspect(&renamed).is_ok());
    std::fs::write(&renamed, "not a model").unwrap();
    let message = inspect(&renamed).unwrap_err().to_string();
    assert!(
        message.contains("model.bin") && message.contains("GGUF"),
        "{message}"
    );
}

/// The message of opening a file, which must fail and name the file.
#[track_caller]
fn refused(copy: &Copy) -> String {
    let message = match Engine::open(&copy.path(), &options()) {
        Ok(_) => panic!("it opens"),
        Err(error) => error.to_string(),
    };
    assert!(message.contains("copy.gguf"), "{message}");
    message
}

#[test]
fn missing_keys_are_named() {
    for key in [
        "block_count",
        "context_length",
        "embedding_length",
        "attention.head_count",
        "attention.layer_norm_rms_epsilon",
        "expert_count",
        "expert_used_count",
        "expert_shared_feed_forward_length",
        "ssm.conv_kernel",
        "ssm.state_size",
        "ssm.group_count",
        "ssm.time_step_rank",
        "ssm.inner_size",
    ] {
        let key = format!("qwen35moe.{key}");
        let other = format!("{}~", &key[..key.len() - 1]);
        let message = refused(&Copy::patched("qwen3_5_moe.gguf", &key, &other));
        assert!(
            message.contains(&format!("{key} ")) || message.contains(&key),
            "{message}"
        );
        assert!(!message.contains('~'), "{message}");
    }
    let message = refused(&Copy::patched(
        "qwen3_5_moe.gguf",
        "general.arch",
        "general.arxh",
    ));
    assert!(message.contains("general.architecture"), "{message}");
}

#[test]
fn values_out_of_range_name_the_key() {
    for (key, value, words) in [
        ("embedding_length", 0, "not an integer from 1"),
        ("expert_count", 1 << 30, "not an integer from 1"),
        ("expert_used_count", 9, "more than the 8 experts"),
        ("attention.head_count_kv", 3, "not a multiple"),
        ("attention.value_length", 16, "only 32"),
        ("rope.dimension_count", 33, "more than a head's 32"),
        ("rope.dimension_count", 7, "must be an even number"),
        ("nextn_predict_layers", 6, "more than the 5"),
        ("nextn_predict_layers", 65, "more than 64"),
        ("ssm.inner_size", 63, "not a multiple"),
        ("ssm.group_count", 0, "not an integer from 1"),
        ("block_count", 90, "entries for 89 layers"),
    ] {
        let message = refused(&Copy::with_u32("qwen3_5_moe.gguf", key, value));
        assert!(message.contains(words), "{key}: {message}");
        if !key.ends_with("_kv") && key != "block_count" {
            assert!(
                message.contains(&format!("qwen35moe.{key}")),
                "{key}: {message}"
            );
        }
    }
}

#[test]
fn other_architectures_are_told_which_there_are() {
    let message = refused(&Copy::patched("qwen3_5_moe.gguf", "qwen35moe", "mixtral_x"));
    for words in [
        "general.architecture",
        "mixtral_x",
        "qwen3moe, qwen35moe",
        "deepseek2",
    ] {
        assert!(message.contains(words), "{message}");
    }
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let copy = Copy::with_u32("qwen3_5_moe.gguf", "expert_feed_forward_length", 31);
    assert!(
        refused(&copy).contains("ffn_gate_exps"),
        "{}",
        refused(&copy)
    );
    let copy = Copy::with_u32("qwen3_5_moe.gguf", "embedding_length", 32);
    assert!(refused(&copy).contains("token_embd"), "{}", refused(&copy));
    let copy = Copy::patched("qwen3_5_moe.gguf", "blk.0.ssm_a", "blk.0.ssm_x");
    assert!(refused(&copy).contains("blk.0.ssm_a"), "{}", refused(&copy));
    let copy = Copy::patched("qwen3_5_moe.gguf", "blk.2.ffn_up_exps", "blk.2.ffn_up_xxxs");
    assert!(
        refused(&copy).contains("blk.2.ffn_up_exps"),
        "{}",
        refused(&copy)
    );
}

#[test]
fn a_decay_that_is_none_is_refused() {
    let path = file("qwen3_5_moe.gguf");
    let model = Checkpoint::open(&path).unwrap();
    let at = model.require("blk.3.ssm_a").unwrap().offset as usize;
    for bad in [0.5_f32, f32::NAN] {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at..at + 4].copy_from_slice(&bad.to_le_bytes());
        let message = refused(&Copy::of(&bytes));
        assert!(message.contains("blk.3.ssm_a"), "{message}");
    }
}

#[test]
fn truncated_files_are_refused() {
    let bytes = std::fs::read(file("qwen3_moe.gguf")).unwrap();
    for len in [4, 100, 2000, bytes.len() / 2, bytes.len() - 1] {
        let message = refused(&Copy::of(&bytes[..len]));
        assert!(message.contains("truncated"), "{len}: {message}");
    }
}
