//! What random weights must be like for activations to stay finite and of ordinary size, and for
//! routing to be skewed on demand.
//!
//! Integers are plain random bits, so a matrix's values are uniform around zero; their scale sets
//! the spread. A matrix of spread `gain / sqrt(cols)` turns inputs of size 1 into outputs of size
//! `gain`.
//!
//! Skew: tokens' embeddings share a direction, constant up to its sign within each group of
//! columns, so that it lies in the groups' biases alone. A router's row has that direction times
//! the logarithm of its expert's popularity, so that every token's router logits favour the same
//! experts, more or less.

use std::sync::Arc;

use moeflux::formats::AffineCodec;
use moeflux::models::{MatrixClass, VectorFold};

use super::random::Stream;

/// Size of the embeddings' common direction beside their spread of 1.
const COMMON: f32 = 0.4;
/// Spread of router logits around the experts' popularity. With a Gumbel distribution's 1.28 shares
/// would be too steep, as a normal one has no long tail. With 2, exponent 1 and top 8 of 256, the
/// first 5, 20 and 50 % of the experts were measured to get 36, 71 and 92 % of the choices; their
/// popularity says 51, 74 and 89.
const ROUTER_GAIN: f32 = 2.0;
/// What all layers' outputs together may come to; the embeddings have size 1.
const LAYERS_GAIN: f32 = 2.0;
/// Part of a projection's gain that reaches the residual stream: gates and averages take the
/// rest. As measured on 40 layers.
const LAYER_OUTPUT: f32 = 0.65;

/// What all weights of a model have in common.
#[derive(Clone, Copy, Debug)]
pub struct Law {
    /// Chooses the values.
    pub seed: u64,
    /// Exponent of the experts' popularity by rank; 0 for none.
    pub zipf: f32,
    /// Number of layers.
    pub layers: usize,
}

/// The random values of an affine matrix.
#[derive(Clone, Debug)]
pub struct Affine {
    codes: Stream,
    jitter: Stream,
    codec: AffineCodec,
    /// Groups of a row.
    groups: u64,
    /// Middle of the scales.
    scale: f32,
    common: Common,
}

/// What is added to a row in the common direction.
#[derive(Clone, Debug)]
enum Common {
    None,
    /// The same in all rows; signs by group of columns.
    Every(f32, Arc<[f32]>),
    /// By row; signs by group of columns.
    Row(Arc<[f32]>, Arc<[f32]>),
}

impl Law {
    /// The matrix `name` (`class` is `None` for routed experts) of `layer`.
    pub fn matrix(
        &self,
        name: &str,
        class: Option<MatrixClass>,
        layer: usize,
        (rows, cols): (usize, usize),
        codec: AffineCodec,
    ) -> Affine {
        let is_router = class == Some(MatrixClass::Sensitive) && name.ends_with("mlp.gate");
        let ends = |end| name.ends_with(end);
        let spread = match class {
            Some(MatrixClass::Embedding) => 1.0,
            Some(MatrixClass::Head) => 2.0 / (cols as f32).sqrt(),
            _ if is_router => ROUTER_GAIN / (cols as f32).sqrt(),
            _ if ends("o_proj") || ends("out_proj") || ends("down_proj") => {
                LAYERS_GAIN / (cols as f32 * self.layers as f32).sqrt()
            }
            _ => 1.0 / (cols as f32).sqrt(),
        };
        let levels = (1_u32 << codec.bits) as f32;
        Affine {
            codes: Stream::new(self.seed, &format!("{name}.weight")),
            jitter: Stream::new(self.seed, &format!("{name}.scales")),
            codec,
            groups: (cols / codec.group) as u64,
            // The spread of that many equally likely integers is sqrt((levels^2 - 1) / 12).
            scale: spread / ((levels * levels - 1.0) / 12.0).sqrt(),
            common: self.common(name, class, layer, (rows, cols), codec, is_router),
        }
    }

