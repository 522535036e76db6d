//! Importances that are recorded: they are what their definition says, whatever the machine does,
//! and files that are not of the model are refused.

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use common::{fixture, open, options};
use moeflux::config::Config;
use moeflux::formats::{Checkpoint, DType, write_safetensors};
use moeflux::graph::{BufferPool, Op};
use moeflux::models::{self, Blueprint};
use moeflux::{EngineOptions, Error, ImportanceRecorder, PackOptions, Want, pack};

const MODEL: &str = "qwen3_5_moe_text_f32";
const HIDDEN: usize = 64;
const INNER: usize = 32;
const EXPERTS: usize = 4;

fn tokens() -> Vec<u32> {
    (0..90).map(|i| (i * 37 + i * i % 11) % 255).collect()
}

fn f32_options() -> EngineOptions {
    EngineOptions {
        activations: moeflux::Activations::F32,
        ..options()
    }
}

/// Records two sessions of `tokens` in steps of at most `chunk`.
fn record(model: &Path, file: &Path, options: &EngineOptions, chunk: usize) -> (usize, usize) {
    let mut recorder = ImportanceRecorder::open(model, options).expect("the model opens");
    let tokens = tokens();
    for window in tokens.chunks(60) {
        let mut session = recorder.session();
        for part in window.chunks(chunk) {
            recorder.run(&mut session, part).expect("the step runs");
        }
    }
    recorder.write(file).expect("the file is written")
}

fn read(file: &Path, name: &str, shape: &[usize]) -> Vec<f32> {
    let file = Checkpoint::open_files(vec![file.to_owned()]).expect("a file of tensors");
    file.read_f32(name, shape).expect("the tensor is there")
}

fn assert_near(what: &str, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (column, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let off = (f64::from(found) - expected).abs();
        assert!(
            found.is_finite() && off <= 1e-4 * expected.abs() + 1e-9,
            "{what}, column {column}: {found}, not {expected}"
        );
    }
}

/// Mean squares of the columns of rows.
#[derive(Default)]
struct Means {
    rows: f64,
    squares: Vec<f64>,
}

impl Means {
    fn add(&mut self, row: impl IntoIterator<Item = f64>) {
        let row: Vec<f64> = row.into_iter().collect();
        self.squares.resize(row.len(), 0.0);
        for (sum, x) in self.squares.iter_mut().zip(row) {
            *sum += x * x;
        }
        self.rows += 1.0;
    }

    fn of(&self, columns: usize) -> Vec<f64> {
        let mut squares = self.squares.clone();
        squares.resize(columns, 0.0);
        squares.iter().map(|sum| sum / self.rows.max(1.0)).collect()
    }
}

fn product(matrix: &[f32], cols: usize, x: &[f32]) -> Vec<f64> {
    let dot = |row: &[f32]| {
        let pairs = row.iter().zip(x);
        pairs.map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
    };
    matrix.chunks_exact(cols).map(dot).collect()
}

/// What the definition says of a model's matrices, from what operations are seen to read.
struct Expected {
    blueprint: Blueprint,
    weights: Checkpoint,
    dense: BTreeMap<String, Means>,
    /// By layer and expert: of gate and up, and of down.
    routed: BTreeMap<(usize, u32), (Means, Means)>,
}

impl Expected {
    fn of(model: &Path) -> Expected {
        let config = Config::open(model).expect("the fixture has a configuration");
        let mut expected = Expected {
            blueprint: models::blueprint(&config).expect("the architecture is known"),
            weights: Checkpoint::open(model).expect("the fixture opens"),
            dense: BTreeMap::new(),
            routed: BTreeMap::new(),
        };
        let engine = open(model, &f32_options());
        for window in tokens().chunks(60) {
            let mut session = engine.session();
            let mut note = |op: &Op, buffers: &BufferPool| expected.note(op, buffers, window.len());
            let seen = engine.prefill_observed(&mut session, window, Want::All, &mut note);
            seen.expect("the prompt runs");
        }
        expected
    }

