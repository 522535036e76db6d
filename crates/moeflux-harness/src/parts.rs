//! Random weights in bytes.

use moeflux::formats::{AffineCodec, Codec, Encoded, codec::bf16, encode};
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

/// A matrix of random values in [-scale, scale], coded.
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
    let encoded = encode(codec, &random.floats(rows * cols, scale), rows, cols)?;
    Ok(MatrixPart {
        codec,
        rows,
        cols,
        encoded,
    })
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
