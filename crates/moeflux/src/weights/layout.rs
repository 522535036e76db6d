//! Where the parts of a matrix lie in a run of bytes.

use std::ops::Range;

use moeflux_formats::{AffineCodec, BlockCodec, Checkpoint, Codec, DType, FormatError, TensorInfo};
use moeflux_kernels::{Coded, Coding, Matrix, MatrixData, Rounding};

use crate::Error;

/// Parts start at multiples of a cache line.
pub(super) const PART_ALIGN: usize = 64;

/// A matrix in a run of bytes: its codec and its parts' places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixLayout {
    rows: usize,
    cols: usize,
    codec: Codec,
    weights: Range<usize>,
    scales: Range<usize>,
    biases: Range<usize>,
}

impl MatrixLayout {
    /// A matrix whose parts follow one another from `start`, each at a multiple of a cache line.
    pub fn sequential(codec: Codec, rows: usize, cols: usize, start: usize) -> MatrixLayout {
        let [weights, scales, biases] = part_bytes(codec, rows, cols);
        let place = |from: usize, len: usize| {
            let begin = from.next_multiple_of(PART_ALIGN);
            begin..begin + len
        };
        let weights = place(start, weights);
        let scales = place(weights.end, scales);
        let biases = place(scales.end, biases);
        MatrixLayout {
            rows,
            cols,
            codec,
            weights,
            scales,
            biases,
        }
    }

    /// A matrix whose parts lie where the caller says; sizes are checked when it is viewed.
    pub fn placed(codec: Codec, rows: usize, cols: usize, starts: [usize; 3]) -> MatrixLayout {
        let [weights, scales, biases] = part_bytes(codec, rows, cols);
        let place = |start: usize, len: usize| start..start + len;
        MatrixLayout {
            rows,
            cols,
            codec,
            weights: place(starts[0], weights),
            scales: place(starts[1], scales),
            biases: place(starts[2], biases),
        }
    }

    /// How the weights are coded.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// Output elements.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// One past the last byte.
    pub fn end(&self) -> usize {
        self.weights.end.max(self.scales.end).max(self.biases.end)
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> usize {
        self.weights.len() + self.scales.len() + self.biases.len()
    }

    /// Where the parts start: weights, scales, biases.
    pub fn starts(&self) -> [usize; 3] {
        [self.weights.start, self.scales.start, self.biases.start]
    }

    /// The matrix in `bytes`.
    ///
    /// # Errors
    /// [`Error::Internal`] or [`Error::Kernel`] if the bytes do not hold it.
    pub fn view<'a>(&self, bytes: &'a [u8]) -> Result<Matrix<'a>, Error> {
        let part = |range: &Range<usize>| {
            let outside = || Error::Internal(format!("a matrix at {range:?} leaves its memory"));
            bytes.get(range.clone()).ok_or_else(outside)
        };
        let weights = part(&self.weights)?;
        let data = match self.codec {
            Codec::F32 => MatrixData::F32(cast(weights)?),
            Codec::F16 => MatrixData::F16(cast(weights)?),
            Codec::Bf16 => MatrixData::Bf16(cast(weights)?),
            codec => MatrixData::Coded(Coded {
                coding: coding(codec).ok_or_else(|| no_kernel(codec))?,
                weights,
                scales: cast(part(&self.scales)?)?,
                biases: cast(part(&self.biases)?)?,
            }),
        };
        Ok(Matrix::new(self.rows, self.cols, data)?)
    }

    /// Turns the matrix in `bytes`, as it was read from a file, into what [`MatrixLayout::view`]
    /// takes: integer-coded weights are laid out in tiles.
    ///
    /// # Errors
    /// As [`MatrixLayout::view`].
    pub fn arrange(&self, bytes: &mut [u8]) -> Result<(), Error> {
        let Some(coding) = coding(self.codec) else {
            return Ok(());
        };
        let ranges = [&self.weights, &self.scales, &self.biases].map(Clone::clone);
        let outside = |_| Error::Internal(format!("a matrix at {ranges:?} leaves its memory"));
        let parts = bytes.get_disjoint_mut(ranges.clone()).map_err(outside)?;
        let [weights, scales, biases] = parts;
        moeflux_kernels::arrange(coding, self.rows, self.cols, weights, scales, biases)?;
        Ok(())
    }

    /// How the kernels want its inputs rounded; `None` for float weights.
    pub fn rounding(&self) -> Option<Rounding> {
        coding(self.codec).map(Coding::rounding)
    }

    /// The same matrix `by` bytes earlier.
    pub(super) fn moved_back(&self, by: usize) -> MatrixLayout {
        let moved = |range: &Range<usize>| range.start - by..range.end - by;
        MatrixLayout {
            weights: moved(&self.weights),
            scales: moved(&self.scales),
            biases: moved(&self.biases),
            ..*self
        }
    }
}