    fn note(&mut self, op: &Op, buffers: &BufferPool, tokens: usize) {
        match op {
            Op::Matmul { x, outputs, .. } => {
                let x = buffers.get(*x);
                for &(weight, _) in outputs {
                    let name = self.blueprint.weights[weight.index()].name.clone();
                    let means = self.dense.entry(name).or_default();
                    for row in x.chunks_exact(x.len() / tokens) {
                        means.add(row.iter().copied().map(f64::from));
                    }
                }
            }
            Op::Experts {
                x,
                ids,
                top_k,
                layer,
                ..
            } => {
                let rows = buffers.get(*x).chunks_exact(HIDDEN);
                for (x, ids) in rows.zip(buffers.get_u32(*ids).chunks_exact(*top_k)) {
                    for &expert in ids {
                        let inner = self.inner(*layer, expert, x);
                        let means = self.routed.entry((*layer, expert)).or_default();
                        means.0.add(x.iter().copied().map(f64::from));
                        means.1.add(inner);
                    }
                }
            }
            _ => {}
        }
    }

    /// What an expert's down is multiplied with.
    fn inner(&self, layer: usize, expert: u32, x: &[f32]) -> Vec<f64> {
        let of = |part: &str| {
            let name = format!("model.layers.{layer}.mlp.experts.{expert}.{part}.weight");
            let matrix = self.weights.read_f32(&name, &[INNER, HIDDEN]);
            product(&matrix.expect("a matrix"), HIDDEN, x)
        };
        let pairs = of("gate_proj").into_iter().zip(of("up_proj"));
        let gated = pairs.map(|(gate, up)| gate / (1.0 + (-gate).exp()) * up);
        gated.collect()
    }
}

#[test]
fn means_are_those_of_the_definition() {
    let (dir, model) = (tempfile::tempdir().expect("a directory"), fixture(MODEL));
    let file = dir.path().join("importance.safetensors");
    let (unseen, all) = record(&model, &file, &f32_options(), 60);
    let Expected { dense, routed, .. } = Expected::of(&model);
    assert_eq!((unseen, all), (2 * EXPERTS - routed.len(), 2 * EXPERTS));
    for name in ["lm_head", "layers.1.self_attn.q_proj", "layers.0.mlp.gate"] {
        assert!(dense.contains_key(name), "{name} takes part");
    }
    for (name, means) in &dense {
        let cols = means.squares.len();
        assert_near(name, &read(&file, name, &[cols]), &means.of(cols));
    }
    for (layer, (part, width)) in [0, 1]
        .into_iter()
        .flat_map(|layer| [("input", HIDDEN), ("inner", INNER)].map(|p| (layer, p)))
    {
        let name = format!("experts.{layer}.{part}");
        let found = read(&file, &name, &[EXPERTS, width]);
        for (expert, found) in found.chunks_exact(width).enumerate() {
            let none = (Means::default(), Means::default());
            let of_expert = routed.get(&(layer, expert as u32));
            let (input, inner) = of_expert.unwrap_or(&none);
            let means = if part == "input" { input } else { inner };
            assert_near(&format!("{name} of {expert}"), found, &means.of(width));
        }
    }
}

/// The same text gives the same bytes, however it is cut and by however many threads.
#[test]
fn steps_threads_and_memory_change_nothing() {
    let (dir, model) = (tempfile::tempdir().expect("a directory"), fixture(MODEL));
    let file = |name: &str| dir.path().join(name);
    record(&model, &file("whole"), &options(), 60);
    let others = EngineOptions {
        threads: Some(3),
        expert_cache_bytes: Some(1 << 17),
        ..options()
    };
    record(&model, &file("parts"), &others, 7);
    let [whole, parts] = ["whole", "parts"].map(|name| std::fs::read(file(name)).expect("read"));
    assert!(whole == parts, "the files differ");
}

