//! What the tests of GGUF files share: the files, and damaged copies of them.
#![allow(dead_code, reason = "every test file uses a part of it")]

use std::path::{Path, PathBuf};

/// File, the checkpoint it was made from, and how far its logits may be from that one's. The
/// first was rounded differently: one is added to norms in f16.
pub const MADE_FROM: [(&str, &str, f64); 17] = [
    (
        "split/model-00001-of-00002.gguf",
        "qwen3_5_moe_text_f16",
        2e-3,
    ),
    ("qwen3_5_moe.gguf", "qwen3_5_moe", 1e-5),
    ("qwen3_5_moe_tied.gguf", "qwen3_5_moe_text_fused", 1e-5),
    ("qwen3_5_moe_gate_up.gguf", "qwen3_5_moe_text_f32", 1e-5),
    ("qwen3_next.gguf", "qwen3_next", 1e-5),
    ("olmoe.gguf", "olmoe", 1e-5),
    ("mixtral.gguf", "mixtral", 1e-5),
    ("glm4_moe.gguf", "glm4_moe", 1e-5),
    ("glm4_moe_air.gguf", "glm4_moe_air", 1e-5),
    ("minimax_m2.gguf", "minimax_m2", 1e-5),
    ("deepseek_v3.gguf", "deepseek_v3", 1e-5),
    ("deepseek_v2_lite.gguf", "deepseek_v2_lite", 1e-5),
    ("deepseek_v2.gguf", "deepseek_v2", 1e-5),
    ("kimi_k2.gguf", "kimi_k2", 1e-5),
    ("kimi_k25.gguf", "kimi_k25", 1e-5),
    ("kimi_linear.gguf", "kimi_linear", 1e-5),
    ("glm4_moe_lite.gguf", "glm4_moe_lite", 1e-5),
];
/// Files with answers of their own: their checkpoint's form does not convert.
pub const WITH_ANSWERS: [&str; 4] = ["qwen3_moe", "qwen2_moe", "gpt_oss", "deepseek_v4"];

/// A file under `fixtures/gguf`.
pub fn file(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/gguf");
    root.join(name)
}

/// A copy of a file in a directory that goes away with it.
pub struct Copy {
    dir: tempfile::TempDir,
}

impl Copy {
    /// A copy of `name` in which the first `from` is `to`, of the same length.
    pub fn patched(name: &str, from: &str, to: &str) -> Copy {
        let mut bytes = std::fs::read(file(name)).expect("the fixture is there");
        assert_eq!(from.len(), to.len(), "{from}, {to}");
        let found = bytes.windows(from.len()).position(|w| w == from.as_bytes());
        let at = found.unwrap_or_else(|| panic!("no {from} in {name}"));
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        Copy::of(&bytes)
    }

    /// A copy of `name` in which the u32 of `key` is `value`.
    pub fn with_u32(name: &str, key: &str, value: u32) -> Copy {
        let mut bytes = std::fs::read(file(name)).expect("the fixture is there");
        let found = bytes.windows(key.len()).position(|w| w == key.as_bytes());
        // The key, then the number of the type, then the value.
        let at = found.unwrap_or_else(|| panic!("no {key} in {name}")) + key.len();
        assert_eq!(bytes[at..at + 4], 4u32.to_le_bytes(), "{key} is a u32");
        bytes[at + 4..at + 8].copy_from_slice(&value.to_le_bytes());
        Copy::of(&bytes)
    }

    /// A copy of `name`, a file of metadata alone, in which the text of `key` is `value`.
    pub fn with_text(name: &str, key: &str, value: &str) -> Copy {
        let mut bytes = std::fs::read(file(name)).expect("the fixture is there");
        let found = bytes.windows(key.len()).position(|w| w == key.as_bytes());
        // The key, then the number of the type, then the length.
        let at = found.unwrap_or_else(|| panic!("no {key} in {name}")) + key.len();
        assert_eq!(bytes[at..at + 4], 8u32.to_le_bytes(), "{key} is a text");
        let start = at + 12;
        let len = u64::from_le_bytes(bytes[at + 4..start].try_into().expect("8 bytes"));
        let mut text = (value.len() as u64).to_le_bytes().to_vec();
        text.extend(value.as_bytes());
        bytes.splice(at + 4..start + len as usize, text);
        Copy::of(&bytes)
    }

    /// A file of these bytes.
    pub fn of(bytes: &[u8]) -> Copy {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("copy.gguf"), bytes).expect("is written");
        Copy { dir }
    }

    /// The copy.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("copy.gguf")
    }

    /// The directory that holds it alone.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}
