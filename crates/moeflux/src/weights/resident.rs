//! The weights that stay in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use moeflux_experts::ReaderChoice;
use moeflux_formats::{Codec, TensorInfo};
use moeflux_kernels::Matrix;

use super::files::ModelFiles;
use super::find::{check_shape, find_matrix, find_table};
use super::layout::MatrixLayout;
use super::parts::WeightPart;
use super::table::RowTable;
use crate::Error;
use crate::graph::WeightId;
use crate::huge_pages::HugePages;
use crate::memory::Locked;
use crate::models::{Blueprint, MatrixClass, VectorFold, WeightKind};

enum Weight {
    /// Where it lies in the mapping.
    Matrix(MatrixLayout),
    Vector(Vec<f32>),
    Table(RowTable),
}

/// What the files' headers say about the resident weights.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Bytes that the weights take in memory.
    pub bytes: u64,
    /// Bytes that one token reads: everything but the embedding table, of which it reads one row.
    pub token_bytes: u64,
    /// Multiply-adds of one token, without the output head.
    pub token_multiply_adds: u64,
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
                    if matches!(class, MatrixClass::Dense | MatrixClass::Sensitive) {
                        survey.token_multiply_adds += (rows * cols) as u64;
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
                WeightKind::Table { rows, cols } => {
                    let found = find_table(files.dense(), &name, (*rows, *cols))?;
                    (RowTable::memory_bytes(*rows, *cols, &found), 0)
                }
                WeightKind::Vector { shape, fold } => {
                    let info = match fold {
                        VectorFold::Numbers { .. } => files.dense().require_integers(&name)?,
                        _ => files.dense().require_float(&name)?,
                    };
                    check_shape(files.dense(), &name, info, shape)?;
                    let bytes = 4 * fold.elements(shape) as u64;
                    (bytes, bytes)
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
    /// All matrices, one after another, in huge pages where the system grants them.
    memory: HugePages,
    weights: Vec<Weight>,
    locked: Locked,
}

impl Weights {
    /// Reads all resident weights; tables are read by `reader` when their rows are needed.
    ///
    /// # Errors
    /// As [`Survey::of`], or a failed read, or no memory.
    pub fn load(
        files: &ModelFiles,
        blueprint: &Blueprint,
        reader: &ReaderChoice,
    ) -> Result<Weights, Error> {
        let mut end = 0;
        let mut weights = Vec::with_capacity(blueprint.weights.len());
        let mut reads: Vec<Vec<&TensorInfo>> = Vec::new();
        for decl in &blueprint.weights {
            let name = files.full_name(&decl.name);
            weights.push(match &decl.kind {
                WeightKind::Matrix { rows, cols, .. } => {
                    let found = find_matrix(files.dense(), &name, *rows, *cols)?;
                    let layout = MatrixLayout::of(&found, (*rows, *cols), end);
                    end = layout.end();
                    reads.push(found.parts);
                    Weight::Matrix(layout)
                }
                WeightKind::Table { rows, cols } => {
                    let found = find_table(files.dense(), &name, (*rows, *cols))?;
                    Weight::Table(RowTable::open(files.dense(), &found, *cols, reader)?)
                }
                WeightKind::Vector { shape, fold } => {
                    let folded = match *fold {
                        VectorFold::Numbers { count } => {
                            numbers(&files.dense().read_integers(&name, shape)?, count)
                        }
                        fold => folded(files.dense().read_f32(&name, shape)?, shape, fold),
                    };
                    Weight::Vector(folded.map_err(|problem| Error::Weight {
                        path: files.dense().place().to_owned(),
                        tensor: name,
                        problem,
                    })?)
                }
            });
        }
        let mut memory = map(end)?;
        fill(&mut memory, files, &weights, &reads)?;
        Ok(Weights {
            memory,
            weights,
            locked: Locked::NotAsked,
        })
    }

    /// Keeps the system from swapping the matrices out, if it allows that.
    pub fn lock(&mut self) {
        self.locked = self.memory.lock();
    }

    /// Whether the matrices are locked in memory.
    pub fn locked(&self) -> Locked {
        self.locked
    }

    /// Weights given as bytes, by their [`WeightId`].
    ///
    /// # Errors
    /// [`Error::Internal`] if a matrix's parts do not fit its codec; or no memory.
    pub fn from_parts(parts: &[WeightPart]) -> Result<Weights, Error> {
        let (mut bytes, mut end) = (Vec::new(), 0);
        let mut weights = Vec::with_capacity(parts.len());
        for part in parts {
            weights.push(match part {
                WeightPart::Matrix(matrix) => {
                    let layout = matrix.place(&mut bytes, end)?;
                    end = layout.end();
                    Weight::Matrix(layout)
                }
                WeightPart::Vector(values) => Weight::Vector(values.clone()),
                WeightPart::Table { cols, values } => {
                    Weight::Table(RowTable::of_values(*cols, values.clone()))
                }
            });
        }
        let mut memory = map(bytes.len())?;
        memory[..bytes.len()].copy_from_slice(&bytes);
        for weight in &weights {
            if let Weight::Matrix(layout) = weight {
                layout.arrange(&mut memory)?;
            }
        }
        Ok(Weights {
            memory,
            weights,
            locked: Locked::NotAsked,
        })
    }

    /// The matrix `id`.
    ///
    /// # Errors
    /// [`Error::Internal`] if it is a vector.
    pub fn matrix(&self, id: WeightId) -> Result<Matrix<'_>, Error> {
        match self.weights.get(id.index()) {
            Some(Weight::Matrix(layout)) => layout.view(&self.memory),
            _ => Err(Error::Internal(format!("weight {id:?} is not a matrix"))),
        }
    }

    /// How the matrix `id` is coded and what it occupies; `None` if it is a vector.
    pub fn layout(&self, id: WeightId) -> Option<&MatrixLayout> {
        match self.weights.get(id.index()) {
            Some(Weight::Matrix(layout)) => Some(layout),
            _ => None,
        }
    }

    /// The table `id`.
    ///
    /// # Errors
    /// [`Error::Internal`] if it is something else.
    pub fn table(&self, id: WeightId) -> Result<&RowTable, Error> {
        match self.weights.get(id.index()) {
            Some(Weight::Table(table)) => Ok(table),
            _ => Err(Error::Internal(format!("weight {id:?} is not a table"))),
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

/// A matrix to load: its memory, its place in it, and its tensors.
type Load<'a> = (&'a mut [u8], MatrixLayout, &'a [&'a TensorInfo]);

/// Reads and arranges all matrices, by several threads: reading one overlaps with arranging
/// another, and first use of the memory is spread.
fn fill(
    memory: &mut [u8],
    files: &ModelFiles,
    weights: &[Weight],
    reads: &[Vec<&TensorInfo>],
) -> Result<(), Error> {
    let matrices = weights.iter().filter_map(|weight| match weight {
        Weight::Matrix(layout) => Some(layout),
        Weight::Vector(_) | Weight::Table(_) => None,
    });
    let (mut rest, mut start) = (memory, 0);
    let mut loads: Vec<Load<'_>> = Vec::with_capacity(reads.len());
    for (layout, parts) in matrices.zip(reads) {
        let (own, tail) = rest.split_at_mut(layout.end() - start);
        loads.push((own, layout.moved_back(start), parts));
        (rest, start) = (tail, layout.end());
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let queue = Mutex::new(loads.into_iter());
    let work = || -> Result<(), Error> {
        loop {
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((memory, layout, parts)) = next else {
                return Ok(());
            };
            for (start, info) in layout.starts().into_iter().zip(parts) {
                let part = &mut memory[start..start + info.bytes as usize];
                files.dense().read(info, 0, part)?;
            }
            layout.arrange(memory)?;
        }
    };
    std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(8)).map(|_| scope.spawn(work)).collect();
        let mut result = work();
        for other in others {
            let died = |_| {
                Err(Error::Internal(
                    "a thread that loads weights panicked".into(),
                ))
            };
            result = result.and(other.join().unwrap_or_else(died));
        }
        result
    })
}

