//! Packing a checkpoint needs memory for a few blocks, not for the checkpoint.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // helpers of tests too
#![cfg(target_os = "linux")]

mod common;

use std::env;
use std::fs;
use std::process::Command;

use common::{Sizes, affine, pack_quietly, plan, write_checkpoint};

/// 210 MB of experts in 2 layers and a dense matrix of 31 MB.
const SIZES: Sizes = Sizes {
    hidden: 1024,
    inner: 512,
    experts: 32,
    layers: 2,
    vocab: 15_000,
};
const ROLE: &str = "PACK_MEMORY_TEST_DIR";
const LIMIT_BYTES: u64 = 48 << 20;

/// The largest resident set of this process so far.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmHWM:"))
        .unwrap();
    let kibibytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kibibytes << 10
}

/// The test starts itself as a child, whose peak is that of packing alone.
#[test]
fn peak_memory_is_bounded() {
    if let Some(place) = env::var_os(ROLE) {
        let place = std::path::PathBuf::from(place);
        pack_quietly(
            &place.join("source"),
            &plan(SIZES, affine(4, 64)),
            &place.join("dst"),
        )
        .unwrap();
        println!("peak {} bytes", peak_bytes());
        assert!(peak_bytes() < LIMIT_BYTES, "{} bytes", peak_bytes());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    write_checkpoint(&dir.path().join("source"), SIZES);
    let bytes = fs::metadata(dir.path().join("source/model.safetensors"))
        .unwrap()
        .len();
    assert!(bytes > 4 * LIMIT_BYTES, "{bytes}");
    let mut child = Command::new(env::current_exe().unwrap());
    child
        .args(["--exact", "peak_memory_is_bounded", "--nocapture"])
        .env(ROLE, dir.path());
    assert!(child.status().unwrap().success());
    assert!(dir.path().join("dst/moeflux.json").exists());
}
