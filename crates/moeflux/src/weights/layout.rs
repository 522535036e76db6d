//! Where the parts of a matrix lie in a run of bytes.

use std::ops::Range;

use moeflux_formats::codec::block::mxfp4;
use moeflux_formats::codec::f8::ScaleType;
use moeflux_formats::codec::{e2m1, nvfp4};
use moeflux_formats::{AffineCodec, BlockCodec, CenteredCodec, Codec};
use moeflux_kernels::{Coded, Coding, F8, F8Scales, Matrix, MatrixData, Rounding};

use super::find::MatrixTensors;
use crate::Error;

/// Parts start at multiples of a cache line.
pub(super) const PART_ALIGN: usize = 64;

/// 4-bit floats whose codes and scales of groups are read from tensors of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Apart {
    /// Whether a scale of the whole matrix divides those of groups.
    pub divides: bool,
}

/// A matrix in a run of bytes: its codec and its parts' places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatrixLayout {
    rows: usize,
    cols: usize,
    codec: Codec,
    apart: Option<Apart>,
    weights: Range<usize>,
    scales: Range<usize>,
    biases: Range<usize>,
}

impl MatrixLayout {
    /// A matrix whose parts follow one another from `start`, each at a multiple of a cache line.
    pub fn sequential(codec: Codec, rows: usize, cols: usize, start: usize) -> MatrixLayout {
        let [weights, scales, biases] = part_bytes(codec, rows, cols);
        let place = |from: usize, len: usize| {
            // What is not there must not lie behind the last byte.
            let begin = match len {
                0 => from,
                _ => from.next_multiple_of(PART_ALIGN),
            };
            begin..begin + len
        };
        let weights = place(start, weights);
        let scales = place(weights.end, scales);
        let biases = place(scales.end, biases);
        MatrixLayout {
            rows,
            cols,
            codec,
            apart: None,
            weights,
            scales,
            biases,
        }
    }

    /// As [`MatrixLayout::sequential`], of a matrix that was found in files.
    pub(crate) fn of(
        found: &MatrixTensors<'_>,
        (rows, cols): (usize, usize),
        start: usize,
    ) -> MatrixLayout {
        MatrixLayout {
            apart: found.apart,
            ..MatrixLayout::sequential(found.codec, rows, cols, start)
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
            apart: None,
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

    /// Where the tensors that it is read from start: weights, scales, biases; of 4-bit floats that
    /// are apart, codes, scales of groups and the matrix's scale.
    pub fn starts(&self) -> [usize; 3] {
        let [weights, scales, biases] = [&self.weights, &self.scales, &self.biases];
        match self.apart {
            None => [weights.start, scales.start, biases.start],
            Some(_) => [
                weights.start,
                weights.start + self.rows * self.cols / 2,
                scales.start,
            ],
        }
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
            Codec::F8(codec) => {
                let scales = part(&self.scales)?;
                let scales = match codec.scales {
                    ScaleType::F32 => F8Scales::F32(cast(scales)?),
                    ScaleType::Bf16 => F8Scales::Bf16(cast(scales)?),
                    ScaleType::E8M0 => F8Scales::E8M0(scales),
                    _ => return Err(no_kernel(self.codec)),
                };
                MatrixData::F8(F8 { weights, scales })
            }
            Codec::Nvfp4 => MatrixData::Coded(Coded {
                coding: Coding::Nvfp4,
                weights,
                scales: &[],
                biases: &[],
                global: cast(part(&self.scales)?)?
                    .first()
                    .copied()
                    .unwrap_or(f32::NAN),
            }),
            codec => MatrixData::Coded(Coded {
                coding: coding(codec).ok_or_else(|| no_kernel(codec))?,
                weights,
                scales: cast(part(&self.scales)?)?,
                biases: cast(part(&self.biases)?)?,
                global: 1.0,
            }),
        };
        Ok(Matrix::new(self.rows, self.cols, data)?)
    }

    /// Turns the matrix in `bytes`, as it was read from a file, into what [`MatrixLayout::view`]
    /// takes: codes and scales are put together, integer-coded weights are laid out in tiles.
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
        if let Some(Apart { divides }) = self.apart {
            match self.codec {
                Codec::Nvfp4 => e2m1::join(weights, nvfp4::SCALES),
                _ => e2m1::join(weights, mxfp4::SCALES),
            }
            if divides {
                nvfp4::invert(scales);
            }
        }
        // The scale of a whole matrix stays where it is.
        let scales: &mut [u8] = match self.codec {
            Codec::Nvfp4 => &mut [],
            _ => scales,
        };
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
        Codec::Centered(CenteredCodec { bits, group }) => Some(Coding::Centered { bits, group }),
        Codec::Nvfp4 => Some(Coding::Nvfp4),
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

/// Bytes of weights, scales and biases; nothing of a shape that the codec does not have.
fn part_bytes(codec: Codec, rows: usize, cols: usize) -> [usize; 3] {
    let bytes = codec.encoded_bytes(rows, cols);
    bytes.map_or([0; 3], |b| [b.weights, b.scales, b.biases])
}