/// A model is itself after packing, and no other model is.
#[test]
fn a_file_belongs_to_a_model_in_every_codec() {
    let (dir, model) = (tempfile::tempdir().expect("a directory"), fixture(MODEL));
    let path = |name: &str| dir.path().join(name);
    let with = |file: &str| PackOptions {
        bits: 3,
        group: Some(32),
        importance: Some(path(file)),
        ..PackOptions::default()
    };
    let plain = PackOptions {
        importance: None,
        ..with("")
    };
    record(&model, &path("of-original"), &options(), 60);
    pack(&model, &path("plain"), &plain, &mut |_| {}).expect("packs");
    record(&path("plain"), &path("of-packed"), &options(), 60);
    for file in ["of-original", "of-packed"] {
        let name = format!("packed-{file}");
        pack(&model, &path(&name), &with(file), &mut |_| {}).expect("packs");
        let [rounded, other] = ["plain", &name].map(|model| {
            let expert = path(model).join("experts/layer-000.safetensors");
            std::fs::read(expert).expect("the experts are there")
        });
        assert_eq!(rounded.len(), other.len());
        assert!(rounded != other, "{file} changed nothing");
    }
    let refused = |source: &Path, options: &PackOptions| {
        let found = pack(source, &path("refused"), options, &mut |_| {});
        found.expect_err("it is refused")
    };
    let other = refused(&fixture("qwen3_5_moe_text"), &with("of-original"));
    assert!(matches!(
        other,
        Error::Option {
            flag: "--importance",
            ..
        }
    ));
    assert!(other.to_string().contains("another model"), "{other}");
    let floats = PackOptions {
        bits: 16,
        dense_bits: Some(16),
        head_bits: Some(16),
        ..with("of-original")
    };
    let kept = refused(&model, &floats);
    assert!(matches!(
        kept,
        Error::Option {
            flag: "--importance",
            ..
        }
    ));
    assert!(kept.to_string().contains("rounded"), "{kept}");
}

#[test]
fn damaged_files_are_refused() {
    let (dir, model) = (tempfile::tempdir().expect("a directory"), fixture(MODEL));
    let path = |name: &str| dir.path().join(name);
    record(&model, &path("whole"), &options(), 60);
    let bytes = std::fs::read(path("whole")).expect("read");
    std::fs::write(path("short"), &bytes[..bytes.len() - 40]).expect("written");
    let zeros = [0; 24];
    write_safetensors(&path("other"), &[("importance", DType::U64, &[3], &zeros)])
        .expect("written");
    write_safetensors(&path("tensors"), &[("weight", DType::F32, &[6], &zeros)]).expect("written");
    // The last number of the last tensor.
    let mut broken = bytes;
    let at = broken.len() - 4;
    broken[at..].copy_from_slice(&f32::NAN.to_le_bytes());
    std::fs::write(path("broken"), broken).expect("written");
    for (file, expected) in [
        ("missing", "missing"),
        ("short", "short"),
        ("other", "eval importance"),
        ("tensors", "eval importance"),
        ("broken", "NaN"),
    ] {
        let options = PackOptions {
            importance: Some(path(file)),
            ..PackOptions::default()
        };
        let refused = pack(&model, &path("model"), &options, &mut |_| {});
        let refused = refused.expect_err("it is refused");
        assert!(
            matches!(refused, Error::Format(_) | Error::Importance { .. }),
            "{file}: {refused:?}"
        );
        assert!(refused.to_string().contains(expected), "{file}: {refused}");
    }
    let elsewhere = EngineOptions {
        backend: Some(Arc::new(|| {
            Err(Error::Internal("not to be opened".to_owned()))
        })),
        ..options()
    };
    let refused = ImportanceRecorder::open(&model, &elsewhere).err();
    assert!(matches!(
        refused,
        Some(Error::Option {
            flag: "--device",
            ..
        })
    ));
}
