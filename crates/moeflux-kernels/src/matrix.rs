//! Weight matrices as the kernels take them: row-major, borrowed, checked once.

use crate::{KernelError, check};

/// The encoded elements of a matrix, row-major and without padding.
#[derive(Debug, Clone, Copy)]
pub enum MatrixData<'a> {
    /// IEEE binary32.
    F32(&'a [f32]),
    /// IEEE binary16 as bits.
    F16(&'a [u16]),
    /// bfloat16 as bits.
    Bf16(&'a [u16]),
    /// Integers with an affine map a group: w = q * scale + bias, q unsigned.
    Affine {
        /// Bits of an integer: 2, 3, 4, 5, 6 or 8.
        bits: u32,
        /// Elements of a row that share a scale and a bias: 32, 64 or 128.
        group: usize,
        /// Rows of `cols * bits / 8` bytes, each a little-endian bit stream, low bits first.
        weights: &'a [u8],
        /// bfloat16 bits, `[rows, cols / group]`.
        scales: &'a [u16],
        /// bfloat16 bits, `[rows, cols / group]`.
        biases: &'a [u16],
    },
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
            MatrixData::Affine {
                bits,
                group,
                weights,
                scales,
                biases,
            } => {
                if !matches!(bits, 2 | 3 | 4 | 5 | 6 | 8) {
                    return Err(KernelError::Bits { bits });
                }
                if !matches!(group, 32 | 64 | 128) {
                    return Err(KernelError::Group { group });
                }
                check::multiple(OP, "cols", cols, group)?;
                let row_bytes = check::product(&[cols / 8, bits as usize]);
                let bytes = check::product(&[rows, row_bytes]);
                check::size(OP, "weight bytes", bytes, weights.len())?;
                let groups = check::product(&[rows, cols / group]);
                check::size(OP, "scales", groups, scales.len())?;
                check::size(OP, "biases", groups, biases.len())?;
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

    /// Group length of affine weights, if they are affine.
    pub fn group(&self) -> Option<usize> {
        match self.data {
            MatrixData::Affine { group, .. } => Some(group),
            _ => None,
        }
    }
}
