//! A unit of packing work: an expert's record, some rows of a dense matrix, or some bytes of a
//! copied tensor. Each writes its bytes at their places in the file, beside others.

use std::fs::File;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::plan::PlannedMatrix;
use super::rows::{RowSource, Scratch};
use super::work::Reporter;
use crate::error::Result;
use crate::io::write_all_at;
use crate::writer::Layout;
use crate::{Checkpoint, Codec};

/// A piece of work. `tensor` is the index of the first tensor concerned in the file's list.
pub(super) enum Unit<'a> {
    Record {
        tensor: usize,
        matrices: &'a [PlannedMatrix],
        record_bytes: usize,
    },
    Rows {
        tensor: usize,
        matrix: &'a PlannedMatrix,
        first_row: usize,
        rows: usize,
    },
    Bytes {
        tensor: usize,
        source: &'a str,
        first_byte: u64,
        bytes: usize,
    },
}

/// A matrix as it lies in the file.
pub(super) struct PlacedMatrix<'a> {
    pub matrix: &'a PlannedMatrix,
    pub weights: u64,
    pub scales: u64,
    pub biases: u64,
}

/// Bytes written at once.
pub(super) struct Piece {
    pub offset: u64,
    pub bytes: u64,
    pub checksum: u64,
}

impl<'a> PlacedMatrix<'a> {
    /// `offsets` are those of the matrix's tensors, and may go on.
    pub(super) fn new(matrix: &'a PlannedMatrix, offsets: &[u64]) -> Self {
        let count = tensor_count(matrix);
        let offset = |part: usize| if part < count { offsets[part] } else { 0 };
        Self {
            matrix,
            weights: offset(0),
            scales: offset(1),
            biases: offset(2),
        }
    }
}

/// The file being written, as the workers share it.
pub(super) struct Output<'a> {
    pub source: &'a Checkpoint,
    pub path: &'a Path,
    pub file: &'a File,
    pub layout: &'a Layout,
}

impl Output<'_> {
    /// Writes bytes at a place.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> Result<Piece> {
        write_all_at(self.file, self.path, bytes, offset)?;
        Ok(Piece {
            offset,
            bytes: bytes.len() as u64,
            checksum: xxh3_64(bytes),
        })
    }

    /// Does one unit of work.
    pub(super) fn write_unit<R>(
        &self,
        unit: &Unit<'_>,
        scratch: &mut Scratch,
        reporter: &Reporter<R>,
    ) -> Result<Vec<Piece>> {
        let advanced = |bytes| reporter.advanced(bytes);
        match *unit {
            Unit::Record {
                tensor,
                matrices,
                record_bytes,
            } => {
                let (buffers, output) = scratch.split();
                output.clear();
                output.resize(record_bytes, 0);
                let mut rest = output.as_mut_slice();
                for matrix in matrices {
                    let sizes = matrix.codec.encoded_bytes(matrix.rows, matrix.cols)?;
                    let (part, after) = rest.split_at_mut(sizes.total());
                    rest = after;
                    let rows = RowSource::new(self.source, matrix)?;
                    let buffers = (&mut *buffers.0, &mut *buffers.1);
                    rows.encode(0, matrix.rows, sizes.split(part), buffers, &advanced)?;
                }
                Ok(vec![
                    self.write(&scratch.output, self.layout.offsets[tensor])?,
                ])
            }
            Unit::Rows {
                tensor,
                matrix,
                first_row,
                rows,
            } => {
                let placed = PlacedMatrix::new(matrix, &self.layout.offsets[tensor..]);
                self.write_rows(&placed, first_row, rows, scratch, &advanced)
            }
            Unit::Bytes {
                tensor,
                source,
                first_byte,
                bytes,
            } => {
                let info = self.source.require(source)?;
                scratch.output.resize(bytes, 0);
                self.source.read(info, first_byte, &mut scratch.output)?;
                advanced(bytes as u64);
                let offset = self.layout.offsets[tensor] + first_byte;
                Ok(vec![self.write(&scratch.output, offset)?])
            }
        }
    }

    /// Encodes rows of a dense matrix: its weights, scales and biases are apart in the file.
    fn write_rows(
        &self,
        placed: &PlacedMatrix<'_>,
        first_row: usize,
        rows: usize,
        scratch: &mut Scratch,
        advanced: &dyn Fn(u64),
    ) -> Result<Vec<Piece>> {
        let matrix = placed.matrix;
        let sizes = matrix.codec.encoded_bytes(rows, matrix.cols)?;
        let before = matrix.codec.encoded_bytes(first_row, matrix.cols)?;
        let (buffers, output) = scratch.split();
        output.clear();
        output.resize(sizes.total(), 0);
        let row_source = RowSource::new(self.source, matrix)?;
        row_source.encode(first_row, rows, sizes.split(output), buffers, advanced)?;
        let parts = sizes.split(output);
        let mut pieces = vec![self.write(parts.weights, placed.weights + before.weights as u64)?];
        let scales_before = match matrix.codec {
            // The matrix's one scale comes with its first rows.
            Codec::Nvfp4 => (first_row == 0).then_some(0),
            _ => (sizes.scales > 0).then_some(before.scales),
        };
        if let Some(before) = scales_before {
            pieces.push(self.write(parts.scales, placed.scales + before as u64)?);
        }
        if sizes.biases > 0 {
            pieces.push(self.write(parts.biases, placed.biases + before.biases as u64)?);
        }
        Ok(pieces)
    }
}

/// How many tensors hold a matrix.
pub(super) fn tensor_count(matrix: &PlannedMatrix) -> usize {
    matrix.codec.tensors(matrix.rows, matrix.cols).len()
}
