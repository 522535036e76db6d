//! Weight codecs: how a matrix of f32 values is stored. One file each, with its layout.
//!
//! A codec knows nothing of tensors' names or of files. A matrix is `[rows, cols]` in row order,
//! and `cols` is the inner dimension of its products.

pub mod affine;
pub mod bf16;
pub mod block;
pub mod centered;
pub mod e2m1;
pub mod f16;
pub mod f32;
pub mod f8;
mod fit;
mod name;
pub mod nvfp4;

pub use affine::AffineCodec;
pub use block::BlockCodec;
pub use centered::CenteredCodec;
pub use f8::F8Codec;

use crate::DType;
use crate::error::{CodecError, Result};

/// How a matrix is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Codec {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of an f32.
    Bf16,
    /// Floats of 8 bits with a scale to each square of elements.
    F8(F8Codec),
    /// 4-bit floats in groups of 16 with a scale each, and one for the whole matrix.
    Nvfp4,
    /// Integers in groups with a scale each.
    Centered(CenteredCodec),
    /// Integers in groups with a scale and a bias each.
    Affine(AffineCodec),
    /// Quantized blocks as GGUF files hold them.
    Block(BlockCodec),
}

/// A matrix in a codec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Encoded {
    /// The values, integers or blocks, row after row.
    pub weights: Vec<u8>,
    /// Scales of codecs that have them apart: one bf16 a group, `[rows, cols / group]`, those of
    /// [`f8`], or the one of [`nvfp4`].
    pub scales: Vec<u8>,
    /// One bf16 a group (affine only), `[rows, cols / group]`.
    pub biases: Vec<u8>,
}

/// A tensor that holds a part of a matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartTensor {
    /// What follows the matrix's name and a dot in the tensor's name.
    pub name: &'static str,
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: [usize; 2],
}

/// Where [`encode_into`] puts a matrix.
#[derive(Debug)]
pub struct EncodedMut<'a> {
    /// The values, integers or blocks, row after row.
    pub weights: &'a mut [u8],
    /// As in [`Encoded`]; empty if the codec has none.
    pub scales: &'a mut [u8],
    /// One bf16 a group; empty if the codec has none.
    pub biases: &'a mut [u8],
}

/// Lengths in bytes of a matrix's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodedBytes {
    /// Of the values, integers or blocks.
    pub weights: usize,
    /// Of the scales.
    pub scales: usize,
    /// Of the biases.
    pub biases: usize,
}

impl EncodedBytes {
    /// Of all parts.
    #[must_use]
    pub fn total(self) -> usize {
        self.weights + self.scales + self.biases
    }

    /// Weights, scales and biases in `bytes`, which are as long as all and hold one after another.
    pub(crate) fn split(self, bytes: &mut [u8]) -> EncodedMut<'_> {
        let (weights, rest) = bytes.split_at_mut(self.weights);
        let (scales, biases) = rest.split_at_mut(self.scales);
        EncodedMut {
            weights,
            scales,
            biases,
        }
    }

    /// Of a codec whose scales are in its weights, if it has any.
    fn plain(weights: usize) -> Self {
        Self {
            weights,
            scales: 0,
            biases: 0,
        }
    }
}

impl Codec {
    /// Lengths in bytes of a `[rows, cols]` matrix.
    ///
    /// # Errors
    /// A number of columns that the codec cannot divide into groups, or a size beyond the address
    /// space.
    pub fn encoded_bytes(self, rows: usize, cols: usize) -> Result<EncodedBytes, CodecError> {
        let too_large = CodecError::TooLarge { rows, cols };
        // No codec stores more than 4 bytes an element, so nothing below overflows.
        let elements = rows
            .checked_mul(cols)
            .filter(|&count| count <= isize::MAX as usize / 4);
        let elements = elements.ok_or(too_large)?;
        Ok(match self {
            Self::F32 => EncodedBytes::plain(elements * 4),
            Self::F16 | Self::Bf16 => EncodedBytes::plain(elements * 2),
            Self::F8(f8) => EncodedBytes {
                weights: elements,
                scales: f8.scale_bytes(rows, cols),
                biases: 0,
            },
            Self::Nvfp4 => {
                nvfp4::check_columns(cols)?;
                EncodedBytes {
                    weights: rows * nvfp4::row_bytes(cols),
                    scales: 4,
                    biases: 0,
                }
            }
            Self::Centered(centered) => {
                centered.check_columns(cols)?;
                EncodedBytes {
                    weights: rows * centered.row_bytes(cols),
                    scales: elements / centered.group * 2,
                    biases: 0,
                }
            }
            Self::Affine(affine) => {
                affine.check_columns(cols)?;
                let maps = elements / affine.group * 2;
                EncodedBytes {
                    weights: rows * affine.row_bytes(cols),
                    scales: maps,
                    biases: maps,
                }
            }
            Self::Block(block) => {
                block.check_columns(cols)?;
                EncodedBytes::plain(rows * block.row_bytes(cols))
            }
        })
    }

