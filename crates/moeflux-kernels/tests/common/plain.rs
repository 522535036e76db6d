//! Integer codings decoded from rows as files have them, written from the formats' descriptions.

use moeflux_kernels::Coding;

/// Where the binary16 of a block stand, and the block's bytes.
pub fn half_places(coding: Coding) -> Option<(usize, &'static [usize])> {
    match coding {
        Coding::Affine { .. } | Coding::Centered { .. } => None,
        Coding::Mxfp4 | Coding::Nvfp4 => None,
        Coding::Q4_0 | Coding::Iq4Nl => Some((18, &[0])),
        Coding::Q4_1 => Some((20, &[0, 2])),
        Coding::Q5_0 => Some((22, &[0])),
        Coding::Q5_1 => Some((24, &[0, 2])),
        Coding::Q2K => Some((84, &[80, 82])),
        Coding::Q3K => Some((110, &[108])),
        Coding::Iq4Xs => Some((136, &[0])),
        Coding::Q8_0 => Some((34, &[0])),
        Coding::Q4K => Some((144, &[0, 2])),
        Coding::Q5K => Some((176, &[0, 2])),
        Coding::Q6K => Some((210, &[208])),
    }
}

/// The scale of a whole matrix.
pub fn global(coding: Coding) -> f32 {
    match coding {
        Coding::Nvfp4 => 0.0123,
        _ => 1.0,
    }
}

/// The levels of IQ4_NL, as ggml lists them.
const IQ4: [f32; 16] = [
    -127.0, -104.0, -83.0, -65.0, -49.0, -35.0, -22.0, -10.0, 1.0, 13.0, 25.0, 38.0, 53.0, 69.0,
    89.0, 113.0,
];
/// The values of E2M1.
const E2M1: [f32; 16] = [
    0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0,
];

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
        Coding::Centered { bits, group } => {
            let per_byte = 8 / bits as usize;
            let mask = u8::MAX >> (8 - bits);
            let integer = |j: usize| row[j / per_byte] >> (j % per_byte * 4) & mask;
            let float = |bits: u16| half::bf16::from_bits(bits).to_f32();
            let zero = f32::from(1u8 << (bits - 1));
            let value = |j: usize| (f32::from(integer(j)) - zero) * float(scales[j / group]);
            (0..row.len() * per_byte).map(value).collect()
        }
        Coding::Q4_0 => blocks(row, 18, q4_0),
        Coding::Q4_1 => blocks(row, 20, |block, out| {
            let value = |j: usize| f32::from(block[4 + j % 16] >> (j / 16 * 4) & 15);
            out.extend((0..32).map(|j| value(j).mul_add(half(block), half(&block[2..]))));
        }),
        Coding::Q5_0 => blocks(row, 22, |block, out| {
            out.extend((0..32).map(|j| (five_bits(&block[2..], j) - 16.0) * half(block)));
        }),
        Coding::Q5_1 => blocks(row, 24, |block, out| {
            let value = |j: usize| five_bits(&block[4..], j);
            out.extend((0..32).map(|j| value(j).mul_add(half(block), half(&block[2..]))));
        }),
        Coding::Q2K => blocks(row, 84, |block, out| {
            for j in 0..256 {
                let q = block[16 + j / 128 * 32 + j % 32] >> (j / 32 % 4 * 2) & 3;
                let scale = half(&block[80..]) * f32::from(block[j / 16] & 15);
                let minimum = half(&block[82..]) * f32::from(block[j / 16] >> 4);
                out.push(f32::from(q).mul_add(scale, -minimum));
            }
        }),
        Coding::Q3K => blocks(row, 110, q3_k),
        Coding::Iq4Nl => blocks(row, 18, |block, out| {
            let value = |j: usize| IQ4[usize::from(block[2 + j % 16] >> (j / 16 * 4) & 15)];
            out.extend((0..32).map(|j| value(j) * half(block)));
        }),
        Coding::Iq4Xs => blocks(row, 136, |block, out| {
            for j in 0..256 {
                let (g, i) = (j / 32, j % 32);
                let q = block[8 + 16 * g + i % 16] >> (i / 16 * 4) & 15;
                let low = block[4 + g / 2] >> (g % 2 * 4) & 15;
                let high = block[2 + g / 4] >> (g % 4 * 2) & 3;
                let scale = half(block) * (f32::from(low | high << 4) - 32.0);
                out.push(IQ4[usize::from(q)] * scale);
            }
        }),
        Coding::Mxfp4 => blocks(row, 17, |block, out| {
            let power = 2f64.powi(i32::from(block[0]) - 127) as f32;
            let value = |j: usize| E2M1[usize::from(block[1 + j % 16] >> (j / 16 * 4) & 15)];
            // In f64: halves of the least power are exact there.
            let value = |j: usize| (f64::from(value(j)) * f64::from(power)) as f32;
            out.extend((0..32).map(value));
        }),
        Coding::Nvfp4 => blocks(row, 18, |block, out| {
            let value = |j: usize| E2M1[usize::from(block[2 + j % 16] >> (j / 16 * 4) & 15)];
            out.extend((0..32).map(|j| value(j) * (e4m3(block[j / 16]) * global(coding))));
        }),
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

/// A number of a sign, four bits of exponent and three of mantissa.
fn e4m3(byte: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7) / 8.0);
    let size = match exponent {
        0 => mantissa * 2f32.powi(-6),
        _ => (1.0 + mantissa) * 2f32.powi(exponent - 7),
    };
    if byte < 128 { size } else { -size }
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

/// Element j of 32, whose fifth bits come first.
fn five_bits(packed: &[u8], j: usize) -> f32 {
    let low = packed[4 + j % 16] >> (j / 16 * 4) & 15;
    f32::from(low | (packed[j / 8] >> (j % 8) & 1) << 4)
}

fn q3_k(block: &[u8], out: &mut Vec<f32>) {
    for j in 0..256 {
        let low = block[32 + j / 128 * 32 + j % 32] >> (j / 32 % 4 * 2) & 3;
        let high = block[j % 32] >> (j / 32) & 1;
        let g = j / 16;
        let scale = block[96 + g % 8] >> (g / 8 * 4) & 15;
        let scale = scale | (block[104 + g % 4] >> (g / 4 * 2) & 3) << 4;
        let d = half(&block[108..]) * (f32::from(scale) - 32.0);
        out.push((f32::from(low | high << 2) - 4.0) * d);
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
