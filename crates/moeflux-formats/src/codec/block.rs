//! Codecs of GGUF files: blocks of 32 or 256 elements of a row with their scales inside.
//!
//! A row is a sequence of blocks, a matrix a sequence of rows. Scales are little-endian f16. The
//! layouts are those of ggml; decoding takes one rounding a product and one a difference, in the
//! order written in each file, without fused operations.

mod iq4_nl;
mod iq4_xs;
mod k_fit;
pub mod mxfp4;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod scales;

use std::fmt;

use half::f16;

use super::importance_of;
use crate::error::CodecError;

/// A codec of quantized blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum BlockCodec {
    /// 4-bit integers, one scale to 32 elements.
    Q4_0,
    /// 4-bit integers, one scale and minimum to 32 elements.
    Q4_1,
    /// 5-bit integers, one scale to 32 elements.
    Q5_0,
    /// 5-bit integers, one scale and minimum to 32 elements.
    Q5_1,
    /// 8-bit integers, one scale to 32 elements.
    Q8_0,
    /// 2-bit integers, a 4-bit scale and minimum to 16 elements, two f16 to 256.
    Q2K,
    /// 3-bit integers, a 6-bit scale to 16 elements, one f16 to 256.
    Q3K,
    /// 4-bit integers, a 6-bit scale and minimum to 32 elements, two f16 to 256.
    Q4K,
    /// 5-bit integers, a 6-bit scale and minimum to 32 elements, two f16 to 256.
    Q5K,
    /// 6-bit integers, an 8-bit scale to 16 elements, one f16 to 256.
    Q6K,
    /// 4 bits for one of sixteen uneven levels, one scale to 32 elements.
    Iq4Nl,
    /// The same levels, a 6-bit scale to 32 elements, one f16 to 256.
    Iq4Xs,
    /// 4-bit floats, a power of two to 32 elements.
    Mxfp4,
}

impl BlockCodec {
    /// Every codec of blocks.
    pub const ALL: [Self; 13] = [
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q8_0,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Iq4Nl,
        Self::Iq4Xs,
        Self::Mxfp4,
    ];

    /// Elements of a block.
    #[must_use]
    pub fn block_elements(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => 32,
            Self::Iq4Nl | Self::Mxfp4 => 32,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::Iq4Xs => 256,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        match self {
            Self::Q4_0 => q4_0::BYTES,
            Self::Q4_1 => q4_1::BYTES,
            Self::Q5_0 => q5_0::BYTES,
            Self::Q5_1 => q5_1::BYTES,
            Self::Q8_0 => q8_0::BYTES,
            Self::Q2K => q2_k::BYTES,
            Self::Q3K => q3_k::BYTES,
            Self::Q4K => q4_k::BYTES,
            Self::Q5K => q5_k::BYTES,
            Self::Q6K => q6_k::BYTES,
            Self::Iq4Nl => iq4_nl::BYTES,
            Self::Iq4Xs => iq4_xs::BYTES,
            Self::Mxfp4 => mxfp4::BYTES,
        }
    }

    /// Bytes of a row of `cols` elements, a multiple of the block.
    #[must_use]
    pub fn row_bytes(self, cols: usize) -> usize {
        cols / self.block_elements() * self.block_bytes()
    }

    /// Whether rows of `cols` elements divide into blocks.
    ///
    /// # Errors
    /// [`CodecError::Columns`].
    pub fn check_columns(self, cols: usize) -> Result<(), CodecError> {
        let group = self.block_elements();
        if cols.is_multiple_of(group) {
            return Ok(());
        }
        Err(CodecError::Columns { cols, group })
    }

