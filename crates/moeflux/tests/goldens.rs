//! Logits and greedy continuations against `transformers` in float32, for every checkpoint under
//! `fixtures/` (see its README): at once, token by token, split at many places, and packed
//! without loss.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)]

mod common;

use std::path::{Path, PathBuf};

use moeflux::formats::{Checkpoint, DType};
use moeflux::{Engine, EngineOptions, KvType, PackOptions, Session, Want, pack};

/// Relative L2 allowed at any position, with keys and values in f32.
const LARGEST_ERROR: f64 = 1e-3;
/// The same with keys and values in binary16, at the median position: where the rounding turns
/// a router's near tie, a position gets other experts, and there is no saying how far that goes.
const MEDIAN_ERROR_16_BITS: f64 = 5e-3;
/// A greedy choice counts where the reference's margin is more than this many times our error.
const DECISIVE: f32 = 10.0;

/// A checkpoint and the reference's answers to one prompt.
struct Golden {
    name: String,
    dir: PathBuf,
    tokens: Vec<u32>,
    vocab: usize,
    /// `[tokens, vocab]`.
    logits: Vec<f32>,
    greedy_tokens: Vec<u32>,
    greedy_margins: Vec<f32>,
}

/// The worst difference from the reference over some positions.
#[derive(Clone, Copy, Default)]
struct Difference {
    relative: f64,
    absolute: f32,
}

impl Golden {
    fn open(dir: PathBuf) -> Golden {
        let answers = Checkpoint::open_files(vec![dir.join("golden.safetensors")]).unwrap();
        let shape = answers.require("logits").unwrap().shape.clone();
        let steps = answers.require("greedy_margins").unwrap().shape.clone();
        let golden = Golden {
            name: dir.file_name().unwrap().to_string_lossy().into_owned(),
            tokens: read_u32(&answers, "tokens"),
            vocab: shape[1],
            logits: answers.read_f32("logits", &shape).unwrap(),
            greedy_tokens: read_u32(&answers, "greedy_tokens"),
            greedy_margins: answers.read_f32("greedy_margins", &steps).unwrap(),
            dir,
        };
        assert_eq!(golden.tokens.len(), shape[0], "{}", golden.name);
        assert_eq!(golden.greedy_tokens.len(), steps[0], "{}", golden.name);
        assert!(
            golden.tokens.len() > 64,
            "{}: no more than one page of keys",
            golden.name
        );
        golden
    }

    fn engine(&self) -> Engine {
        open(&self.dir, &exact())
    }

    /// Compares the logits of positions `first..` with the reference's; panics where they are off.
    fn check(&self, how: &str, first: usize, ours: &[f32]) -> Difference {
        let differences = self.differences(LARGEST_ERROR, how, first, ours);
        let none = Difference::default();
        differences.into_iter().fold(none, Difference::max)
    }

    /// Each position's difference, none of them above `limit`.
    fn differences(&self, limit: f64, how: &str, first: usize, ours: &[f32]) -> Vec<Difference> {
        assert_eq!(
            ours.len() % self.vocab,
            0,
            "{}: {how}: not whole rows",
            self.name
        );
        assert!(!ours.is_empty(), "{}: {how}: no logits", self.name);
        let compare = |(row, ours): (usize, &[f32])| {
            let position = first + row;
            let start = position * self.vocab;
            difference(ours, &self.logits[start..start + self.vocab], limit)
                .unwrap_or_else(|e| panic!("{}: {how}: position {position}: {e}", self.name))
        };
        ours.chunks_exact(self.vocab)
            .enumerate()
            .map(compare)
            .collect()
    }

    fn report(&self, how: &str, worst: Difference) {
        println!(
            "{:24} {how:28} relative L2 {:.1e}, largest difference {:.1e}",
            self.name, worst.relative, worst.absolute
        );
    }
}

impl Difference {
    fn max(self, other: Difference) -> Difference {
        Difference {
            relative: self.relative.max(other.relative),
            absolute: self.absolute.max(other.absolute),
        }
    }
}

