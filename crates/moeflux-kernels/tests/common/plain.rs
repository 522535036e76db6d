//! Integer codings decoded from rows as files have them, written from the formats' descriptions.

use moeflux_kernels::Coding;

/// Where the binary16 of a block stand, and the block's bytes.
pub fn half_places(coding: Coding) -> Option<(usize, &'static [usize])> {
    match coding {
        Coding::Affine { .. } => None,
        Coding::Q4_0 => Some((18, &[0])),
        Coding::Q8_0 => Some((34, &[0])),
        Coding::Q4K => Some((144, &[0, 2])),
        Coding::Q5K => Some((176, &[0, 2])),
        Coding::Q6K => Some((210, &[208])),
    }
}

fn half(bytes: &[u8]) -> f32 {
    half::f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

/// One row; scales and biases are bfloat16, for affine codings only.
pub fn decode(coding: Coding, row: &[u8], scales: &[u16], biases: &[u16]) -> Vec<f32> {
    match coding {
        Coding::Affine { bits, group } => {
            let bits = bits as usize;
            let count = row.len() * 8 / bits;
            let integer = |j: usize| {
                (0..bits)
                    .map(|b| u32::from(row[(j * bits + b) / 8] >> ((j * bits + b) % 8) & 1) << b)
                    .sum::<u32>()
            };
            let float = |bits: u16| half::bf16::from_bits(bits).to_f32();
            let value = |j: usize| {
                (integer(j) as f32).mul_add(float(scales[j / group]), float(biases[j / group]))
            };
            (0..count).map(value).collect()
        }
        Coding::Q4_0 => blocks(row, 18, q4_0),
        Coding::Q8_0 => blocks(row, 34, |block, out| {
            out.extend(block[2..].iter().map(|&q| f32::from(q as i8) * half(block)));
        }),
        Coding::Q4K => blocks(row, 144, |block, out| {
            for j in 0..256 {
                let byte = block[16 + j / 64 * 32 + j % 32];
                out.push(k_value(block, j / 32, byte >> (j / 32 % 2 * 4) & 15));
            }
        }),
        Coding::Q5K => blocks(row, 176, |block, out| {
            for j in 0..256 {
                let byte = block[48 + j / 64 * 32 + j % 32];
                let high = block[16 + j % 32] >> (j / 32) & 1;
                let low = byte >> (j / 32 % 2 * 4) & 15;
                out.push(k_value(block, j / 32, low | high << 4));
            }
        }),
        Coding::Q6K => blocks(row, 210, |block, out| {
            for j in 0..256 {
                let (half_block, quarter, l) = (j / 128, j % 128 / 32, j % 32);
                let low = block[half_block * 64 + quarter % 2 * 32 + l] >> (quarter / 2 * 4) & 15;
                let high = block[128 + half_block * 32 + l] >> (quarter * 2) & 3;
                let scale = half(&block[208..]) * f32::from(block[192 + j / 16] as i8);
                out.push((f32::from(low | high << 4) - 32.0) * scale);
            }
        }),
    }
}

fn blocks(row: &[u8], bytes: usize, decode: impl Fn(&[u8], &mut Vec<f32>)) -> Vec<f32> {
    let mut out = vec![];
    for block in row.chunks_exact(bytes) {
        decode(block, &mut out);
    }
    out
}

fn q4_0(block: &[u8], out: &mut Vec<f32>) {
    for shift in [0, 4] {
        let integers = block[2..].iter().map(|q| f32::from(q >> shift & 15) - 8.0);
        out.extend(integers.map(|q| q * half(block)));
    }
}

/// The value of an integer of group j of a K block.
fn k_value(block: &[u8], j: usize, q: u8) -> f32 {
    let s = &block[4..16];
    let (scale, minimum) = if j < 4 {
        (s[j] & 63, s[j + 4] & 63)
    } else {
        let scale = s[j + 4] & 15 | (s[j - 4] >> 6) << 4;
        (scale, s[j + 4] >> 4 | (s[j] >> 6) << 4)
    };
    let bias = -(half(&block[2..]) * f32::from(minimum));
    f32::from(q).mul_add(half(block) * f32::from(scale), bias)
}