    /// The tensors that hold a `[rows, cols]` matrix in packed models and in safetensors as they are
    /// published: weights, scales, biases, as many as the codec has.
    #[must_use]
    pub fn tensors(self, rows: usize, cols: usize) -> Vec<PartTensor> {
        let part = |name, dtype, shape| PartTensor { name, dtype, shape };
        match self {
            Self::F32 => vec![part("weight", DType::F32, [rows, cols])],
            Self::F16 => vec![part("weight", DType::F16, [rows, cols])],
            Self::Bf16 => vec![part("weight", DType::Bf16, [rows, cols])],
            Self::F8(f8) => vec![
                part("weight", DType::F8E4M3, [rows, cols]),
                part(f8::SCALES, f8.scales.dtype(), f8.scale_shape(rows, cols)),
            ],
            Self::Nvfp4 => vec![
                part(nvfp4::BLOCKS, DType::U8, [rows, nvfp4::row_bytes(cols)]),
                part(nvfp4::SCALE, DType::F32, [1, 1]),
            ],
            Self::Centered(centered) => {
                let words = [rows, centered.row_bytes(cols) / 4];
                let groups = [rows, cols / centered.group];
                vec![
                    part("weight_packed", DType::I32, words),
                    part("weight_scale", DType::Bf16, groups),
                ]
            }
            Self::Affine(affine) => {
                let words = [rows, affine.row_bytes(cols) / 4];
                let groups = [rows, cols / affine.group];
                vec![
                    part("weight", DType::U32, words),
                    part("scales", DType::Bf16, groups),
                    part("biases", DType::Bf16, groups),
                ]
            }
            // Several have blocks of the same length, so that only a name tells them apart.
            Self::Block(block) => {
                vec![part(block.name(), DType::U8, [rows, block.row_bytes(cols)])]
            }
        }
    }

    /// The codec of a matrix whose elements are stored as `dtype`, if that alone tells.
    #[must_use]
    pub fn of_dtype(dtype: DType) -> Option<Self> {
        match dtype {
            DType::F32 => Some(Self::F32),
            DType::F16 => Some(Self::F16),
            DType::Bf16 => Some(Self::Bf16),
            DType::Block(block) => Some(Self::Block(block)),
            _ => None,
        }
    }

    /// Whether [`encode`] can write this codec.
    ///
    /// # Errors
    /// [`CodecError::NoEncoder`].
    pub fn check_encoder(self) -> Result<(), CodecError> {
        match self {
            Self::Block(block) if !block.has_encoder() => Err(CodecError::NoEncoder(block.name())),
            Self::F8(_) => Err(CodecError::NoEncoder("f8-e4m3")),
            Self::Nvfp4 => Err(CodecError::NoEncoder(nvfp4::BLOCKS)),
            Self::Centered(_) => Err(CodecError::NoEncoder("centered")),
            _ => Ok(()),
        }
    }
}

/// Encodes a `[rows, cols]` matrix.
///
/// # Errors
/// Lengths that do not match, columns that do not divide into groups, a value that the codec
/// cannot hold, or a codec that is only read.
pub fn encode(codec: Codec, values: &[f32], rows: usize, cols: usize) -> Result<Encoded> {
    let bytes = codec.encoded_bytes(rows, cols)?;
    let mut out = Encoded {
        weights: vec![0; bytes.weights],
        scales: vec![0; bytes.scales],
        biases: vec![0; bytes.biases],
    };
    let parts = EncodedMut {
        weights: &mut out.weights,
        scales: &mut out.scales,
        biases: &mut out.biases,
    };
    encode_into(codec, values, rows, cols, parts)?;
    Ok(out)
}