/// How far one position's logits are from the reference's, or what is wrong with them.
fn difference(ours: &[f32], reference: &[f32], limit: f64) -> Result<Difference, String> {
    if let Some(at) = ours.iter().position(|x| !x.is_finite()) {
        return Err(format!("logit {at} is {}", ours[at]));
    }
    if ours.iter().all(|&x| x == 0.0) {
        return Err("all logits are zero".to_owned());
    }
    let (mut error, mut size, mut absolute) = (0f64, 0f64, 0f32);
    for (&a, &b) in ours.iter().zip(reference) {
        error += (f64::from(a) - f64::from(b)).powi(2);
        size += f64::from(b).powi(2);
        absolute = absolute.max((a - b).abs());
    }
    let relative = (error / size).sqrt();
    // Written so that NaN fails too.
    if relative <= limit {
        return Ok(Difference { relative, absolute });
    }
    Err(format!(
        "relative L2 {relative:.2e} is above {limit:.0e}, by {absolute} at most"
    ))
}

fn read_u32(file: &Checkpoint, name: &str) -> Vec<u32> {
    let info = file.require(name).unwrap();
    assert_eq!(info.dtype, DType::U32, "{name}");
    let mut bytes = vec![0; info.bytes as usize];
    file.read(info, 0, &mut bytes).unwrap();
    bytes
        .chunks_exact(4)
        .map(|b| u32::from_le_bytes(b.try_into().unwrap()))
        .collect()
}

/// Every fixture, in order of name.
fn goldens() -> Vec<Golden> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures");
    let mut dirs: Vec<PathBuf> = std::fs::read_dir(&root)
        .unwrap_or_else(|e| panic!("{}: {e}", root.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|dir| dir.join("golden.safetensors").is_file())
        .collect();
    dirs.sort();
    let goldens: Vec<Golden> = dirs.into_iter().map(Golden::open).collect();
    let names: Vec<&str> = goldens.iter().map(|g| g.name.as_str()).collect();
    for needed in common::FIXTURES {
        assert!(
            names.contains(&needed),
            "fixture {needed} is gone: {names:?}"
        );
    }
    goldens
}

fn open(dir: &Path, options: &EngineOptions) -> Engine {
    Engine::open(dir, options).unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
}

fn all_logits(engine: &Engine, session: &mut Session, tokens: &[u32]) -> Vec<f32> {
    let logits = engine.prefill(session, tokens, Want::All).unwrap();
    assert_eq!(logits.rows, tokens.len());
    logits.values
}

/// Options under which nothing is rounded below f32 but the weights.
fn exact() -> EngineOptions {
    EngineOptions {
        kv: KvType::F32,
        ..EngineOptions::default()
    }
}

