//! Quantized forms under other names: those that are read are the same model, those that are not
//! name themselves and say what is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::path::Path;

use common::{bits, fixture, logits, open, options};
use moeflux::{Error, inspect};
use serde_json::{Map, Value};

/// Fixture, a piece of its tensors' names or types, what stands there instead, and what the message
/// says then.
const FORMS: [(&str, &str, &str, &str); 7] = [
    (
        "qwen3_moe_f8",
        ".weight_scale_inv\"",
        ".weight_scale\"",
        "FP8 with a scale to each row or to a whole tensor",
    ),
    ("deepseek_v4_f8", "F8_E8M0", "U8", "MXFP8"),
    (
        "qwen3_moe_int4",
        ".weight_shape\"",
        ".weight_g_idx\"",
        "integers in groups out of order",
    ),
    (
        "qwen3_moe_int4",
        ".weight_shape\"",
        ".weight_zero_point\"",
        "integers with zero points",
    ),
    (
        "qwen3_moe_int4",
        ".weight_packed\"",
        ".qweight\"",
        "GPTQ and AWQ",
    ),
    (
        "qwen3_5_moe_nvfp4",
        ".input_scale\"",
        ".pre_quant_scale\"",
        "scaled inputs (AWQ)",
    ),
    (
        "qwen3_5_moe_nvfp4",
        ".weight_scale_2\"",
        ".weight.absmax\"",
        "bitsandbytes",
    ),
];

/// The checkpoint in `source` with the headers that `changed` makes of its own.
fn renamed(source: &Path, target: &Path, changed: &dyn Fn(&str) -> String) {
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        let bytes = fs::read(&path).unwrap();
        let is_model = name.to_str().unwrap().starts_with("model");
        let out = match is_model {
            true => with_header(&bytes, changed),
            false => bytes,
        };
        fs::write(target.join(name), out).unwrap();
    }
}

fn with_header(file: &[u8], changed: &dyn Fn(&str) -> String) -> Vec<u8> {
    let (length, rest) = file.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
    let (header, data) = rest.split_at(length);
    let mut header = changed(std::str::from_utf8(header).unwrap().trim_end());
    let padded = header.len().next_multiple_of(8);
    header.extend(std::iter::repeat_n(' ', padded - header.len()));
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), data].concat()
}

/// DeepSeek-V4's experts under the names and types of compressed-tensors' `mxfp4-pack-quantized`.
fn as_compressed_tensors(header: &str) -> String {
    let tensors: Map<String, Value> = serde_json::from_str(header).unwrap();
    let renamed = tensors.into_iter().map(|(name, mut info)| {
        if !name.contains(".experts.") {
            return (name, info);
        }
        info["dtype"] = "U8".into();
        let name = name.replace(".weight", ".weight_packed");
        (name.replace(".scale", ".weight_scale"), info)
    });
    Value::Object(renamed.collect()).to_string()
}

#[test]
fn mxfp4_of_compressed_tensors_is_that_of_deepseek() {
    let source = fixture("formats/deepseek_v4_f8");
    let dir = tempfile::tempdir().unwrap();
    renamed(&source, dir.path(), &as_compressed_tensors);
    let tokens: Vec<u32> = (0..20).collect();
    let ours = logits(&open(dir.path(), &options()), &tokens);
    let theirs = logits(&open(&source, &options()), &tokens);
    assert_eq!(bits(&ours.values), bits(&theirs.values));
}

#[test]
fn forms_that_are_not_read_name_themselves() {
    for (name, from, to, expected) in FORMS {
        let dir = tempfile::tempdir().unwrap();
        let source = fixture(&format!("formats/{name}"));
        renamed(&source, dir.path(), &|header| {
            assert!(header.contains(from), "{name}: {from}");
            header.replace(from, to)
        });
        let error = inspect(dir.path()).unwrap_err();
        assert!(matches!(error, Error::Form { .. }), "{name}, {to}: {error}");
        let message = error.to_string();
        let known = [
            "FP8 (E4M3) with a scale to each 128 x 128",
            "MXFP4",
            "NVFP4",
        ];
        for text in [expected].into_iter().chain(known) {
            assert!(message.contains(text), "{name}, {to}: {message}");
        }
    }
}