    fn common(
        &self,
        name: &str,
        class: Option<MatrixClass>,
        layer: usize,
        (rows, cols): (usize, usize),
        codec: AffineCodec,
        is_router: bool,
    ) -> Common {
        let is_embedding = class == Some(MatrixClass::Embedding);
        if self.zipf == 0.0 || !(is_router || is_embedding) {
            return Common::None;
        }
        let direction = Stream::new(self.seed, "common direction");
        let sign = |group| {
            if direction.bits(group) & 1 == 0 {
                -1.0
            } else {
                1.0
            }
        };
        let signs = (0..(cols / codec.group) as u64).map(sign).collect();
        if is_embedding {
            return Common::Every(COMMON, signs);
        }
        // Size of the residual stream here, and of the direction's part once it is normed.
        let outputs = (LAYERS_GAIN * LAYER_OUTPUT).powi(2) * layer as f32 / self.layers as f32;
        let part = COMMON / (1.0 + COMMON * COMMON + outputs).sqrt();
        let ranks = Stream::new(self.seed, name).permutation(rows);
        let popularity = |rank: usize| -self.zipf * (rank as f32 + 1.0).ln();
        let mean = (0..rows).map(popularity).sum::<f32>() / rows as f32;
        let strength = |&rank: &usize| (popularity(rank) - mean) / (part * cols as f32);
        Common::Row(ranks.iter().map(strength).collect(), signs)
    }

    /// The values of the vector `name` of `elements`, as bf16.
    pub fn vector(&self, name: &str, fold: VectorFold, elements: usize) -> Vec<u8> {
        let stream = Stream::new(self.seed, name);
        let value = |index: u64| {
            let unit = stream.unit(index);
            let centred = 2.0 * unit - 1.0;
            match fold {
                // Four taps of that spread keep the size of what they add up.
                VectorFold::TransposeConv | VectorFold::DilateConv { .. } => 0.87 * centred,
                // Biases, and weights of norms less one.
                VectorFold::AddOne | VectorFold::Even | VectorFold::Odd => 0.1 * centred,
                // Decays as the architecture is initialized: rates of 1 to 16, steps of 0.001 to
                // 0.1 through softplus.
                VectorFold::None if name.ends_with("A_log") => (1.0 + 15.0 * unit).ln(),
                VectorFold::None if name.ends_with("dt_bias") => {
                    let step = 0.001 * 100.0_f32.powf(unit);
                    step.exp_m1().ln()
                }
                VectorFold::Numbers { count } => (unit * count as f32).floor(),
                VectorFold::LogOfNegated => -1.0 - 15.0 * unit,
                VectorFold::None => 1.0 + 0.1 * centred,
            }
        };
        let values = (0..elements as u64).map(|index| bf16(value(index)).to_le_bytes());
        values.flatten().collect()
    }
}

impl Affine {
    /// The integers from byte `first` (a multiple of 8) on.
    pub fn codes(&self, first: u64, out: &mut [u8]) {
        self.codes.fill(first / 8, out);
    }

    /// The scales from byte `first` on.
    pub fn scales(&self, first: u64, out: &mut [u8]) {
        let groups = out.as_chunks_mut::<2>().0;
        for (group, scale) in (first / 2..).zip(groups) {
            *scale = self.scale(group).to_le_bytes();
        }
    }

    /// The biases from byte `first` on: half the range below zero, and the common direction.
    pub fn biases(&self, first: u64, out: &mut [u8]) {
        let middle = ((1_u32 << self.codec.bits) - 1) as f32 / 2.0;
        let groups = out.as_chunks_mut::<2>().0;
        for (group, bias) in (first / 2..).zip(groups) {
            let scale = f32::from_bits(u32::from(self.scale(group)) << 16);
            let common = match &self.common {
                Common::None => 0.0,
                Common::Every(size, signs) => size * signs[(group % self.groups) as usize],
                Common::Row(sizes, signs) => {
                    let (row, column) = (group / self.groups, group % self.groups);
                    sizes[row as usize] * signs[column as usize]
                }
            };
            *bias = bf16(common - middle * scale).to_le_bytes();
        }
    }

    /// Scales differ by up to a fourth from their middle, as bf16.
    #[inline(always)]
    fn scale(&self, group: u64) -> u16 {
        bf16(self.scale * (0.75 + 0.5 * self.jitter.unit(group)))
    }
}

/// Rounds a finite number half to even.
#[inline(always)]
fn bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}
