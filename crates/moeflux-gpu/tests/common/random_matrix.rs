//! Random matrices of every coding.

use half::{bf16, f16};
use moeflux_gpu::exactness::{file_block, global};
use moeflux_kernels::{Coded, Coding, Matrix, MatrixData, arrange};

use super::random;

/// Weights of a coding as files have them: random integers, small scales.
pub struct Random {
    coding: Coding,
    rows: usize,
    cols: usize,
    weights: Vec<u8>,
    scales: Vec<u16>,
    biases: Vec<u16>,
}

impl Random {
    /// The same for the same shape.
    pub fn new(coding: Coding, rows: usize, cols: usize) -> Random {
        Random::seeded(0, coding, rows, cols)
    }

    /// The same for the same shape and seed.
    pub fn seeded(seed: u64, coding: Coding, rows: usize, cols: usize) -> Random {
        let first = 5 + 3 * seed;
        let [weights, scales, biases] = coding.part_lengths(rows, cols).expect("it is a shape");
        let bytes = |seed, len| {
            random(seed, len)
                .iter()
                .map(|v| (v * 127.0) as i8 as u8)
                .collect()
        };
        let maps = |seed, len| {
            random(seed, len)
                .iter()
                .map(|v| bf16::from_f32(*v * 0.1).to_bits())
                .collect()
        };
        let mut weights: Vec<u8> = bytes(first, weights);
        // Half-precision scales of blocks must be finite and of a likely size.
        let (block_bytes, blocks) = file_block(coding);
        for (index, block) in weights.chunks_exact_mut(block_bytes).enumerate() {
            for &at in blocks {
                // Some are subnormal.
                let scale = f16::from_f32(if index % 3 == 0 {
                    2e-5
                } else {
                    0.01 * (index % 7) as f32
                });
                block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
            if coding == Coding::Mxfp4 {
                block[0] = 112 + block[0] % 16;
            }
        }
        let (mut scales, mut biases): (Vec<u16>, Vec<u16>) =
            (maps(first + 1, scales), maps(first + 2, biases));
        let [s, b] = [&mut scales, &mut biases].map(|part| bytemuck::cast_slice_mut(part));
        arrange(coding, rows, cols, &mut weights, s, b).expect("it fits");
        Random {
            coding,
            rows,
            cols,
            weights,
            scales,
            biases,
        }
    }

    /// As kernels take it.
    pub fn matrix(&self) -> Matrix<'_> {
        let coded = Coded {
            coding: self.coding,
            weights: &self.weights,
            scales: &self.scales,
            biases: &self.biases,
            global: global(self.coding),
        };
        Matrix::new(self.rows, self.cols, MatrixData::Coded(coded)).expect("it fits")
    }
}

/// Every coding.
pub fn codings() -> Vec<Coding> {
    let mut codings = vec![
        Coding::Q4_0,
        Coding::Q4_1,
        Coding::Q5_0,
        Coding::Q5_1,
        Coding::Q8_0,
        Coding::Q2K,
        Coding::Q3K,
        Coding::Q4K,
        Coding::Q5K,
        Coding::Q6K,
        Coding::Iq4Nl,
        Coding::Iq4Xs,
        Coding::Mxfp4,
        Coding::Nvfp4,
    ];
    codings.extend([4, 8].map(|bits| Coding::Centered { bits, group: 64 }));
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in if bits == 4 {
            vec![32, 64, 128]
        } else {
            vec![64]
        } {
            codings.push(Coding::Affine { bits, group });
        }
    }
    codings
}
