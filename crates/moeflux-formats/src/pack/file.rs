//! One safetensors file of a packed model: its layout, its units of work, and its checking. Units
//! are written at their places by several threads, in any order.

use std::fs::OpenOptions;
use std::path::Path;

use super::plan::{PackPlan, PlannedLayer, PlannedMatrix, PlannedTensor, matrix_source_bytes};
use super::rows::{RowSource, Scratch};
use super::sample::check_samples;
use super::unit::{Output, Piece, PlacedMatrix, Unit, tensor_count};
use super::work::{run_units, worker_count};
use crate::checksum::{checksum_file, checksum_text};
use crate::codec::{PartTensor, f8};
use crate::error::{FormatError, Result, io_error};
use crate::packed::{DENSE_NAME, FileEntry, RECORD_ALIGN, layer_name};
use crate::writer::{Layout, TensorSpec};
use crate::{Checkpoint, Codec, DType};

/// Source bytes of a unit of dense work.
const UNIT_BYTES: usize = 4 << 20;
/// Bytes of records that may be in memory at once, whatever the number of threads.
const IN_FLIGHT_BYTES: usize = 1 << 30;

/// A file to be written.
pub(super) struct FileJob<'a> {
    /// Path in the model's directory.
    pub name: String,
    specs: Vec<TensorSpec>,
    units: Vec<Unit<'a>>,
    /// The file ends with the checksums of its units.
    has_checksums: bool,
}

/// A step in writing a file.
pub(super) enum Step {
    /// So many source bytes more are packed.
    Packed(u64),
    /// Some more of what was written was read back.
    Checked,
}

impl<'a> FileJob<'a> {
    /// The file of everything but routed experts.
    pub(super) fn dense(source: &Checkpoint, plan: &'a PackPlan) -> Result<Self> {
        let (mut specs, mut units) = (Vec::new(), Vec::new());
        for planned in &plan.dense {
            let tensor = specs.len();
            match planned {
                PlannedTensor::Matrix(matrix) => {
                    specs.extend(matrix_tensors(&matrix.name, matrix));
                    let row_bytes = RowSource::new(source, matrix)?.row_bytes();
                    let step = (UNIT_BYTES / row_bytes.max(1)).max(1);
                    let step = match matrix.codec {
                        // Scales of squares belong to one unit.
                        Codec::F8(_) => step.next_multiple_of(f8::BLOCK),
                        _ => step,
                    };
                    units.extend((0..matrix.rows).step_by(step).map(|first_row| {
                        let rows = step.min(matrix.rows - first_row);
                        Unit::Rows {
                            tensor,
                            matrix,
                            first_row,
                            rows,
                        }
                    }));
                }
                PlannedTensor::Copy { name, source: from } => {
                    let info = source.require(from)?;
                    specs.push(TensorSpec::new(name, info.dtype, info.shape.clone()));
                    units.extend((0..info.bytes).step_by(UNIT_BYTES).map(|first_byte| {
                        let bytes = (info.bytes - first_byte).min(UNIT_BYTES as u64) as usize;
                        Unit::Bytes {
                            tensor,
                            source: from,
                            first_byte,
                            bytes,
                        }
                    }));
                }
            }
        }
        Ok(Self {
            name: DENSE_NAME.to_owned(),
            specs,
            units,
            has_checksums: false,
        })
    }

    /// The file of a layer's routed experts.
    pub(super) fn layer(layer: &'a PlannedLayer) -> Result<Self> {
        let (mut specs, mut units) = (Vec::new(), Vec::new());
        for (expert, matrices) in layer.experts.iter().enumerate() {
            let tensor = specs.len();
            let mut bytes = 0;
            for matrix in matrices {
                specs.extend(matrix_tensors(
                    &format!("experts.{expert}.{}", matrix.name),
                    matrix,
                ));
                let sizes = matrix.codec.encoded_bytes(matrix.rows, matrix.cols)?;
                bytes += sizes.total();
            }
            let record_bytes = bytes.next_multiple_of(RECORD_ALIGN as usize);
            let pad = format!("experts.{expert}.pad");
            specs.push(TensorSpec::new(pad, DType::U8, [record_bytes - bytes]));
            units.push(Unit::Record {
                tensor,
                matrices,
                record_bytes,
            });
        }
        specs.push(TensorSpec::new(
            "checksums",
            DType::U64,
            [layer.experts.len()],
        ));
        Ok(Self {
            name: layer_name(layer.layer),
            specs,
            units,
            has_checksums: true,
        })
    }