    /// The name that options and messages use, such as `q4_k`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Q4_0 => "q4_0",
            Self::Q4_1 => "q4_1",
            Self::Q5_0 => "q5_0",
            Self::Q5_1 => "q5_1",
            Self::Q8_0 => "q8_0",
            Self::Q2K => "q2_k",
            Self::Q3K => "q3_k",
            Self::Q4K => "q4_k",
            Self::Q5K => "q5_k",
            Self::Q6K => "q6_k",
            Self::Iq4Nl => "iq4_nl",
            Self::Iq4Xs => "iq4_xs",
            Self::Mxfp4 => "mxfp4",
        }
    }

    /// The codec of a [`BlockCodec::name`].
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }

    /// The name of the type in GGUF's terms, such as `Q4_K`.
    pub(crate) fn type_name(self) -> &'static str {
        match self {
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q8_0 => "Q8_0",
            Self::Q2K => "Q2_K",
            Self::Q3K => "Q3_K",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Iq4Nl => "IQ4_NL",
            Self::Iq4Xs => "IQ4_XS",
            Self::Mxfp4 => "MXFP4",
        }
    }

    pub(super) fn has_encoder(self) -> bool {
        matches!(
            self,
            Self::Q4_0 | Self::Q8_0 | Self::Q4K | Self::Q5K | Self::Iq4Nl
        )
    }

    /// Quantizes whole blocks; `importance` is of a row's columns, or empty, and is of no use to
    /// codecs that are rounded plainly. The caller has checked lengths.
    pub(super) fn encode(
        self,
        values: &[f32],
        importance: &[f32],
        out: &mut [u8],
    ) -> Result<(), CodecError> {
        let alike = [1.0; 256];
        let weights = |index| importance_of(importance, index, &alike);
        let alike = [1.0; 32];
        let weights_of_32 = |index| importance_of(importance, index, &alike);
        match self {
            Self::Q4_0 => encode_blocks(self, values, out, |_, x, out| q4_0::encode(x, out)),
            Self::Q8_0 => encode_blocks(self, values, out, |_, x, out| q8_0::encode(x, out)),
            Self::Q4K => encode_blocks(self, values, out, |index, x, out| {
                q4_k::encode(x, weights(index), out)
            }),
            Self::Q5K => encode_blocks(self, values, out, |index, x, out| {
                q5_k::encode(x, weights(index), out)
            }),
            Self::Iq4Nl => encode_blocks(self, values, out, |index, x, out| {
                iq4_nl::encode(x, weights_of_32(index), out)
            }),
            _ => Err(CodecError::NoEncoder(self.name())),
        }
    }

    /// Dequantizes whole blocks. The caller has checked lengths.
    pub(super) fn decode(self, blocks: &[u8], out: &mut [f32]) {
        match self {
            Self::Q4_0 => decode_blocks(blocks, out, q4_0::decode),
            Self::Q4_1 => decode_blocks(blocks, out, q4_1::decode),
            Self::Q5_0 => decode_blocks(blocks, out, q5_0::decode),
            Self::Q5_1 => decode_blocks(blocks, out, q5_1::decode),
            Self::Q8_0 => decode_blocks(blocks, out, q8_0::decode),
            Self::Q2K => decode_blocks(blocks, out, q2_k::decode),
            Self::Q3K => decode_blocks(blocks, out, q3_k::decode),
            Self::Q4K => decode_blocks(blocks, out, q4_k::decode),
            Self::Q5K => decode_blocks(blocks, out, q5_k::decode),
            Self::Q6K => decode_blocks(blocks, out, q6_k::decode),
            Self::Iq4Nl => decode_blocks(blocks, out, iq4_nl::decode),
            Self::Iq4Xs => decode_blocks(blocks, out, iq4_xs::decode),
            Self::Mxfp4 => decode_blocks(blocks, out, mxfp4::decode),
        }
    }

    /// The root mean square error that an encoder must stay below, as a share of a block's largest
    /// magnitude.
    pub(crate) fn most_error(self) -> f32 {
        match self {
            Self::Q8_0 => 0.6 / 127.0,
            Self::Q5K => 1.0 / 16.0,
            // Q4_0 has no +8.
            _ => 1.1 / 8.0,
        }
    }
}

impl fmt::Display for BlockCodec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl std::str::FromStr for BlockCodec {
    type Err = CodecError;

    fn from_str(name: &str) -> Result<Self, CodecError> {
        Self::from_name(name).ok_or_else(|| CodecError::UnknownName(name.to_owned()))
    }
}

fn decode_blocks<const BYTES: usize, const ELEMENTS: usize>(
    blocks: &[u8],
    out: &mut [f32],
    decode: fn(&[u8; BYTES], &mut [f32; ELEMENTS]),
) {
    let blocks = blocks.as_chunks().0;
    for (block, out) in blocks.iter().zip(out.as_chunks_mut().0) {
        decode(block, out);
    }
}

/// `encode` is given a block's number and finite values, and returns the scale.
fn encode_blocks<const BYTES: usize, const ELEMENTS: usize>(
    codec: BlockCodec,
    values: &[f32],
    out: &mut [u8],
    encode: impl Fn(usize, &[f32; ELEMENTS], &mut [u8; BYTES]) -> f16,
) -> Result<(), CodecError> {
    let blocks = values.as_chunks::<ELEMENTS>().0.iter();
    for (index, (values, out)) in blocks.zip(out.as_chunks_mut().0).enumerate() {
        let bad = values.iter().position(|value| !value.is_finite());
        if bad.is_none() && encode(index, values, out).is_finite() {
            continue;
        }
        let largest = || {
            let sizes = values.iter().enumerate();
            sizes
                .max_by(|a, b| a.1.abs().total_cmp(&b.1.abs()))
                .map_or(0, |(place, _)| place)
        };
        let place = bad.unwrap_or_else(largest);
        return Err(CodecError::Value {
            codec: codec.name(),
            index: index * ELEMENTS + place,
            value: values[place],
        });
    }
    Ok(())
}

/// The f16 at `place` of a block.
fn scale_at<const BYTES: usize>(block: &[u8; BYTES], place: usize) -> f32 {
    f16::from_le_bytes([block[place], block[place + 1]]).to_f32()
}
