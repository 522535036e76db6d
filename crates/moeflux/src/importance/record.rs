//! Recording: runs a text and adds up the squares of what every matrix is multiplied with.

use std::collections::BTreeMap;
use std::path::Path;

use super::file::{self, Tensor, Values};
use super::identity;
use crate::backend::{ExpertSquares, LayerSquares, add_squares};
use crate::graph::{BufferPool, Op};
use crate::info::Opened;
use crate::models::{Blueprint, ExpertLayer, WeightKind};
use crate::{Engine, EngineOptions, Error, Session, Want};

/// An open model that notes what its matrices are given. Its sums take eight bytes for each column
/// of each expert, within the memory bound.
pub struct ImportanceRecorder {
    engine: Engine,
    blueprint: Blueprint,
    identity: u64,
    dense: DenseSquares,
    tokens: u64,
}

/// Sums of squares of what resident matrices are given, by their places among the weights.
#[derive(Default)]
struct DenseSquares {
    /// Of the first matrix of each product: rows, and sums of squares.
    sums: BTreeMap<usize, (u64, Vec<f64>)>,
    /// The first matrix of the product that another is in.
    firsts: BTreeMap<usize, usize>,
}

impl ImportanceRecorder {
    /// Opens the model at `path`.
    ///
    /// # Errors
    /// As [`Engine::open`], or options that have experts computed elsewhere than on the processor.
    pub fn open(path: &Path, options: &EngineOptions) -> Result<ImportanceRecorder, Error> {
        if options.backend.is_some() {
            return Err(Error::Option {
                flag: "--device",
                problem: "importances are recorded on the processor; pass --device cpu".to_owned(),
            });
        }
        let opened = Opened::open(path)?;
        let identity = identity(&opened.files, &opened.blueprint)?;
        let blueprint = opened.blueprint;
        let layers = blueprint.experts.iter();
        let sizes = |layer: &ExpertLayer| {
            let sizes = [layer.experts, layer.hidden, layer.intermediate];
            (layer.layer, sizes)
        };
        let squares = ExpertSquares::new(layers.map(sizes));
        let engine = Engine::open(path, options)?;
        engine.record_squares(squares);
        Ok(ImportanceRecorder {
            engine,
            blueprint,
            identity,
            dense: DenseSquares::default(),
            tokens: 0,
        })
    }

    /// A new session, which begins without what came before.
    pub fn session(&self) -> Session {
        self.engine.session()
    }

    /// The most tokens that one call of [`ImportanceRecorder::run`] should get.
    pub fn chunk_tokens(&self) -> usize {
        self.engine.stats().memory.chunk_outputs.max(1)
    }

    /// Runs the next tokens of a session and notes what they bring.
    ///
    /// # Errors
    /// As [`Engine::prefill`].
    pub fn run(&mut self, session: &mut Session, tokens: &[u32]) -> Result<(), Error> {
        let Self {
            engine,
            blueprint,
            dense,
            ..
        } = self;
        // The head takes part, so that every token's logits are wanted.
        let logits = engine.prefill_observed(
            session,
            tokens,
            Want::All,
            &mut |op, buffers: &BufferPool| {
                if let Op::Matmul { x, outputs, .. } = op {
                    let weights = outputs.iter().map(|&(weight, _)| weight.index());
                    dense.add(blueprint, weights, buffers.get(*x));
                }
            },
        )?;
        engine.recycle(logits);
        self.tokens += tokens.len() as u64;
        Ok(())
    }

    /// Writes what was recorded to the file at `path`; gives the experts that no token chose, and
    /// all.
    ///
    /// # Errors
    /// A failed write.
    pub fn write(self, path: &Path) -> Result<(usize, usize), Error> {
        let Self {
            engine,
            blueprint,
            identity,
            dense,
            tokens,
        } = self;
        let lost = || Error::Internal("the experts' sums are gone".to_owned());
        let experts = engine.recorded_squares().ok_or_else(lost)?;
        // Makes room for what is written.
        drop(engine);
        let mut tensors = Vec::new();
        for (index, decl) in blueprint.weights.iter().enumerate() {
            if let (WeightKind::Matrix { cols, .. }, Some((rows, sums))) =
                (&decl.kind, dense.of(index))
            {
                tensors.push(Tensor {
                    name: decl.name.clone(),
                    shape: vec![*cols],
                    values: Values::Floats(means(sums, *rows)),
                });
            }
        }
        let (mut unseen, mut all) = (0, 0);
        for (layer, squares) in experts.layers() {
            unseen += squares.tokens.iter().filter(|&&tokens| tokens == 0).count();
            all += squares.tokens.len();
            tensors.extend(layer_tensors(layer, squares));
        }
        file::write(path, identity, tokens, tensors)?;
        Ok((unseen, all))
    }
}

impl DenseSquares {
    /// Adds the rows of the input of a product with the matrices `weights`.
    fn add(&mut self, blueprint: &Blueprint, weights: impl Iterator<Item = usize>, x: &[f32]) {
        let mut first = None;
        for weight in weights {
            if let Some(first) = first {
                self.firsts.insert(weight, first);
                continue;
            }
            let kind = blueprint.weights.get(weight).map(|decl| &decl.kind);
            let Some(&WeightKind::Matrix { cols, .. }) = kind else {
                return;
            };
            first = Some(weight);
            let none = || (0, vec![0.0; cols]);
            let (rows, sums) = self.sums.entry(weight).or_insert_with(none);
            for row in x.chunks_exact(cols.max(1)) {
                add_squares(sums, row);
                *rows += 1;
            }
        }
    }

    fn of(&self, weight: usize) -> Option<&(u64, Vec<f64>)> {
        self.sums.get(self.firsts.get(&weight).unwrap_or(&weight))
    }
}

fn layer_tensors(layer: usize, squares: &LayerSquares) -> [Tensor; 3] {
    let experts = squares.tokens.len();
    let rows = |sums: &[f64]| {
        let width = sums.len() / experts.max(1);
        let rows = sums.chunks_exact(width.max(1)).zip(&squares.tokens);
        let values = rows.flat_map(|(sums, &tokens)| means(sums, tokens));
        (vec![experts, width], Values::Floats(values.collect()))
    };
    let parts = [
        (vec![experts], Values::Numbers(squares.tokens.clone())),
        rows(&squares.input),
        rows(&squares.inner),
    ];
    let mut names = file::layer_names(layer).into_iter();
    parts.map(|(shape, values)| Tensor {
        name: names.next().unwrap_or_default(),
        shape,
        values,
    })
}

fn means(sums: &[f64], count: u64) -> Vec<f32> {
    let count = count.max(1) as f64;
    sums.iter().map(|sum| (sum / count) as f32).collect()
}
