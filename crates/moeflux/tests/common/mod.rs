//! What the engine's integration tests share: fixtures, packed copies, runs, comparisons.
#![allow(dead_code, reason = "every test file uses a part of it")]

pub mod back;

use std::path::{Path, PathBuf};

use moeflux::formats::Checkpoint;
use moeflux::{Engine, EngineOptions, Logits, PackOptions, Session, Span, Want, pack};

/// All architectures and forms, by directory name under `fixtures/`.
pub const FIXTURES: [&str; 27] = [
    "deepseek_v2",
    "deepseek_v2_lite",
    "deepseek_v3",
    "deepseek_v4",
    "glm4_moe",
    "glm4_moe_air",
    "glm4_moe_lite",
    "glm5_next",
    "gpt_oss",
    "kimi_k2",
    "kimi_k25",
    "kimi_linear",
    "minimax_m2",
    "mixtral",
    "mixtral_window",
    "olmoe",
    "qwen2_moe",
    "qwen3_5_moe",
    "qwen3_5_moe_text",
    "qwen3_5_moe_text_f16",
    "qwen3_5_moe_text_f32",
    "qwen3_5_moe_text_fused",
    "qwen3_moe",
    "qwen3_moe_new_style",
    "qwen3_next",
    "qwen4_exp",
    "qwen4_exp_text",
];

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub fn fixture(name: &str) -> PathBuf {
    repository().join("fixtures").join(name)
}

/// The prompt of a fixture.
pub fn prompt(name: &str) -> Vec<u32> {
    let golden = Checkpoint::open_files(vec![fixture(name).join("golden.safetensors")])
        .expect("the fixture has a golden file");
    let info = golden.require("tokens").expect("tokens");
    let mut bytes = vec![0; info.bytes as usize];
    golden.read(info, 0, &mut bytes).expect("tokens are read");
    bytes
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| u32::from_le_bytes(*b))
        .collect()
}

/// A model in a temporary directory that goes away with it.
pub struct Packed {
    dir: tempfile::TempDir,
}

impl Packed {
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("model")
    }

    /// The files of its experts, in the order that the engine numbers them.
    pub fn expert_files(&self) -> Vec<PathBuf> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.path().join("experts"))
            .expect("a packed model has experts")
            .map(|entry| entry.expect("readable").path())
            .collect();
        files.sort();
        files
    }
}

/// A fixture packed with routed experts of `bits`.
pub fn packed(name: &str, bits: u32) -> Packed {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let options = PackOptions {
        bits,
        group: Some(32),
        ..PackOptions::default()
    };
    pack(
        &fixture(name),
        &dir.path().join("model"),
        &options,
        &mut |_| {},
    )
    .expect("packs");
    Packed { dir }
}

/// A budget in which every fixture fits, whatever the machine has.
pub fn options() -> EngineOptions {
    EngineOptions {
        memory_bytes: Some(1 << 30),
        threads: Some(1),
        chunk_tokens: Some(512),
        ..EngineOptions::default()
    }
}

pub fn open(dir: &Path, options: &EngineOptions) -> Engine {
    Engine::open(dir, options).expect("the model opens")
}

/// All logits of `tokens` in a new session, in one step.
pub fn logits(engine: &Engine, tokens: &[u32]) -> Logits {
    run(engine, &mut engine.session(), tokens)
}

/// All logits of `tokens` after what `session` holds, in one step.
pub fn run(engine: &Engine, session: &mut Session, tokens: &[u32]) -> Logits {
    let mut spans = [Span {
        session,
        tokens,
        want: Want::All,
        is_prompt: false,
    }];
    engine.forward(&mut spans).expect("the step runs").remove(0)
}

/// The logits as bits, so that a comparison is of bits.
pub fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Asserts that `found` equals rows `first_row..` of `expected`, bit for bit.
pub fn assert_rows(expected: &Logits, first_row: usize, found: &Logits, what: &str) {
    assert_eq!(expected.vocab, found.vocab, "{what}");
    for row in 0..found.rows {
        let (a, b) = (expected.row(first_row + row), found.row(row));
        assert!(
            !a.is_empty() && a.iter().all(|v| v.is_finite()),
            "{what}: row {row}"
        );
        assert!(
            bits(a) == bits(b),
            "{what}: logits of position {} differ",
            first_row + row
        );
    }
}
