//! Checkpoints in the quantized forms that they are published in: the answers of `transformers` to
//! the very numbers that the files stand for, and the same answer however it is computed.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod common;
#[path = "common/forms.rs"]
mod forms;

use std::path::{Path, PathBuf};

use common::{bits, fixture, logits, open, run};
use forms::FORMS;
use moeflux::formats::{Checkpoint, PackedModel};
use moeflux::{Activations, EngineOptions, Error, KvType, Logits, PackOptions, inspect, pack};

fn options() -> EngineOptions {
    EngineOptions {
        kv: KvType::F32,
        activations: Activations::F32,
        ..common::options()
    }
}

fn golden(name: &str) -> (Vec<u32>, Vec<f32>) {
    let path = fixture(&format!("formats/{name}")).join("golden.safetensors");
    let answers = Checkpoint::open_files(vec![path]).unwrap();
    let info = answers.require("tokens").unwrap();
    let mut bytes = vec![0; info.bytes as usize];
    answers.read(info, 0, &mut bytes).unwrap();
    let tokens = bytes.as_chunks().0.iter();
    let shape = answers.require("logits").unwrap().shape.clone();
    let tokens = tokens.map(|b| u32::from_le_bytes(*b)).collect();
    (tokens, answers.read_f32("logits", &shape).unwrap())
}

fn relative(ours: &[f32], reference: &[f32]) -> f64 {
    let pairs = ours.iter().zip(reference);
    let error: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let size: f64 = reference.iter().map(|&b| f64::from(b).powi(2)).sum();
    (error / size).sqrt()
}

/// Relative L2 of the worst position.
fn distance(ours: &Logits, reference: &[f32]) -> f64 {
    assert_eq!(ours.values.len(), reference.len());
    // NaN must not get lost.
    let worse = |worst, x| if x <= worst { worst } else { x };
    let rows = reference.chunks_exact(ours.vocab).enumerate();
    rows.map(|(row, reference)| relative(ours.row(row), reference))
        .fold(0.0, worse)
}

#[test]
fn answers_are_those_of_transformers() {
    for (name, codec, rounds) in FORMS {
        let path = fixture(&format!("formats/{name}"));
        let (tokens, expected) = golden(name);
        let found = distance(&logits(&open(&path, &options()), &tokens), &expected);
        println!("{name}: relative L2 {found:.1e}");
        assert!(found <= 1e-4, "{name}: {found:.1e}");

        let int8 = EngineOptions {
            activations: Activations::Int8,
            ..options()
        };
        let rounded = median_distance(&logits(&open(&path, &int8), &tokens), &expected);
        println!("{name}, int8 activations: relative L2 {rounded:.1e} (median)");
        assert!(rounded <= 0.05, "{name}: {rounded:.1e}");
        assert_eq!(rounded > found * 10.0, rounds, "{name}: {rounded:.1e}");

        assert_eq!(experts(&path), codec, "{name}");
    }
}

/// Batches, threads, kernels and what fits in memory change no bit.
#[test]
fn one_answer_however_it_is_computed() {
    for (name, ..) in FORMS {
        let path = fixture(&format!("formats/{name}"));
        let (tokens, _) = golden(name);
        let tokens = &tokens[..40];
        for activations in [Activations::F32, Activations::Int8] {
            let whole_options = EngineOptions {
                activations,
                ..options()
            };
            let whole = logits(&open(&path, &whole_options), tokens);
            let few_slots = EngineOptions {
                expert_cache_bytes: Some(3 * inspect(&path).unwrap().expert_record_bytes),
                threads: Some(3),
                ..whole_options.clone()
            };
            let engine = open(&path, &few_slots);
            let mut session = engine.session();
            for (row, token) in tokens.iter().enumerate() {
                let one = run(&engine, &mut session, std::slice::from_ref(token));
                assert_eq!(bits(one.row(0)), bits(whole.row(row)), "{name}: {row}");
            }
            let reference = EngineOptions {
                reference: true,
                ..whole_options
            };
            let other = logits(&open(&path, &reference), tokens);
            assert_eq!(bits(&other.values), bits(&whole.values), "{name}");
        }
    }
}

fn packed(source: &Path, bits: u32) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("model");
    let options = PackOptions {
        bits,
        group: Some(32),
        threads: Some(2),
        ..PackOptions::default()
    };
    pack(source, &target, &options, &mut |_| {}).unwrap();
    (dir, target)
}

