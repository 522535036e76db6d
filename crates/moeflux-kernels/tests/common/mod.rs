//! Inputs, comparisons and the set of processors for kernel tests.

#![allow(dead_code, clippy::unwrap_used)] // each test file uses a part

pub mod plain;

use moeflux_kernels::{Coded, Coding, Cpu, Isa, Matrix, MatrixData, arrange};

/// A small generator (splitmix64): tests shrink better over a seed than over long vectors.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// In [-1, 1).
    pub fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.unit()).collect()
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// `len` values of a kind: plain, huge, tiny, with infinities, with NaN, or anything at all.
    pub fn values(&mut self, kind: Kind, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.value(kind)).collect()
    }

    fn value(&mut self, kind: Kind) -> f32 {
        let x = self.unit();
        let rare = self.below(50) == 0;
        match kind {
            Kind::Plain => x,
            Kind::Huge => x * f32::MAX,
            Kind::Tiny => x * 1e-42,
            Kind::Mixed => x * 10f32.powi(self.below(60) as i32 - 30),
            Kind::Zero => 0.0 * x,
            Kind::Infinite if rare => f32::INFINITY.copysign(x),
            Kind::Nan if rare => f32::NAN,
            Kind::Infinite | Kind::Nan => x * 4.0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Plain,
    Huge,
    Tiny,
    Mixed,
    Zero,
    Infinite,
    Nan,
}

pub const KINDS: [Kind; 7] = [
    Kind::Plain,
    Kind::Huge,
    Kind::Tiny,
    Kind::Mixed,
    Kind::Zero,
    Kind::Infinite,
    Kind::Nan,
];

/// A kind by number; plain ones are more frequent.
pub fn kind(number: usize) -> Kind {
    *KINDS.get(number).unwrap_or(&Kind::Plain)
}

pub fn bf16(x: f32) -> u16 {
    half::bf16::from_f32(x).to_bits()
}

/// Owner of a matrix's parts.
pub struct Weights {
    pub rows: usize,
    pub cols: usize,
    pub codec: Codec,
    pub f32s: Vec<f32>,
    pub u16s: Vec<u16>,
    pub bytes: Vec<u8>,
    pub scales: Vec<u16>,
    pub biases: Vec<u16>,
    /// The integer-coded parts in rows, as files have them.
    pub rows_of_bytes: Vec<u8>,
    pub rows_of_scales: Vec<u16>,
    pub rows_of_biases: Vec<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Codec {
    F32,
    F16,
    Bf16,
    Coded(Coding),
}

/// Affine weights.
pub const fn affine(bits: u32, group: usize) -> Codec {
    Codec::Coded(Coding::Affine { bits, group })
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
    for bits in [2, 3, 4, 5, 6, 8] {
        codings.extend([32, 64, 128].map(|group| Coding::Affine { bits, group }));
    }
    for bits in [4, 8] {
        codings.extend([32, 64, 128].map(|group| Coding::Centered { bits, group }));
    }
    codings
}

impl Weights {
    pub fn new(random: &mut Random, codec: Codec, rows: usize, cols: usize, kind: Kind) -> Weights {
        let floats = random.values(kind, rows * cols);
        let mut weights = Weights {
            rows,
            cols,
            codec,
            f32s: vec![],
            u16s: vec![],
            bytes: vec![],
            scales: vec![],
            biases: vec![],
            rows_of_bytes: vec![],
            rows_of_scales: vec![],
            rows_of_biases: vec![],
        };
        match codec {
            Codec::F32 => weights.f32s = floats,
            Codec::F16 => {
                weights.u16s = floats
                    .iter()
                    .map(|&x| half::f16::from_f32(x).to_bits())
                    .collect();
            }
            Codec::Bf16 => weights.u16s = floats.iter().map(|&x| bf16(x)).collect(),
            Codec::Coded(coding) => weights.fill(random, coding, kind),
        }
        weights
    }

    fn fill(&mut self, random: &mut Random, coding: Coding, kind: Kind) {
        let [bytes, scales, biases] = coding.part_lengths(self.rows, self.cols).unwrap();
        self.rows_of_bytes = random.bytes(bytes);
        if let Coding::Affine { bits, .. } | Coding::Centered { bits, .. } = coding {
            let most = ((1 << bits) - 1) as f32;
            let values = random.values(kind, scales);
            self.rows_of_scales = values.iter().map(|x| bf16(x / most)).collect();
            let values = random.values(kind, biases);
            self.rows_of_biases = values.iter().map(|x| bf16(-x.abs() / 2.0)).collect();
        }
        if let Some((block_bytes, places)) = plain::half_places(coding) {
            for block in self.rows_of_bytes.chunks_exact_mut(block_bytes) {
                for &place in places {
                    let half = half::f16::from_f32(random.values(kind, 1)[0]);
                    block[place..place + 2].copy_from_slice(&half.to_le_bytes());
                }
            }
        }
        if coding == Coding::Mxfp4 {
            // Powers that sums of products do not overflow by, and the least ones.
            for block in self.rows_of_bytes.chunks_exact_mut(17) {
                block[0] = match kind {
                    Kind::Tiny => block[0] % 4,
                    Kind::Huge => 250 + block[0] % 6,
                    _ => 110 + block[0] % 16,
                };
            }
        }
        if coding == Coding::Nvfp4 {
            // Signs of scales are allowed, numbers that are none are not.
            for block in self.rows_of_bytes.chunks_exact_mut(18) {
                for scale in &mut block[..2] {
                    *scale = match kind {
                        Kind::Tiny => *scale % 8,
                        _ if *scale & 0x7f == 0x7f => 0x7e,
                        _ => *scale,
                    };
                }
            }
        }
        self.arrange();
    }

    /// Makes tiles of the rows.
    pub fn arrange(&mut self) {
        let Codec::Coded(coding) = self.codec else {
            return;
        };
        let bytes = |halves: &[u16]| halves.iter().flat_map(|h| h.to_le_bytes()).collect();
        let halves = |bytes: Vec<u8>| {
            let pairs = bytes.as_chunks::<2>().0.iter();
            pairs.map(|b| u16::from_le_bytes(*b)).collect()
        };
        self.bytes = self.rows_of_bytes.clone();
        let mut scales: Vec<u8> = bytes(&self.rows_of_scales);
        let mut biases: Vec<u8> = bytes(&self.rows_of_biases);
        let (rows, cols) = (self.rows, self.cols);
        arrange(
            coding,
            rows,
            cols,
            &mut self.bytes,
            &mut scales,
            &mut biases,
        )
        .unwrap();
        (self.scales, self.biases) = (halves(scales), halves(biases));
    }

    pub fn matrix(&self) -> Matrix<'_> {
        let data = match self.codec {
            Codec::F32 => MatrixData::F32(&self.f32s),
            Codec::F16 => MatrixData::F16(&self.u16s),
            Codec::Bf16 => MatrixData::Bf16(&self.u16s),
            Codec::Coded(coding) => MatrixData::Coded(Coded {
                coding,
                weights: &self.bytes,
                scales: &self.scales,
                biases: &self.biases,
                global: plain::global(coding),
            }),
        };
        Matrix::new(self.rows, self.cols, data).unwrap()
    }
}

/// Every instruction set of this machine, with 1 to 4 threads over the calls of a test.
pub fn cpus() -> Vec<Cpu> {
    let isas = Isa::available();
    let cpu = |(i, &isa): (usize, &Isa)| Cpu::new(isa, 1 + i % 4).unwrap();
    let twice: Vec<Isa> = isas.iter().chain(&isas).copied().collect();
    // Scalar first with 1 thread; a second round of the list shifts the thread counts.
    let mut cpus: Vec<Cpu> = twice.iter().enumerate().map(cpu).collect();
    cpus.push(Cpu::new(Isa::detect(), 4).unwrap());
    cpus
}

/// Equal bits, or both NaN.
pub fn assert_same(what: &str, cpu: &Cpu, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        assert!(
            got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan()),
            "{what} on {} with {} threads: element {i} is {got:e}, reference says {expected:e}",
            cpu.isa(),
            cpu.pool().threads(),
        );
    }
}

/// The L2 norm of the difference over that of `b`.
pub fn relative_l2(a: &[f32], b: &[f32]) -> f64 {
    let difference: f64 = a
        .iter()
        .zip(b)
        .map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2))
        .sum();
    let norm: f64 = b.iter().map(|&b| f64::from(b).powi(2)).sum();
    (difference / norm).sqrt()
}
