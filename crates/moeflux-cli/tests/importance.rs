//! `eval importance` and `pack --importance`, as a user runs them: what they say, what they make of
//! the demo model, and what they refuse.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{command, demo, fails, fixture, output_of, repository, run, text};
use moeflux_formats::{AffineCodec, Checkpoint, Codec, DType, Encoded, decode, write_safetensors};
use serde_json::Value;

/// What the demo model answers well, of the kinds that it was trained on.
fn prompts(skip: usize) -> String {
    let list = fs::read(repository().join("models/demo/eval.json")).unwrap();
    let list: Vec<Value> = serde_json::from_slice(&list).unwrap();
    let turn = |prompt: &Value| {
        let question = prompt["messages"].as_array().unwrap().last().unwrap();
        format!(
            "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}<|im_end|>\n\u{c}",
            question["content"].as_str().unwrap(),
            prompt["expected"].as_str().unwrap()
        )
    };
    list.iter().skip(skip).step_by(2).map(turn).collect()
}

/// The numbers that the demo model stands for, as a checkpoint in f32 at `to`.
fn unpacked_demo(to: &Path) {
    fs::create_dir(to).unwrap();
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ] {
        fs::copy(demo().join(name), to.join(name)).unwrap();
    }
    let mut tensors: Vec<(String, Vec<usize>, Vec<u8>)> = Vec::new();
    let mut take = |file: PathBuf, prefix: &str| {
        let file = Checkpoint::open_files(vec![file]).unwrap();
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        for name in names {
            let info = file.get(&name).unwrap().clone();
            let read = |name: &str| {
                let info = file.require(name).unwrap();
                let mut bytes = vec![0; info.bytes as usize];
                file.read(info, 0, &mut bytes).unwrap();
                bytes
            };
            let floats = |values: Vec<f32>| values.iter().flat_map(|x| x.to_le_bytes()).collect();
            let full = format!("{prefix}{name}");
            if info.dtype == DType::U32 {
                let base = name.strip_suffix(".weight").unwrap();
                let groups = file.require(&format!("{base}.scales")).unwrap().shape[1];
                let (rows, cols) = (info.shape[0], groups * 64);
                let bits = (info.shape[1] * 32 / cols) as u32;
                let encoded = Encoded {
                    weights: read(&name),
                    scales: read(&format!("{base}.scales")),
                    biases: read(&format!("{base}.biases")),
                };
                let codec = Codec::Affine(AffineCodec { bits, group: 64 });
                let values = decode(codec, &encoded, rows, cols).unwrap();
                tensors.push((full, vec![rows, cols], floats(values)));
            } else if info.dtype.is_plain_float()
                && !name.ends_with(".scales")
                && !name.ends_with(".biases")
            {
                let values = file.read_f32(&name, &info.shape).unwrap();
                tensors.push((full, info.shape.clone(), floats(values)));
            }
        }
    };
    take(demo().join("dense.safetensors"), "");
    for layer in 0..8 {
        let file = demo().join(format!("experts/layer-{layer:03}.safetensors"));
        take(file, &format!("model.layers.{layer}.mlp."));
    }
    let list = tensors.iter();
    let list: Vec<(&str, DType, &[usize], &[u8])> = list
        .map(|(name, shape, bytes)| (name.as_str(), DType::F32, &shape[..], &bytes[..]))
        .collect();
    write_safetensors(&to.join("model.safetensors"), &list).unwrap();
}

fn divergence(original: &Path, model: &Path, file: &Path) -> f64 {
    let (original, model, file) = (text(original), text(model), text(file));
    let mut args = vec!["eval", "kl", original, model, "--text", file, "--json"];
    args.extend(["--activations", "f32"]);
    let report = output_of(&args);
    let report: Value = serde_json::from_str(&report).unwrap();
    report["mean_nats"].as_f64().unwrap()
}

#[test]
fn rounding_by_importance_keeps_more_of_the_demo() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    unpacked_demo(&path("original"));
    fs::write(path("calibration.txt"), prompts(0)).unwrap();
    fs::write(path("judging.txt"), prompts(1)).unwrap();
    let (original, file) = (path("original"), path("importance.safetensors"));
    let calibration = path("calibration.txt");
    let record = [
        "eval",
        "importance",
        "-m",
        text(&original),
        "--text",
        text(&calibration),
        "-o",
        text(&file),
    ];
    let ran = run(&record);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(
        ran.stderr.contains("of 256 routed experts"),
        "{}",
        ran.stderr
    );
    let mut found = [0.0; 2];
    for (found, weighed) in found.iter_mut().zip([false, true]) {
        let model = path(if weighed { "weighed" } else { "plain" });
        let mut args = vec!["pack", text(&original), "-o", text(&model)];
        args.extend(["--bits", "3", "--dense-bits", "3"]);
        if weighed {
            args.extend(["--importance", text(&file)]);
        }
        output_of(&args);
        let manifest = fs::read_to_string(model.join("moeflux.json")).unwrap();
        assert_eq!(manifest.contains("\"rounding\""), weighed, "{manifest}");
        *found = divergence(&original, &model, &path("judging.txt"));
    }
    let [plain, weighed] = found;
    assert!(weighed < 0.8 * plain, "{weighed} nats, without {plain}");
}

#[test]
fn what_cannot_be_used_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("text.txt"), prompts(0)).unwrap();
    let (source, output) = (fixture("qwen3_5_moe_text"), path("model"));
    let pack = |file: &Path, code: i32, says: &str| {
        let args = [
            "pack",
            text(&source),
            "-o",
            text(&output),
            "--importance",
            text(file),
        ];
        fails(&args, code, &[says]);
        assert!(!output.exists());
    };
    pack(&path("missing"), 3, "missing");
    pack(&path("text.txt"), 3, "text.txt");
    pack(&source.join("model.safetensors"), 3, "eval importance");
    let (words, file) = (path("text.txt"), path("of-demo.safetensors"));
    let record = [
        "eval",
        "importance",
        "--text",
        text(&words),
        "-o",
        text(&file),
    ];
    assert!(command(&record).output().unwrap().status.success());
    pack(&file, 2, "another model");
    let nowhere = path("no/such/folder/file");
    fails(
        &[
            "eval",
            "importance",
            "--text",
            text(&words),
            "-o",
            text(&nowhere),
        ],
        3,
        &["no/such/folder", "no such directory"],
    );
    let short = [
        "eval",
        "importance",
        "--text",
        text(&words),
        "--tokens",
        "1",
        "-o",
        text(&file),
    ];
    fails(&short, 3, &["two or more"]);
}