    /// Bytes of what the file holds in the source.
    pub(super) fn source_bytes(&self, source: &Checkpoint) -> u64 {
        let of_rows = |matrix: &PlannedMatrix, rows: usize| {
            matrix_source_bytes(source, matrix) / matrix.rows.max(1) as u64 * rows as u64
        };
        let of_unit = |unit: &Unit<'_>| match unit {
            Unit::Record { matrices, .. } => matrices
                .iter()
                .map(|matrix| of_rows(matrix, matrix.rows))
                .sum(),
            Unit::Rows { matrix, rows, .. } => of_rows(matrix, *rows),
            Unit::Bytes { bytes, .. } => *bytes as u64,
        };
        self.units.iter().map(of_unit).sum()
    }

    /// Writes, syncs and checks the file.
    pub(super) fn write(
        &self,
        source: &Checkpoint,
        path: &Path,
        threads: usize,
        tell: &mut dyn FnMut(Step),
    ) -> Result<FileEntry> {
        let layout = Layout::new(path, &self.specs, RECORD_ALIGN)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path);
        let file = file.map_err(|error| io_error("create", path, error))?;
        let output = Output {
            source,
            path,
            file: &file,
            layout: &layout,
        };
        let mut pieces = vec![output.write(&layout.header, 0)?];
        let done = run_units(
            self.units.len(),
            self.workers(threads),
            |unit, scratch: &mut Scratch, reporter| {
                output.write_unit(&self.units[unit], scratch, reporter)
            },
            &mut |bytes| tell(Step::Packed(bytes)),
        )?;
        if let Some(&offset) = layout.offsets.last().filter(|_| self.has_checksums) {
            let checksums = done
                .iter()
                .flatten()
                .flat_map(|piece| piece.checksum.to_le_bytes());
            pieces.push(output.write(&checksums.collect::<Vec<u8>>(), offset)?);
        }
        file.sync_all()
            .map_err(|error| io_error("write", path, error))?;
        pieces.extend(done.into_iter().flatten());
        let checksum = read_back(path, &mut pieces, layout.file_bytes, tell)?;
        check_samples(source, &file, path, &self.samples(&layout))?;
        Ok(FileEntry {
            bytes: layout.file_bytes,
            xxh3: checksum_text(checksum),
        })
    }

    /// No more workers than the largest unit allows.
    fn workers(&self, threads: usize) -> usize {
        let memory = |unit: &Unit<'_>| match unit {
            Unit::Record { record_bytes, .. } => *record_bytes,
            Unit::Rows { .. } | Unit::Bytes { .. } => UNIT_BYTES,
        };
        let largest = self.units.iter().map(memory).max().unwrap_or(1).max(1);
        worker_count(threads).min((IN_FLIGHT_BYTES / largest).max(1))
    }

    /// Some of the file's matrices, evenly spread.
    fn samples(&self, layout: &Layout) -> Vec<PlacedMatrix<'a>> {
        const SAMPLES: usize = 8;
        let step = self.units.len().div_ceil(SAMPLES).max(1);
        let mut samples = Vec::new();
        for unit in self.units.iter().step_by(step) {
            match unit {
                Unit::Record {
                    tensor, matrices, ..
                } => {
                    let mut tensor = *tensor;
                    for matrix in *matrices {
                        samples.push(PlacedMatrix::new(matrix, &layout.offsets[tensor..]));
                        tensor += tensor_count(matrix);
                    }
                }
                Unit::Rows { tensor, matrix, .. } => {
                    samples.push(PlacedMatrix::new(matrix, &layout.offsets[*tensor..]));
                }
                Unit::Bytes { .. } => {}
            }
        }
        samples
    }
}

/// The tensors that hold a matrix.
fn matrix_tensors(name: &str, matrix: &PlannedMatrix) -> Vec<TensorSpec> {
    let parts = matrix.codec.tensors(matrix.rows, matrix.cols).into_iter();
    let spec =
        |part: PartTensor| TensorSpec::new(format!("{name}.{}", part.name), part.dtype, part.shape);
    parts.map(spec).collect()
}

/// Reads a synced file and compares it with the pieces that were written, which must cover it.
/// Returns the checksum of the whole.
fn read_back(
    path: &Path,
    pieces: &mut [Piece],
    file_bytes: u64,
    tell: &mut dyn FnMut(Step),
) -> Result<u64> {
    let corrupt = |reason| FormatError::CorruptFile {
        path: path.to_path_buf(),
        reason,
    };
    pieces.sort_by_key(|piece| (piece.offset, piece.bytes));
    let mut covered = 0;
    for piece in &*pieces {
        if piece.offset != covered {
            return Err(corrupt(format!(
                "bytes from {covered} on were not written in order"
            )));
        }
        covered += piece.bytes;
    }
    let lengths = pieces.iter().map(|piece| piece.bytes);
    let found = checksum_file(path, lengths, &mut |_| tell(Step::Checked))?;
    for (piece, &checksum) in pieces.iter().zip(&found.pieces) {
        if piece.checksum != checksum {
            let (first, end) = (piece.offset, piece.offset + piece.bytes);
            return Err(corrupt(format!(
                "bytes {first}..{end} read back otherwise than written"
            )));
        }
    }
    if covered != file_bytes || found.pieces.len() != pieces.len() {
        return Err(corrupt(format!(
            "it is not the {file_bytes} bytes that were to be written"
        )));
    }
    Ok(found.file)
}
