//! A synthetic checkpoint, a plan for it, and comparison of packed directories.

#![allow(dead_code)] // each test binary uses its part of this
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use moeflux_formats::{
    AffineCodec, Checkpoint, Codec, ColumnWeights, DType, MatrixSource, PackPlan, PackProgress,
    PackReport, PlannedLayer, PlannedMatrix, PlannedTensor, Result, SafetensorsWriter, TensorSpec,
    pack,
};

/// Sizes of a synthetic model with fused bf16 experts.
#[derive(Clone, Copy)]
pub struct Sizes {
    pub hidden: usize,
    pub inner: usize,
    pub experts: usize,
    pub layers: usize,
    pub vocab: usize,
}

pub const SMALL: Sizes = Sizes {
    hidden: 128,
    inner: 64,
    experts: 3,
    layers: 3,
    vocab: 100,
};

/// Writes the checkpoint, block by block, so that it may be larger than memory.
pub fn write_checkpoint(dir: &Path, sizes: Sizes) {
    fs::create_dir_all(dir).unwrap();
    fs::write(dir.join("config.json"), "{\"model_type\":\"synthetic\"}").unwrap();
    let Sizes {
        hidden,
        inner,
        experts,
        layers,
        vocab,
    } = sizes;
    let mut specs = vec![
        TensorSpec::new("embed.weight", DType::Bf16, [vocab, hidden]),
        TensorSpec::new("norm.weight", DType::F32, [hidden]),
        TensorSpec::new("half.weight", DType::F16, [8, hidden]),
    ];
    for layer in 0..layers {
        let name = |part: &str| format!("layers.{layer}.experts.{part}");
        specs.push(TensorSpec::new(
            name("gate_up"),
            DType::Bf16,
            [experts, 2 * inner, hidden],
        ));
        specs.push(TensorSpec::new(
            name("down"),
            DType::Bf16,
            [experts, hidden, inner],
        ));
    }
    let path = dir.join("model.safetensors");
    let mut writer = SafetensorsWriter::create(&path, &specs, 8).unwrap();
    let mut state = 7_u64;
    for spec in &specs {
        let mut left: usize = spec.shape.iter().product();
        while left > 0 {
            let count = left.min(1 << 18);
            let mut bytes = Vec::with_capacity(4 * count);
            for _ in 0..count {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let value = ((state >> 32) as i32 as f32) * (0.1 / i32::MAX as f32);
                match spec.dtype {
                    DType::F32 => bytes.extend_from_slice(&value.to_le_bytes()),
                    DType::F16 => bytes.extend(half::f16::from_f32(value).to_le_bytes()),
                    _ => bytes.extend(half::bf16::from_f32(value).to_le_bytes()),
                }
            }
            writer.write(&bytes).unwrap();
            left -= count;
        }
    }
    writer.finish().unwrap();
}

pub fn affine(bits: u32, group: usize) -> Codec {
    Codec::Affine(AffineCodec::new(bits, group).unwrap())
}

pub fn plan(sizes: Sizes, expert_codec: Codec) -> PackPlan {
    let Sizes {
        hidden,
        inner,
        experts,
        layers,
        vocab,
    } = sizes;
    let matrix = |name: &str, tensor: &str, first: usize, rows, cols, codec| PlannedMatrix {
        name: name.to_owned(),
        source: MatrixSource {
            tensor: tensor.to_owned(),
            first_element: first as u64,
            steps: None,
            coded: None,
        },
        rows,
        cols,
        codec,
        importance: ColumnWeights::default(),
    };
    let expert = |layer: usize, expert: usize| {
        let gate_up = format!("layers.{layer}.experts.gate_up");
        let down = format!("layers.{layer}.experts.down");
        let size = inner * hidden;
        vec![
            matrix(
                "gate_proj",
                &gate_up,
                2 * expert * size,
                inner,
                hidden,
                expert_codec,
            ),
            matrix(
                "up_proj",
                &gate_up,
                (2 * expert + 1) * size,
                inner,
                hidden,
                expert_codec,
            ),
            matrix(
                "down_proj",
                &down,
                expert * size,
                hidden,
                inner,
                expert_codec,
            ),
        ]
    };
    let layer = |layer| PlannedLayer {
        layer,
        experts: (0..experts).map(|index| expert(layer, index)).collect(),
    };
    PackPlan {
        dense: vec![
            PlannedTensor::Matrix(matrix(
                "embed",
                "embed.weight",
                0,
                vocab,
                hidden,
                affine(6, 32),
            )),
            PlannedTensor::Copy {
                name: "norm.weight".into(),
                source: "norm.weight".into(),
            },
            PlannedTensor::Matrix(matrix("half", "half.weight", 0, 8, hidden, Codec::F16)),
            PlannedTensor::Matrix(matrix(
                "lower_half",
                "half.weight",
                4 * hidden,
                4,
                hidden,
                Codec::F32,
            )),
        ],
        layers: (0..layers).map(layer).collect(),
        copied_files: vec!["config.json".into(), "tokenizer.json".into()],
        codecs: BTreeMap::from([("experts".into(), format!("{expert_codec} (largest part)"))]),
        skipped: vec!["vision.weight".into()],
    }
}

/// A small checkpoint and where to pack it.
pub struct Case {
    _temporary: tempfile::TempDir,
    pub source: PathBuf,
    pub dst: PathBuf,
    pub partial: PathBuf,
}

pub fn case() -> Case {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write_checkpoint(&at("source"), SMALL);
    Case {
        source: at("source"),
        dst: at("dst"),
        partial: at("dst.partial"),
        _temporary: dir,
    }
}

pub fn pack_quietly(source: &Path, plan: &PackPlan, dst: &Path) -> Result<PackReport> {
    pack_with(source, plan, dst, 2, &mut |_| ())
}

pub fn pack_with(
    source: &Path,
    plan: &PackPlan,
    dst: &Path,
    threads: usize,
    progress: &mut dyn FnMut(PackProgress),
) -> Result<PackReport> {
    pack(
        &Checkpoint::open(source)?,
        source,
        plan,
        dst,
        threads,
        progress,
    )
}

/// Every file under a directory with its bytes.
pub fn contents(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.insert(
                    path.strip_prefix(dir).unwrap().to_path_buf(),
                    fs::read(&path).unwrap(),
                );
            }
        }
    }
    found
}

/// Fails, naming the files, if two directories differ.
pub fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (contents(a), contents(b));
    assert_eq!(a.keys().collect::<Vec<_>>(), b.keys().collect::<Vec<_>>());
    for (path, bytes) in &a {
        assert!(bytes == &b[path], "{} differs", path.display());
    }
}

/// Flips one bit of a file.
pub fn flip(path: &Path, offset: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[offset] ^= 0x10;
    fs::write(path, bytes).unwrap();
}
