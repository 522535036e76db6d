//! Codec `f8-e4m3`: floats of 8 bits (4 of exponent, 3 of mantissa, no infinities) with a scale to
//! each square of 128 x 128 elements, as DeepSeek-V3, MiniMax-M2 and Qwen's FP8 models are
//! published.
//!
//! - `weight` F8_E4M3 `[rows, cols]`;
//! - `weight_scale_inv` F32 or BF16 `[ceil(rows / 128), ceil(cols / 128)]`: what to multiply with.
//!
//! The bytes 0x7f and 0xff, which stand for no number, are read as 480 and -480.

use std::fmt;

use super::{Encoded, bf16, f32};
use crate::DType;

/// Rows and columns that share a scale.
pub const BLOCK: usize = 128;

/// What the tensor of the scales is called beside `weight`.
pub const SCALES: &str = "weight_scale_inv";

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum ScaleType {
    /// Single precision.
    F32,
    /// The upper half of an f32.
    Bf16,
}

impl ScaleType {
    /// The type of the scales' tensor.
    #[must_use]
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::Bf16 => DType::Bf16,
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
    /// Both codecs.
    pub const ALL: [Self; 2] = [
        Self {
            scales: ScaleType::F32,
        },
        Self {
            scales: ScaleType::Bf16,
        },
    ];

    /// Shape of the scales of a `[rows, cols]` matrix.
    #[must_use]
    pub fn scale_shape(self, rows: usize, cols: usize) -> [usize; 2] {
        [rows.div_ceil(BLOCK), cols.div_ceil(BLOCK)]
    }

    /// Bytes of the scales of a `[rows, cols]` matrix.
    #[must_use]
    pub fn scale_bytes(self, rows: usize, cols: usize) -> usize {
        let [down, across] = self.scale_shape(rows, cols);
        let each = match self.scales {
            ScaleType::F32 => 4,
            ScaleType::Bf16 => 2,
        };
        down * across * each
    }

    fn name(self) -> &'static str {
        match self.scales {
            ScaleType::F32 => "f8-e4m3",
            ScaleType::Bf16 => "f8-e4m3-bf16",
        }
    }

    /// The codec of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|codec| codec.name() == name)
    }

    /// Decodes rows of `cols` elements. The caller has checked lengths.
    pub(super) fn decode(self, encoded: &Encoded, cols: usize, out: &mut [f32]) {
        let [down, across] = self.scale_shape(out.len() / cols.max(1), cols);
        let mut scales = vec![0.0; down * across];
        match self.scales {
            ScaleType::F32 => f32::decode(&encoded.scales, &mut scales),
            ScaleType::Bf16 => bf16::decode(&encoded.scales, &mut scales),
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
fn value(byte: u8) -> f32 {
    let magnitude = f32::from_bits(u32::from(byte & 0x7f) << 20) * 2.0_f32.powi(120);
    if byte >= 0x80 { -magnitude } else { magnitude }
}

impl fmt::Display for F8Codec {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}