/// Encodes a `[rows, cols]` matrix into buffers of the lengths of [`Codec::encoded_bytes`].
///
/// # Errors
/// As [`encode`].
pub fn encode_into(
    codec: Codec,
    values: &[f32],
    rows: usize,
    cols: usize,
    out: EncodedMut<'_>,
) -> Result<(), CodecError> {
    encode_weighted(codec, values, (rows, cols), &[], out)
}

/// As [`encode_into`], the error of an element weighing as much as the `importance` of its column:
/// one number a column, finite and positive, or none for columns alike.
///
/// # Errors
/// As [`encode`].
pub fn encode_weighted(
    codec: Codec,
    values: &[f32],
    (rows, cols): (usize, usize),
    importance: &[f32],
    out: EncodedMut<'_>,
) -> Result<(), CodecError> {
    let bytes = codec.encoded_bytes(rows, cols)?;
    let check = |what, expected, found| check_length(what, rows, cols, expected, found);
    check("the values", rows * cols, values.len())?;
    check("the weights", bytes.weights, out.weights.len())?;
    check("the scales", bytes.scales, out.scales.len())?;
    check("the biases", bytes.biases, out.biases.len())?;
    if !importance.is_empty() {
        check("the importance", cols, importance.len())?;
    }
    match codec {
        Codec::F32 => f32::encode(values, out.weights),
        Codec::F16 => f16::encode(values, out.weights)?,
        Codec::Bf16 => bf16::encode(values, out.weights)?,
        Codec::F8(_) | Codec::Nvfp4 | Codec::Centered(_) => codec.check_encoder()?,
        Codec::Affine(affine) => affine.encode(values, importance, out)?,
        Codec::Block(block) => block.encode(values, importance, out.weights)?,
    }
    Ok(())
}

/// The importance of group `index` of a matrix's rows, one after another; `alike` if there is none.
fn importance_of<'a, const GROUP: usize>(
    importance: &'a [f32],
    index: usize,
    alike: &'a [f32; GROUP],
) -> &'a [f32; GROUP] {
    let groups = importance.as_chunks().0;
    let place = index.checked_rem(groups.len());
    place.map_or(alike, |place| &groups[place])
}

/// Decodes a `[rows, cols]` matrix: the reference that kernels are tested against.
///
/// # Errors
/// Lengths that do not match, or columns that do not divide into groups.
pub fn decode(codec: Codec, encoded: &Encoded, rows: usize, cols: usize) -> Result<Vec<f32>> {
    let bytes = codec.encoded_bytes(rows, cols)?;
    let check = |what, expected, found| check_length(what, rows, cols, expected, found);
    check("the weights", bytes.weights, encoded.weights.len())?;
    check("the scales", bytes.scales, encoded.scales.len())?;
    check("the biases", bytes.biases, encoded.biases.len())?;
    let mut out = vec![0.0; rows * cols];
    match codec {
        Codec::F32 => f32::decode(&encoded.weights, &mut out),
        Codec::F16 => f16::decode(&encoded.weights, &mut out),
        Codec::Bf16 => bf16::decode(&encoded.weights, &mut out),
        Codec::F8(f8) => f8.decode(encoded, cols, &mut out),
        Codec::Nvfp4 => nvfp4::decode(encoded, &mut out),
        Codec::Centered(centered) => centered.decode(encoded, &mut out),
        Codec::Affine(affine) => affine.decode(encoded, &mut out),
        Codec::Block(block) => block.decode(&encoded.weights, &mut out),
    }
    Ok(out)
}

/// Converts elements of a plain float type. Other types leave `out` as it is: callers check first.
pub(crate) fn to_f32(dtype: DType, bytes: &[u8], out: &mut [f32]) {
    match dtype {
        DType::F32 => f32::decode(bytes, out),
        DType::F16 => f16::decode(bytes, out),
        DType::Bf16 => bf16::decode(bytes, out),
        _ => debug_assert!(false, "{dtype} is not a plain float type"),
    }
}

fn check_length(
    what: &'static str,
    rows: usize,
    cols: usize,
    expected: usize,
    found: usize,
) -> Result<(), CodecError> {
    if expected == found {
        return Ok(());
    }
    Err(CodecError::Length {
        what,
        rows,
        cols,
        expected,
        found,
    })
}