/// The kernels' name of an integer codec.
fn coding(codec: Codec) -> Option<Coding> {
    match codec {
        Codec::Affine(AffineCodec { bits, group }) => Some(Coding::Affine { bits, group }),
        Codec::Block(block) => Some(match block {
            BlockCodec::Q4_0 => Coding::Q4_0,
            BlockCodec::Q4_1 => Coding::Q4_1,
            BlockCodec::Q5_0 => Coding::Q5_0,
            BlockCodec::Q5_1 => Coding::Q5_1,
            BlockCodec::Q8_0 => Coding::Q8_0,
            BlockCodec::Q2K => Coding::Q2K,
            BlockCodec::Q3K => Coding::Q3K,
            BlockCodec::Q4K => Coding::Q4K,
            BlockCodec::Q5K => Coding::Q5K,
            BlockCodec::Q6K => Coding::Q6K,
            BlockCodec::Iq4Nl => Coding::Iq4Nl,
            BlockCodec::Iq4Xs => Coding::Iq4Xs,
            BlockCodec::Mxfp4 => Coding::Mxfp4,
            _ => return None,
        }),
        _ => None,
    }
}

fn no_kernel(codec: Codec) -> Error {
    Error::Internal(format!("codec {codec} has no kernel"))
}

fn cast<T: bytemuck::Pod>(bytes: &[u8]) -> Result<&[T], Error> {
    bytemuck::try_cast_slice(bytes)
        .map_err(|e| Error::Internal(format!("a matrix part is misaligned: {e}")))
}

/// Bytes of weights, scales and biases.
fn part_bytes(codec: Codec, rows: usize, cols: usize) -> [usize; 3] {
    match codec {
        Codec::F32 => [rows * cols * 4, 0, 0],
        Codec::Affine(AffineCodec { bits, group }) => {
            let groups = rows * (cols / group) * 2;
            [rows * (cols * bits as usize / 8), groups, groups]
        }
        Codec::Block(codec) => [rows * codec.row_bytes(cols), 0, 0],
        _ => [rows * cols * 2, 0, 0],
    }
}

/// The tensors that make up a matrix in a checkpoint, and its codec.
pub(super) struct MatrixTensors<'a> {
    pub codec: Codec,
    /// Weights, scales, biases; only the first for plain floats.
    pub parts: Vec<&'a TensorInfo>,
}

/// Finds the matrix `name` (without `.weight`) of `[rows, cols]`, plain or in affine groups.
pub(super) fn find_matrix<'a>(
    files: &'a Checkpoint,
    name: &str,
    rows: usize,
    cols: usize,
) -> Result<MatrixTensors<'a>, Error> {
    let full = format!("{name}.weight");
    let info = files.require(&full)?;
    if info.dtype != DType::U32 {
        let codec = plain_codec(files, &full, info)?;
        // GGUF files store a matrix of one row as a vector, and one a head as a stack.
        let fits = match info.shape.split_last() {
            Some((&last, leading)) => last == cols && leading.iter().product::<usize>() == rows,
            None => false,
        };
        if !fits {
            check_shape(files, &full, info, &[rows, cols])?;
        }
        return Ok(MatrixTensors {
            codec,
            parts: vec![info],
        });
    }
    let scales_name = format!("{name}.scales");
    let biases_name = format!("{name}.biases");
    let (scales, biases) = (files.require(&scales_name)?, files.require(&biases_name)?);
    let groups = scales.shape.get(1).copied().unwrap_or(0);
    let words = info.shape.get(1).copied().unwrap_or(0);
    let wrong_shape = || FormatError::WrongShape {
        tensor: full.clone(),
        path: files.files()[info.file].clone(),
        expected: vec![rows, cols],
        found: info.shape.clone(),
    };
    if groups == 0 || !cols.is_multiple_of(groups) || !(words * 32).is_multiple_of(cols) {
        return Err(wrong_shape().into());
    }
    let codec = AffineCodec::new((words * 32 / cols) as u32, cols / groups).map_err(|problem| {
        FormatError::Encode {
            tensor: full.clone(),
            problem,
        }
    })?;
    check_shape(files, &full, info, &[rows, words])?;
    for (name, part) in [(&scales_name, scales), (&biases_name, biases)] {
        check_shape(files, name, part, &[rows, groups])?;
        if part.dtype != DType::Bf16 {
            return Err(wrong_dtype(files, name, part, "BF16").into());
        }
    }
    Ok(MatrixTensors {
        codec: Codec::Affine(codec),
        parts: vec![info, scales, biases],
    })
}

/// The codec of a tensor that is a whole matrix: plain floats or quantized blocks.
pub(super) fn plain_codec(
    files: &Checkpoint,
    name: &str,
    info: &TensorInfo,
) -> Result<Codec, Error> {
    match info.dtype {
        DType::F32 => Ok(Codec::F32),
        DType::F16 => Ok(Codec::F16),
        DType::Bf16 => Ok(Codec::Bf16),
        DType::Block(codec) => Ok(Codec::Block(codec)),
        _ => Err(wrong_dtype(files, name, info, "F32, F16, BF16, or U32 with scales").into()),
    }
}

fn wrong_dtype(
    files: &Checkpoint,
    name: &str,
    info: &TensorInfo,
    expected: &'static str,
) -> FormatError {
    FormatError::WrongDType {
        tensor: name.to_owned(),
        path: files.files()[info.file].clone(),
        expected,
        found: info.dtype,
    }
}

pub(super) fn check_shape(
    files: &Checkpoint,
    name: &str,
    info: &TensorInfo,
    expected: &[usize],
) -> Result<(), Error> {
    if info.shape == expected {
        return Ok(());
    }
    Err(FormatError::WrongShape {
        tensor: name.to_owned(),
        path: files.files()[info.file].clone(),
        expected: expected.to_vec(),
        found: info.shape.clone(),
    }
    .into())
}
