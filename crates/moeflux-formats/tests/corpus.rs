//! Replays what fuzzing (`fuzz/`) found to take different ways through the parsers of headers.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests too

#[path = "common/gguf_file.rs"]
mod gguf_file;

use std::fs;
use std::path::{Path, PathBuf};

use moeflux_formats::FormatError;
use moeflux_formats::{gguf, parse_header};

fn corpus(name: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(name);
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}

#[test]
fn gguf_headers() {
    let (mut accepted, mut refused) = (0, 0);
    for path in corpus("gguf") {
        let file = fs::read(&path).unwrap();
        match gguf::parse_header(file.as_slice(), file.len() as u64, &path) {
            Ok(header) => {
                gguf_file::assert_consistent(&header, file.len() as u64);
                accepted += 1;
            }
            Err(error) => {
                assert!(matches!(error, FormatError::Gguf { .. }), "{error}");
                refused += 1;
            }
        }
    }
    assert!(
        accepted > 10 && refused > 50,
        "{accepted} accepted, {refused} refused"
    );
}

#[test]
fn safetensors_headers() {
    let (mut accepted, mut refused) = (0, 0);
    for path in corpus("safetensors") {
        let file = fs::read(&path).unwrap();
        let Ok(header) = parse_header(&file, file.len() as u64) else {
            refused += 1;
            continue;
        };
        let mut covered = header.data_start;
        for tensor in &header.tensors {
            assert_eq!(tensor.offset, covered, "{}", path.display());
            covered += tensor.bytes;
        }
        assert_eq!(covered, file.len() as u64, "{}", path.display());
        accepted += 1;
    }
    assert!(
        accepted > 2 && refused > 50,
        "{accepted} accepted, {refused} refused"
    );
}