fn map(bytes: usize) -> Result<HugePages, Error> {
    HugePages::zeros(bytes).map_err(|source| Error::NoMemory {
        bytes_wanted: bytes as u64,
        source,
    })
}

/// Numbers below `count`, or what is wrong with them.
fn numbers(values: &[i64], count: usize) -> Result<Vec<f32>, &'static str> {
    let number = |&value: &i64| match usize::try_from(value) {
        // Numbers up to 2^24 are exact in f32.
        Ok(number) if number < count.min(1 << 24) => Ok(number as f32),
        _ => Err("has a number of something that is not there"),
    };
    values.iter().map(number).collect()
}

/// The values as the graph wants them, or what is wrong with them.
fn folded(
    mut values: Vec<f32>,
    shape: &[usize],
    fold: VectorFold,
) -> Result<Vec<f32>, &'static str> {
    Ok(match fold {
        VectorFold::None | VectorFold::Numbers { .. } => values,
        VectorFold::AddOne => {
            values.iter_mut().for_each(|v| *v += 1.0);
            values
        }
        VectorFold::TransposeConv => {
            // MLX's checkpoints have the 1 behind.
            let kernel = shape.iter().rev().find(|&&size| size != 1);
            let kernel = kernel.copied().unwrap_or(1);
            let channels = values.len() / kernel;
            let tap = |i: usize| values[(i % channels) * kernel + i / channels];
            (0..values.len()).map(tap).collect()
        }
        VectorFold::DilateConv { apart } => dilated(&values, shape, apart),
        VectorFold::Even => values.into_iter().step_by(2).collect(),
        VectorFold::Odd => values.into_iter().skip(1).step_by(2).collect(),
        VectorFold::LogOfNegated if values.iter().all(|&v| v <= 0.0) => {
            // In f64, so that the rounding to f32 is the only one.
            let log = |v: f32| (-f64::from(v)).ln() as f32;
            values.into_iter().map(log).collect()
        }
        VectorFold::LogOfNegated => return Err("has a value that is not negative"),
    })
}

/// `[channels, 1, kernel]` as `[(kernel - 1) * apart + 1, channels]`, with zeros between the taps.
fn dilated(values: &[f32], shape: &[usize], apart: usize) -> Vec<f32> {
    let kernel = shape.last().copied().unwrap_or(1).max(1);
    let channels = values.len() / kernel;
    let mut taps = vec![0.0; channels * ((kernel - 1) * apart + 1)];
    for (channel, own) in values.chunks_exact(kernel).enumerate() {
        for (tap, value) in own.iter().enumerate() {
            taps[tap * apart * channels + channel] = *value;
        }
    }
    taps
}
