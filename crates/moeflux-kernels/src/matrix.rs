//! Weight matrices as the kernels take them: borrowed, checked once.

use crate::{Coded, F8, KernelError, Rounding, check, matmul::F8_BLOCK};

/// The encoded elements of a matrix, without padding; floats row after row.
#[derive(Debug, Clone, Copy)]
pub enum MatrixData<'a> {
    /// IEEE binary32.
    F32(&'a [f32]),
    /// IEEE binary16 as bits.
    F16(&'a [u16]),
    /// bfloat16 as bits.
    Bf16(&'a [u16]),
    /// Floats of 8 bits with scales.
    F8(F8<'a>),
    /// Integers with scales, in tiles ([`arrange`](crate::arrange) makes them).
    Coded(Coded<'a>),
}

/// A weight matrix whose parts are known to fit its shape.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    rows: usize,
    cols: usize,
    data: MatrixData<'a>,
}

impl<'a> Matrix<'a> {
    /// A matrix of `rows` outputs and `cols` inputs.
    ///
    /// # Errors
    /// If a dimension is zero, a part's length does not fit, or bits or group are not supported.
    pub fn new(rows: usize, cols: usize, data: MatrixData<'a>) -> Result<Self, KernelError> {
        const OP: &str = "matrix";
        check::positive(OP, "rows", rows)?;
        check::positive(OP, "cols", cols)?;
        let elements = check::product(&[rows, cols]);
        match data {
            MatrixData::F32(weights) => check::size(OP, "weights", elements, weights.len())?,
            MatrixData::F16(weights) | MatrixData::Bf16(weights) => {
                check::size(OP, "weights", elements, weights.len())?;
            }
            MatrixData::F8(f8) => {
                let blocks = [rows.div_ceil(F8_BLOCK), cols.div_ceil(F8_BLOCK)];
                check::size(OP, "weights", elements, f8.weights.len())?;
                check::size(OP, "scales", check::product(&blocks), f8.scales.len())?;
            }
            MatrixData::Coded(coded) => {
                let [weights, scales, biases] = coded.coding.part_lengths(rows, cols)?;
                check::size(OP, "weight bytes", weights, coded.weights.len())?;
                check::size(OP, "scales", scales, coded.scales.len())?;
                check::size(OP, "biases", biases, coded.biases.len())?;
            }
        }
        Ok(Matrix { rows, cols, data })
    }

    /// Number of rows (outputs).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (inputs).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The encoded elements.
    pub fn data(&self) -> MatrixData<'a> {
        self.data
    }

    /// How integer-coded weights want activations rounded; `None` of float weights.
    pub fn rounding(&self) -> Option<Rounding> {
        match self.data {
            MatrixData::Coded(coded) => Some(coded.coding.rounding()),
            _ => None,
        }
    }
}
