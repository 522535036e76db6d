//! Codec `f8-e4m3`: floats of 8 bits (4 of exponent, 3 of mantissa, no infinities) with a scale to
//! each square of 128 x 128 elements, as DeepSeek, MiniMax-M2 and Qwen's FP8 models are published.
//!
//! - `weight` F8_E4M3 `[rows, cols]`;
//! - `weight_scale_inv` (DeepSeek-V4: `scale`) F32, BF16 or F8_E8M0
//!   `[ceil(rows / 128), ceil(cols / 128)]`: what to multiply with.
//!
//! The bytes 0x7f and 0xff, which stand for no number, are read as 480 and -480.

use std::fmt;

use super::{Encoded, bf16, e2m1, f32};
use crate::DType;

/// Rows and columns that share a scale.
pub const BLOCK: usize = 128;

/// What the tensor of the scales is called beside `weight`.
pub const SCALES: &str = "weight_scale_inv";

/// What DeepSeek-V4 calls it.
pub const SHORT_SCALES: &str = "scale";

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ScaleType {
    /// Single precision.
    F32,
    /// The upper half of an f32.
    Bf16,
    /// The exponent of a power of two.
    E8M0,
}

impl ScaleType {
    const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::E8M0];

    /// The type of scales that a tensor of `dtype` holds.
    #[must_use]
    pub fn of_dtype(dtype: DType) -> Option<Self> {
        Self::ALL.into_iter().find(|scales| scales.dtype() == dtype)
    }

    /// The type of the scales' tensor.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::Bf16,
            Self::E8M0 => DType::F8E8M0,
        }
    }
}

/// Floats of 8 bits with scales.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct F8Codec {
    /// The scales' type.
    pub scales: ScaleType,
}

impl F8Codec {
    /// Shape of the scales of a `[rows, cols]` matrix.
    #[must_use]
    pub fn scale_shape(self, rows: usize, cols: usize) -> [usize; 2] {
        [rows.div_ceil(BLOCK), cols.div_ceil(BLOCK)]
    }

    /// Bytes of the scales of a `[rows, cols]` matrix.
    #[must_use]
    pub fn scale_bytes(self, rows: usize, cols: usize) -> usize {
        let [down, across] = self.scale_shape(rows, cols);
        down * across * self.scales.dtype().block_bytes()
    }

    fn name(self) -> &'static str {
        match self.scales {
            ScaleType::F32 => "f8-e4m3",
            ScaleType::Bf16 => "f8-e4m3-bf16",
            ScaleType::E8M0 => "f8-e4m3-e8m0",
        }
    }

    /// The codec of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        let mut all = ScaleType::ALL.into_iter().map(|scales| Self { scales });
        all.find(|codec| codec.name() == name)
    }

    /// Decodes rows of `cols` elements. The caller has checked lengths.
    pub(super) fn decode(self, encoded: &Encoded, cols: usize, out: &mut [f32]) {
        let [down, across] = self.scale_shape(out.len() / cols.max(1), cols);
        let mut scales = vec![0.0; down * across];
        match self.scales {
            ScaleType::F32 => f32::decode(&encoded.scales, &mut scales),
            ScaleType::Bf16 => bf16::decode(&encoded.scales, &mut scales),
            ScaleType::E8M0 => {
                let powers = scales.iter_mut().zip(&encoded.scales);
                powers.for_each(|(scale, &exponent)| *scale = e2m1::power(exponent));
            }
        }
        let rows = encoded.weights.chunks_exact(cols.max(1));
        for (row, (weights, out)) in rows.zip(out.chunks_exact_mut(cols.max(1))).enumerate() {
            let scales = &scales[row / BLOCK * across..][..across];
            for (col, (&byte, out)) in weights.iter().zip(out).enumerate() {
                *out = value(byte) * scales[col / BLOCK];
            }
        }
    }
}

/// What a byte stands for, exact.
pub(super) fn value(byte: u8) -> f32 {
    let magnitude = f32::from_bits(u32::from(byte & 0x7f) << 20) * 2.0_f32.powi(120);
    if byte >= 0x80 { -magnitude } else { magnitude }
}

impl fmt::Display for F8Codec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
