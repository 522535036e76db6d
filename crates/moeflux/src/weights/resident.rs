//! The weights that stay in memory.

use std::collections::BTreeMap;

use moeflux_formats::Codec;
use moeflux_kernels::Matrix;

use super::files::ModelFiles;
use super::layout::{AlignedBytes, MatrixLayout, check_shape, find_matrix};
use crate::Error;
use crate::graph::WeightId;
use crate::models::{Blueprint, MatrixClass, VectorFold, WeightDecl, WeightKind};

enum Weight {
    Matrix {
        layout: MatrixLayout,
        bytes: AlignedBytes,
    },
    Vector(Vec<f32>),
}

/// What the files' headers say about the resident weights.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Bytes that the weights take in memory.
    pub bytes: u64,
    /// Bytes that one token reads: everything but the embedding table, of which it reads one row.
    pub token_bytes: u64,
    /// The codecs in use in each class of matrices.
    pub codecs: BTreeMap<MatrixClass, Vec<Codec>>,
}

impl Survey {
    /// Looks at all resident weights; checks names, types and shapes.
    ///
    /// # Errors
    /// A missing tensor, or one of another type or shape.
    pub fn of(files: &ModelFiles, blueprint: &Blueprint) -> Result<Survey, Error> {
        let mut survey = Survey::default();
        for decl in &blueprint.weights {
            let name = files.full_name(&decl.name);
            let (bytes, token_bytes) = match &decl.kind {
                WeightKind::Matrix { rows, cols, class } => {
                    let found = find_matrix(files.dense(), &name, *rows, *cols)?;
                    let bytes: u64 = found.parts.iter().map(|p| p.bytes).sum();
                    let codecs = survey.codecs.entry(*class).or_default();
                    if !codecs.contains(&found.codec) {
                        codecs.push(found.codec);
                    }
                    let embedding = *class == MatrixClass::Embedding;
                    (
                        bytes,
                        if embedding {
                            bytes / *rows as u64
                        } else {
                            bytes
                        },
                    )
                }
                WeightKind::Vector { shape, .. } => {
                    let info = files.dense().require_float(&name)?;
                    check_shape(files.dense(), &name, info, shape)?;
                    (info.elements() * 4, info.elements() * 4)
                }
            };
            survey.bytes += bytes;
            survey.token_bytes += token_bytes;
        }
        Ok(survey)
    }
}

/// A model's resident weights, by [`WeightId`].
pub struct Weights {
    weights: Vec<Weight>,
}

impl Weights {
    /// Reads all resident weights.
    ///
    /// # Errors
    /// As [`Survey::of`], or a failed read.
    pub fn load(files: &ModelFiles, blueprint: &Blueprint) -> Result<Weights, Error> {
        let weights = blueprint.weights.iter().map(|decl| load(files, decl));
        Ok(Weights {
            weights: weights.collect::<Result<_, _>>()?,
        })
    }

    /// The matrix `id`.
    ///
    /// # Errors
    /// [`Error::Internal`] if it is a vector.
    pub fn matrix(&self, id: WeightId) -> Result<Matrix<'_>, Error> {
        match self.weights.get(id.index()) {
            Some(Weight::Matrix { layout, bytes }) => layout.view(bytes.as_slice()),
            _ => Err(Error::Internal(format!("weight {id:?} is not a matrix"))),
        }
    }

    /// The vector `id`.
    ///
    /// # Errors
    /// [`Error::Internal`] if it is a matrix.
    pub fn vector(&self, id: WeightId) -> Result<&[f32], Error> {
        match self.weights.get(id.index()) {
            Some(Weight::Vector(values)) => Ok(values),
            _ => Err(Error::Internal(format!("weight {id:?} is not a vector"))),
        }
    }
}

fn load(files: &ModelFiles, decl: &WeightDecl) -> Result<Weight, Error> {
    let name = files.full_name(&decl.name);
    match &decl.kind {
        WeightKind::Matrix { rows, cols, .. } => {
            let found = find_matrix(files.dense(), &name, *rows, *cols)?;
            let layout = MatrixLayout::sequential(found.codec, *rows, *cols, 0);
            let mut bytes = AlignedBytes::zeroed(layout.end());
            for (start, info) in layout.starts().into_iter().zip(found.parts) {
                let part = &mut bytes.as_mut_slice()[start..start + info.bytes as usize];
                files.dense().read(info, 0, part)?;
            }
            Ok(Weight::Matrix { layout, bytes })
        }
        WeightKind::Vector { shape, fold } => {
            let values = files.dense().read_f32(&name, shape)?;
            Ok(Weight::Vector(folded(values, shape, *fold)))
        }
    }
}

fn folded(mut values: Vec<f32>, shape: &[usize], fold: VectorFold) -> Vec<f32> {
    match fold {
        VectorFold::None => values,
        VectorFold::AddOne => {
            values.iter_mut().for_each(|v| *v += 1.0);
            values
        }
        VectorFold::TransposeConv => {
            let kernel = shape.last().copied().unwrap_or(1);
            let channels = values.len() / kernel;
            let tap = |i: usize| values[(i % channels) * kernel + i / channels];
            (0..values.len()).map(tap).collect()
        }
    }
}
