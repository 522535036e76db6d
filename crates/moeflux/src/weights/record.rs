//! The matrices of an expert's record in a packed model.

use moeflux_formats::codec::f8::{self, ScaleType};
use moeflux_formats::{AffineCodec, BlockCodec, CenteredCodec, Codec, DType, F8Codec, PackedPart};

use super::layout::MatrixLayout;

/// The matrix `name` of `[rows, cols]` among the parts of a record; an error says what is wrong
/// with it.
pub(super) fn record_matrix(
    parts: &[PackedPart],
    name: &str,
    rows: usize,
    cols: usize,
) -> Result<MatrixLayout, String> {
    let part = |suffix: &str| {
        let full = format!("{name}.{suffix}");
        parts.iter().find(|part| part.name == full)
    };
    let require =
        |suffix: &str| part(suffix).ok_or_else(|| format!("its records have no {name}.{suffix}"));
    let blocks = BlockCodec::ALL.into_iter().map(Codec::Block);
    let block = blocks
        .chain([Codec::Nvfp4])
        .find(|codec| part(&codec.to_string()).is_some());
    let codec = match (block, part("weight_packed")) {
        (Some(block), _) => block,
        (None, Some(weights)) => {
            let (bits, group) = bits_and_group(weights, require("weight_scale")?, cols)?;
            let codec = CenteredCodec::new(bits, group);
            Codec::Centered(codec.map_err(|e| e.to_string())?)
        }
        (None, None) => {
            let weights = require("weight")?;
            match weights.dtype {
                DType::U32 => {
                    let (bits, group) = bits_and_group(weights, require("scales")?, cols)?;
                    let codec = AffineCodec::new(bits, group);
                    Codec::Affine(codec.map_err(|e| e.to_string())?)
                }
                DType::F8E4M3 => Codec::F8(F8Codec {
                    scales: ScaleType::of_dtype(require(f8::SCALES)?.dtype)
                        .unwrap_or(ScaleType::F32),
                }),
                other => match Codec::of_dtype(other) {
                    Some(codec) => codec,
                    None => return Err(format!("{} has type {}", weights.name, other.name())),
                },
            }
        }
    };
    codec.encoded_bytes(rows, cols).map_err(|e| e.to_string())?;
    let mut starts = [0; 3];
    for (start, expected) in starts.iter_mut().zip(codec.tensors(rows, cols)) {
        let found = require(expected.name)?;
        if (found.dtype, found.shape.as_slice()) != (expected.dtype, &expected.shape) {
            return Err(format!(
                "{} is {} of shape {:?}, expected {} of {:?}",
                found.name, found.dtype, found.shape, expected.dtype, expected.shape
            ));
        }
        *start = found.offset as usize;
    }
    Ok(MatrixLayout::placed(codec, rows, cols, starts))
}

/// Bits of an integer and integers of a scale, by the shapes of their tensors.
fn bits_and_group(
    weights: &PackedPart,
    scales: &PackedPart,
    cols: usize,
) -> Result<(u32, usize), String> {
    let last = |part: &PackedPart| part.shape.last().copied().unwrap_or(0);
    let (row_bits, groups) = (last(weights).checked_mul(32), last(scales));
    let bits = row_bits.filter(|bits| bits.is_multiple_of(cols));
    let bits = bits.and_then(|bits| u32::try_from(bits.checked_div(cols)?).ok());
    let bits = bits.filter(|_| groups > 0 && cols.is_multiple_of(groups));
    let bits = bits.ok_or_else(|| format!("{} does not fit its scales", weights.name))?;
    Ok((bits, cols / groups))
}
