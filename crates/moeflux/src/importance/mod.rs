//! How much columns of a model's matrices weigh: the mean square of what each is multiplied with
//! while a text runs. An error of a weight adds that much to the squared error of its product, so
//! packing rounds by it.
//!
//! Each routed expert is recorded with the tokens that chose it. One that few chose takes over from
//! its layer's mean, as if [`BORROWED_TOKENS`] more tokens had been of that kind.

mod file;
mod record;

pub use record::ImportanceRecorder;

use std::collections::BTreeMap;
use std::path::Path;

use moeflux_formats::ColumnWeights;
use xxhash_rust::xxh3::Xxh3;

use crate::Error;
use crate::info::Opened;
use crate::models::{Blueprint, WeightKind};
use crate::weights::ModelFiles;

/// Tokens of the layer's mean that each expert's own are mixed with.
const BORROWED_TOKENS: f64 = 16.0;
/// A column weighs at least this part of the mean of its matrix: no text sees everything.
const LEAST_SHARE: f64 = 0.01;
/// Values that count of a vector when models are told apart.
const SAMPLE_BYTES: u64 = 4096;

/// The importance of all matrices' columns, as [`ImportanceRecorder`] wrote it.
pub struct Importance {
    identity: u64,
    tokens: u64,
    /// By the matrix's name without the model's prefix: mean squares, `[cols]`.
    dense: BTreeMap<String, Vec<f32>>,
    layers: BTreeMap<usize, LayerImportance>,
}

/// Of a layer's routed experts.
struct LayerImportance {
    /// Tokens that chose each expert.
    tokens: Vec<u64>,
    /// Of the input of gate and up, `hidden` columns.
    input: ExpertMeans,
    /// Of the input of down, `intermediate` columns.
    inner: ExpertMeans,
}

/// Mean squares of an input of a layer's experts.
struct ExpertMeans {
    /// `[experts, cols]`.
    own: Vec<f32>,
    /// Of all experts together, `[cols]`.
    all: Vec<f64>,
}

impl ExpertMeans {
    fn new(own: Vec<f32>, tokens: &[u64]) -> ExpertMeans {
        let cols = own.len() / tokens.len().max(1);
        // Counts are a file's: as integers they might overflow.
        let total = tokens.iter().map(|&tokens| tokens as f64).sum::<f64>();
        let total = total.max(1.0);
        let mut all = vec![0.0; cols];
        for (row, &tokens) in own.chunks_exact(cols.max(1)).zip(tokens) {
            for (all, &x) in all.iter_mut().zip(row) {
                *all += f64::from(x) * (tokens as f64 / total);
            }
        }
        ExpertMeans { own, all }
    }

    /// Of an expert that `tokens` tokens chose, mixed with those of all.
    fn weights(&self, expert: usize, tokens: u64) -> ColumnWeights {
        let (cols, tokens) = (self.all.len(), tokens as f64);
        let own = self.own.get(expert * cols..(expert + 1) * cols);
        let pairs = own.unwrap_or(&[]).iter().zip(&self.all);
        bounded(pairs.map(|(&own, all)| {
            (f64::from(own) * tokens + all * BORROWED_TOKENS) / (tokens + BORROWED_TOKENS)
        }))
    }
}

/// Which matrices of an expert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpertInput {
    /// Of gate and up.
    Hidden,
    /// Of down.
    Inner,
}

impl Importance {
    /// Tokens of the text.
    pub fn tokens(&self) -> u64 {
        self.tokens
    }

    /// The importance of a resident matrix's columns, by its name without the model's prefix; none
    /// if columns are alike or cannot be told (embeddings; matrices used by heads in parts).
    pub(crate) fn dense(&self, name: &str) -> ColumnWeights {
        let found = self.dense.get(name);
        found.map_or_else(ColumnWeights::default, |means| {
            bounded(means.iter().copied().map(f64::from))
        })
    }

    /// The importance of the columns of a routed expert's matrices.
    pub(crate) fn expert(&self, layer: usize, expert: usize, input: ExpertInput) -> ColumnWeights {
        let Some(of) = self.layers.get(&layer) else {
            return ColumnWeights::default();
        };
        let tokens = of.tokens.get(expert).copied().unwrap_or(0);
        match input {
            ExpertInput::Hidden => of.input.weights(expert, tokens),
            ExpertInput::Inner => of.inner.weights(expert, tokens),
        }
    }

    /// Reads the file at `path` for a model.
    ///
    /// # Errors
    /// No such file, one of another kind or damaged, or of another model.
    pub(crate) fn open(path: &Path, model: &Opened) -> Result<Importance, Error> {
        let (head, file) = file::read_head(path)?;
        if head.identity != identity(&model.files, &model.blueprint)? {
            return Err(Error::Option {
                flag: "--importance",
                problem: format!(
                    "{} was recorded with another model than {}; record it with that or with what \
                     was packed from it (moeflux eval importance)",
                    path.display(),
                    model.files.dir().display()
                ),
            });
        }
        file::read(&file, path, head, &model.blueprint)
    }
}

/// What weighs too little weighs more; relative to the mean, which becomes 1. None if nothing was
/// seen.
fn bounded(squares: impl Iterator<Item = f64> + Clone) -> ColumnWeights {
    let count = squares.clone().count().max(1) as f64;
    let mean = squares.clone().sum::<f64>() / count;
    if !(mean.is_finite() && mean > 0.0) {
        return ColumnWeights::default();
    }
    let weights = squares.map(|x| (x / mean).max(LEAST_SHARE) as f32);
    ColumnWeights::new(weights.collect())
}

/// Tells models apart by names, shapes and the vectors, which packing leaves as they are: a model
/// and what is packed from it are the same here.
fn identity(files: &ModelFiles, blueprint: &Blueprint) -> Result<u64, Error> {
    let mut hash = Xxh3::new();
    hash.update(blueprint.model_type.as_bytes());
    for layer in &blueprint.experts {
        let sizes = [layer.layer, layer.experts, layer.hidden, layer.intermediate];
        for size in sizes {
            hash.update(&(size as u64).to_le_bytes());
        }
    }
    let mut sample = Vec::new();
    for decl in &blueprint.weights {
        hash.update(decl.name.as_bytes());
        match &decl.kind {
            WeightKind::Matrix { rows, cols, .. } | WeightKind::Table { rows, cols } => {
                for size in [rows, cols] {
                    hash.update(&(*size as u64).to_le_bytes());
                }
            }
            WeightKind::Vector { .. } => {
                let info = files.dense().require(&files.full_name(&decl.name))?;
                sample.resize(info.bytes.min(SAMPLE_BYTES) as usize, 0);
                files.dense().read(info, 0, &mut sample)?;
                hash.update(&sample);
            }
        }
    }
    Ok(hash.digest())
}
