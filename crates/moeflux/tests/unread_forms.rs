//! Quantized forms that are not read name themselves and say what is.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;

use std::fs;
use std::path::Path;

use common::fixture;
use moeflux::{Error, inspect};

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

/// The checkpoint in `source` with other names or types in its headers.
fn renamed(source: &Path, target: &Path, (from, to): (&str, &str)) {
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap();
        let bytes = fs::read(&path).unwrap();
        let is_model = name.to_str().unwrap().starts_with("model");
        let out = match is_model {
            true => with_header(&bytes, (from, to)),
            false => bytes,
        };
        fs::write(target.join(name), out).unwrap();
    }
}

fn with_header(file: &[u8], (from, to): (&str, &str)) -> Vec<u8> {
    let (length, rest) = file.split_at(8);
    let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
    let (header, data) = rest.split_at(length);
    let header = std::str::from_utf8(header).unwrap().trim_end();
    assert!(header.contains(from), "{from}");
    let mut header = header.replace(from, to);
    let padded = header.len().next_multiple_of(8);
    header.extend(std::iter::repeat_n(' ', padded - header.len()));
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), data].concat()
}

#[test]
fn forms_that_are_not_read_name_themselves() {
    for (name, from, to, expected) in FORMS {
        let dir = tempfile::tempdir().unwrap();
        renamed(&fixture(&format!("formats/{name}")), dir.path(), (from, to));
        let error = inspect(dir.path()).unwrap_err();
        assert!(matches!(error, Error::Form { .. }), "{name}, {to}: {error}");
        let message = error.to_string();
        let known = ["FP8 (E4M3) with a scale to each 128 x 128", "MXFP4", "NVFP4"];
        for text in [expected].into_iter().chain(known) {
            assert!(message.contains(text), "{name}, {to}: {message}");
        }
    }
}