fn experts(path: &Path) -> String {
    let codecs = inspect(path).unwrap().codecs;
    let experts = codecs
        .into_iter()
        .find(|(class, _)| class == "routed experts");
    experts.unwrap().1
}

/// Packed as they are, the bits of the answer are those of the source.
#[test]
fn codecs_are_kept() {
    for (name, codec, _) in FORMS {
        let source = fixture(&format!("formats/{name}"));
        let (_dir, target) = packed(&source, PackOptions::KEEP);
        assert_eq!(experts(&target), codec, "{name}");
        let (ours, theirs) = (inspect(&target).unwrap(), inspect(&source).unwrap());
        assert_eq!(ours.codecs, theirs.codecs, "{name}");
        assert_eq!(ours.dense_bytes, theirs.dense_bytes, "{name}");
        let (tokens, _) = golden(name);
        for activations in [Activations::F32, Activations::Int8] {
            let options = EngineOptions {
                activations,
                ..options()
            };
            let kept = logits(&open(&target, &options), &tokens);
            let plain = logits(&open(&source, &options), &tokens);
            assert_eq!(bits(&kept.values), bits(&plain.values), "{name}");
        }
        let model = PackedModel::open(&target).unwrap();
        model.verify(&mut |_| ()).unwrap();
    }
}

/// Packed to 8 bits, the numbers are near those of the source, and integers that take less stay.
#[test]
fn coded_sources_are_packed() {
    for (name, codec, _) in FORMS {
        let source = fixture(&format!("formats/{name}"));
        let (_dir, target) = packed(&source, 8);
        let (tokens, expected) = golden(name);
        let ours = logits(&open(&target, &options()), &tokens);
        let found = median_distance(&ours, &expected);
        println!("{name} in 8 bits: relative L2 {found:.1e} (median)");
        assert!(found < 0.05, "{name}: {found:.1e}");
        let eight = experts(&target);
        match codec.starts_with("f8") {
            // Columns that no group divides become bf16.
            true => assert!(eight.starts_with("affine-b8-g32"), "{name}: {eight}"),
            false => assert_eq!(eight, codec, "{name}"),
        }
        // Fewer bits are fewer, whatever the source.
        let (_dir, target) = packed(&source, 2);
        assert!(experts(&target).starts_with("affine-b2-g32"), "{name}");
        let ours = logits(&open(&target, &options()), &tokens);
        let found = median_distance(&ours, &expected);
        println!("{name} in 2 bits: relative L2 {found:.1e} (median)");
        assert!(found > 1e-3 && found < 1.0, "{name}: {found:.1e}");
        // Floats cannot be kept where there are none.
        let refused = PackOptions {
            bits: 16,
            ..PackOptions::default()
        };
        let error = pack(&source, &target.join("x"), &refused, &mut |_| {}).unwrap_err();
        assert!(
            matches!(error, Error::Option { flag: "--bits", .. }),
            "{error}"
        );
        assert!(error.to_string().contains("`keep`"), "{error}");
    }
}

/// Relative L2 of the middle position: where a choice of experts changes, one may be far off.
fn median_distance(ours: &Logits, reference: &[f32]) -> f64 {
    let rows = reference.chunks_exact(ours.vocab).enumerate();
    let mut found: Vec<f64> = rows
        .map(|(row, reference)| relative(ours.row(row), reference))
        .collect();
    found.sort_by(f64::total_cmp);
    found[found.len() / 2]
}

/// Blocks are asked for, and divide these columns only as IQ4_NL.
#[test]
fn blocks_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    for (group, expected) in [(None, "affine-b4-g"), (Some(PackOptions::BLOCKS), "iq4_nl")] {
        let target = dir.path().join(expected);
        let options = PackOptions {
            group,
            ..PackOptions::default()
        };
        let source = common::fixture("qwen3_5_moe_text");
        moeflux::pack(&source, &target, &options, &mut |_| {}).unwrap();
        let info = open(&target, &common::options()).info().clone();
        let (_, codec) = &info.codecs[0];
        assert!(codec.starts_with(expected), "{codec}");
    }
}

/// What is published in 4 bits takes no more than the default's groups, and stays.
#[test]
fn floats_of_4_bits_are_not_rounded_again() {
    for name in ["qwen3_moe_nvfp4", "deepseek_v4_f8"] {
        let source = fixture(&format!("formats/{name}"));
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("model");
        pack(&source, &target, &PackOptions::default(), &mut |_| {}).unwrap();
        assert_eq!(experts(&target), experts(&source), "{name}");
    }
}