fn one_batch(engine: &Engine, tokens: &[u32]) -> Vec<f32> {
    all_logits(engine, &mut engine.session(), tokens)
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn a_prompt_at_once() {
    for golden in goldens() {
        let ours = one_batch(&golden.engine(), &golden.tokens);
        let worst = golden.check("at once", 0, &ours);
        golden.report("at once", worst);
    }
}

#[test]
fn the_reference_backend() {
    for golden in goldens() {
        let options = EngineOptions {
            reference: true,
            ..exact()
        };
        let ours = one_batch(&open(&golden.dir, &options), &golden.tokens);
        let worst = golden.check("reference backend", 0, &ours);
        golden.report("reference backend", worst);
    }
}

#[test]
fn token_by_token() {
    for golden in goldens() {
        let engine = golden.engine();
        let mut session = engine.session();
        let mut worst = Difference::default();
        for (position, token) in golden.tokens.iter().enumerate() {
            let ours = all_logits(&engine, &mut session, std::slice::from_ref(token));
            worst = worst.max(golden.check("token by token", position, &ours));
        }
        golden.report("token by token", worst);
    }
}

#[test]
fn split_at_many_lengths() {
    for golden in goldens() {
        let engine = golden.engine();
        let n = golden.tokens.len();
        let mut worst = Difference::default();
        for split in [1, 2, 17, 63, 64, 65, n / 2, n - 1] {
            let how = format!("split at {split}");
            let mut session = engine.session();
            let (head, tail) = golden.tokens.split_at(split);
            for (first, part) in [(0, head), (split, tail)] {
                let ours = all_logits(&engine, &mut session, part);
                worst = worst.max(golden.check(&how, first, &ours));
            }
        }
        golden.report("split", worst);
    }
}

#[test]
fn in_small_chunks() {
    for golden in goldens() {
        let mut worst = Difference::default();
        for chunk_tokens in [5, 64] {
            let options = EngineOptions {
                chunk_tokens: Some(chunk_tokens),
                ..exact()
            };
            let ours = one_batch(&open(&golden.dir, &options), &golden.tokens);
            worst = worst.max(golden.check(&format!("chunks of {chunk_tokens}"), 0, &ours));
        }
        golden.report("small chunks", worst);
    }
}

/// The reference's continuation, fed token by token so that one near-tie does not decide the rest.
#[test]
fn the_greedy_continuation() {
    for golden in goldens() {
        let engine = golden.engine();
        let mut session = engine.session();
        let prompt = all_logits(&engine, &mut session, &golden.tokens);
        let error = golden.check("prompt", 0, &prompt).absolute;
        let mut last = prompt[prompt.len() - golden.vocab..].to_vec();
        let mut decisive = 0;
        for (step, (&token, &margin)) in golden
            .greedy_tokens
            .iter()
            .zip(&golden.greedy_margins)
            .enumerate()
        {
            if margin > DECISIVE * error {
                decisive += 1;
                assert_eq!(best(&last), token, "{}: step {step}", golden.name);
            }
            last = all_logits(&engine, &mut session, &[token]);
        }
        println!(
            "{:24} {decisive} of {} steps decisive",
            golden.name,
            golden.greedy_tokens.len()
        );
        assert!(
            decisive * 4 >= golden.greedy_tokens.len() * 3,
            "{}: {decisive}",
            golden.name
        );
    }
}

fn best(logits: &[f32]) -> u32 {
    let first = |a: (usize, f32), b: (usize, f32)| if b.1 > a.1 { b } else { a };
    logits.iter().copied().enumerate().reduce(first).unwrap().0 as u32
}

/// Packing at 16 bits keeps every value, so the answers keep every bit.
#[test]
fn packed_without_loss() {
    let scratch = tempfile::tempdir().unwrap();
    for golden in goldens() {
        let packed_dir = scratch.path().join(&golden.name);
        let options = PackOptions {
            bits: 16,
            ..PackOptions::default()
        };
        pack(&golden.dir, &packed_dir, &options, &mut |_| {}).unwrap();
        let packed = one_batch(&open(&packed_dir, &exact()), &golden.tokens);
        let worst = golden.check("packed", 0, &packed);
        golden.report("packed at 16 bits", worst);
        let plain = one_batch(&golden.engine(), &golden.tokens);
        assert!(
            bits(&packed) == bits(&plain),
            "{}: packing changed the answer",
            golden.name
        );
    }
}

#[test]
fn binary16_keys_and_values() {
    for golden in goldens() {
        let ours = one_batch(
            &open(&golden.dir, &EngineOptions::default()),
            &golden.tokens,
        );
        let mut all = golden.differences(f64::MAX, "f16 keys and values", 0, &ours);
        all.sort_by(|a, b| a.relative.total_cmp(&b.relative));
        let median = all[all.len() / 2];
        golden.report("f16 keys: median position", median);
        golden.report("f16 keys: worst position", all[all.len() - 1]);
        assert!(median.relative <= MEDIAN_ERROR_16_BITS, "{}", golden.name);
        let exact = one_batch(&golden.engine(), &golden.tokens);
        assert!(bits(&ours) != bits(&exact), "{}: not rounded", golden.name);
    }
}

#[test]
fn the_measure_rejects_what_is_wrong() {
    let reference = [1.0, -2.0, 3.0];
    assert!(difference(&[1.0, -2.0, 3.0], &reference, LARGEST_ERROR).is_ok());
    assert!(difference(&[0.0, 0.0, 0.0], &reference, LARGEST_ERROR).is_err());
    assert!(difference(&[1.0, f32::NAN, 3.0], &reference, LARGEST_ERROR).is_err());
    assert!(
        difference(&[1.01, -2.02, 3.03], &reference, LARGEST_ERROR).is_err(),
        "a scale is an error"
    );
    assert!(difference(&[3.0, -2.0, 1.0], &reference, LARGEST_ERROR).is_err());
}
