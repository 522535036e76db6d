//! GGUF files packed: as they are, bit for bit, and to fewer bits.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test that cannot go on fails"
)]

mod common;
#[path = "common/gguf.rs"]
mod gguf;

use std::path::{Path, PathBuf};

use common::{bits, logits, open};
use gguf::{MADE_FROM, file};
use moeflux::formats::PackedModel;
use moeflux::text::TextFiles;
use moeflux::{Activations, EngineOptions, KvType, PackOptions, inspect, pack};

/// Nothing is rounded that the file has not rounded.
fn options() -> EngineOptions {
    EngineOptions {
        kv: KvType::F32,
        ..common::options()
    }
}

fn packed(source: &Path, options: &PackOptions) -> (tempfile::TempDir, PathBuf) {
    let out = tempfile::tempdir().unwrap();
    let target = out.path().join("model");
    pack(source, &target, options, &mut |_| {}).unwrap();
    (out, target)
}

/// Packed as it is, a file gives the same bits, under the header that says what they mean.
#[test]
fn packed_without_loss() {
    let keep = PackOptions {
        bits: PackOptions::KEEP,
        ..PackOptions::default()
    };
    let quantized = ("qwen3_5_moe_q8_0.gguf", "qwen3_5_moe_text_f32");
    let sources = MADE_FROM.map(|(name, source, _)| (name, source));
    for (name, prompt) in sources.into_iter().chain([quantized]) {
        let (_out, target) = packed(&file(name), &keep);
        let (ours, theirs) = (inspect(&target).unwrap(), inspect(&file(name)).unwrap());
        assert!(ours.packed && !theirs.packed, "{name}");
        assert_eq!(ours.gguf, theirs.gguf, "{name}");
        assert_eq!(ours.codecs, theirs.codecs, "{name}");
        assert_eq!(ours.dense_bytes, theirs.dense_bytes, "{name}");
        let tokens = common::prompt(prompt);
        let kept = logits(&open(&target, &options()), &tokens);
        let plain = logits(&open(&file(name), &options()), &tokens);
        assert_eq!(bits(&kept.values), bits(&plain.values), "{name}");
        PackedModel::open(&target)
            .unwrap()
            .verify(&mut |_| ())
            .unwrap();
        // What its vocabulary has to say is in the header.
        let text = |path: &Path| {
            let tokenizer = TextFiles::open(path).unwrap().tokenizer();
            tokenizer
                .map(|_| ())
                .map_err(|error| std::mem::discriminant(&error))
        };
        assert_eq!(text(&target), text(&file(name)), "{name}");
    }
}

/// Re-quantized from blocks, the numbers are near; a header that is gone is missed.
#[test]
fn packed_to_fewer_bits() {
    let options_of = |bits| PackOptions {
        bits,
        group: Some(32),
        ..PackOptions::default()
    };
    let (_out, target) = packed(&file("qwen3_5_moe_q8_0.gguf"), &options_of(6));
    let codec = |class: &str| {
        let codecs = inspect(&target).unwrap().codecs;
        let found = codecs.into_iter().find(|(name, _)| name == class);
        found.unwrap().1
    };
    assert_eq!(codec("routed experts"), "affine-b6-g32");
    // 8.5 bits of the source are no more than the 9 of 8 bits in groups of 32.
    assert_eq!(codec("output head"), "q8_0");
    let exact = EngineOptions {
        activations: Activations::F32,
        ..options()
    };
    let tokens = common::prompt("qwen3_5_moe_text_f32");
    let source = open(&file("qwen3_5_moe_q8_0.gguf"), &exact);
    let (ours, theirs) = (
        logits(&open(&target, &exact), &tokens),
        logits(&source, &tokens),
    );
    let relative = |row| {
        let pairs = ours.row(row).iter().zip(theirs.row(row));
        let error: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
        let size: f64 = theirs.row(row).iter().map(|&b| f64::from(b).powi(2)).sum();
        (error / size).sqrt()
    };
    let mut found: Vec<f64> = (0..theirs.rows).map(relative).collect();
    found.sort_by(f64::total_cmp);
    let median = found[found.len() / 2];
    println!("6 bits: relative L2 {median:.1e} (median)");
    assert!(median <= 0.1, "{median:.1e}");
    std::fs::remove_file(target.join("source-00001.gguf-header")).unwrap();
    let message = inspect(&target).unwrap_err().to_string();
    assert!(message.contains("source-00001.gguf-header"), "{message}");
}
