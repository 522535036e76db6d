//! Random weights in bytes.

use half::f16;
use moeflux::formats::{AffineCodec, BlockCodec, Codec, Encoded, codec::bf16, encode};
use moeflux::weights::MatrixPart;

use crate::{HarnessError, Random};

/// Elements that share a scale and a bias.
const GROUP: usize = 64;

/// A 4-bit affine matrix in groups of 64 drawn directly in its coded form: words of eight
/// integers, then scales in [-0.05, 0.05], then biases in [-0.02, 0.02], both bf16.
pub fn affine4_matrix(random: &mut Random, rows: usize, cols: usize) -> MatrixPart {
    let words = (0..rows * cols / 8).flat_map(|_| (random.next_u64() as u32).to_le_bytes());
    let weights = words.collect();
    let mut halves = |scale: f32| -> Vec<u8> {
        (0..rows * cols / GROUP)
            .flat_map(|_| bf16::round(random.next_f32() * scale).to_le_bytes())
            .collect()
    };
    let (scales, biases) = (halves(0.05), halves(0.02));
    MatrixPart {
        codec: Codec::Affine(AffineCodec {
            bits: 4,
            group: GROUP,
        }),
        rows,
        cols,
        encoded: Encoded {
            weights,
            scales,
            biases,
        },
    }
}

/// A matrix of random values in about [-scale, scale], coded.
///
/// # Errors
/// [`HarnessError::Format`] if the codec cannot hold that many columns.
pub fn coded_matrix(
    random: &mut Random,
    codec: Codec,
    rows: usize,
    cols: usize,
    scale: f32,
) -> Result<MatrixPart, HarnessError> {
    let encoded = match codec {
        Codec::Block(block @ (BlockCodec::Q4K | BlockCodec::Q5K | BlockCodec::Q6K)) => Encoded {
            weights: drawn_blocks(random, block, rows * cols, scale),
            ..Encoded::default()
        },
        _ => encode(codec, &random.floats(rows * cols, scale), rows, cols)?,
    };
    Ok(MatrixPart {
        codec,
        rows,
        cols,
        encoded,
    })
}

/// Blocks of codecs that have no encoder, drawn in their coded form: random integers and scales
/// of parts, and a scale of the block (and of its minima) that fits `scale`.
fn drawn_blocks(random: &mut Random, block: BlockCodec, elements: usize, scale: f32) -> Vec<u8> {
    // Integers times scales of parts reach these; minima then lie in the middle.
    let (at, largest, middle) = match block {
        BlockCodec::Q4K => (0, 15.0 * 63.0, 7.5),
        BlockCodec::Q5K => (0, 31.0 * 63.0, 15.5),
        _ => (208, 32.0 * 128.0, 0.0),
    };
    let mut blocks = Vec::new();
    for _ in 0..elements / block.block_elements() {
        let mut bytes: Vec<u8> = (0..block.block_bytes())
            .map(|_| (random.next_u64() >> 24) as u8)
            .collect();
        let d = scale / largest * (1.5 + 0.5 * random.next_f32());
        bytes[at..at + 2].copy_from_slice(&f16::from_f32(d).to_le_bytes());
        if middle > 0.0 {
            bytes[2..4].copy_from_slice(&f16::from_f32(d * middle).to_le_bytes());
        }
        blocks.extend(bytes);
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use moeflux::formats::decode;

    /// Decoded by hand: integer times scale plus bias, low nibble first.
    #[test]
    fn affine4_is_what_its_decoder_reads() {
        let part = affine4_matrix(&mut Random::new(3), 4, 128);
        let decoded = decode(part.codec, &part.encoded, 4, 128).expect("decodes");
        let half = |bytes: &[u8], at: usize| {
            f32::from_bits(u32::from(u16::from_le_bytes([bytes[2 * at], bytes[2 * at + 1]])) << 16)
        };
        for (at, value) in decoded.iter().enumerate() {
            let integer = part.encoded.weights[at / 2] >> (at % 2 * 4) & 15;
            let (scale, bias) = (
                half(&part.encoded.scales, at / 64),
                half(&part.encoded.biases, at / 64),
            );
            assert_eq!(*value, f32::from(integer) * scale + bias);
        }
        assert!(decoded.iter().any(|x| *x > 0.3) && decoded.iter().any(|x| *x < -0.3));
    }
}
