//! Fitting a line `code * step + base` with integer codes to a group of values: what affine groups
//! and K blocks share.
//!
//! Errors are squared and weighted by element. Sums run in 16 lanes, halved at the end, so that the
//! compiler can vectorize them; nothing depends on the machine or the number of threads.

const LANES: usize = 16;

/// What codes stand for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    pub step: f32,
    pub base: f32,
}

impl Line {
    /// The value of a code.
    #[inline]
    pub(super) fn value(self, code: f32) -> f32 {
        code * self.step + self.base
    }
}

/// Values with a weight each, not negative.
#[derive(Clone, Copy)]
pub(super) struct Group<'a, const N: usize> {
    pub values: &'a [f32; N],
    pub weights: &'a [f32; N],
}

/// Weighted sums over a group: of 1, the value and its square.
#[derive(Clone, Copy)]
pub(super) struct Moments {
    pub one: f32,
    pub value: f32,
    pub square: f32,
}

/// Weighted sums over a group with codes: of the code, its square, and its product with the value.
#[derive(Clone, Copy)]
pub(super) struct CodeSums {
    pub code: f32,
    pub square: f32,
    pub product: f32,
}

impl CodeSums {
    /// The line of least squared error through the values over the codes, with that error; `None`
    /// if all codes are alike.
    pub(super) fn line(self, of: Moments) -> Option<(Line, f32)> {
        let spread = of.one * self.square - self.code * self.code;
        let step = (of.one * self.product - of.value * self.code) / spread;
        let base = (of.value - step * self.code) / of.one;
        let is_usable = spread > 0.0 && step.is_finite() && base.is_finite();
        is_usable.then(|| {
            let error = of.square - step * self.product - base * of.value;
            (Line { step, base }, error)
        })
    }

    /// The same with a base of zero.
    pub(super) fn line_through_zero(self, of: Moments) -> Option<(Line, f32)> {
        let step = self.product / self.square;
        let line = Line { step, base: 0.0 };
        let is_usable = self.square > 0.0 && step.is_finite();
        is_usable.then_some((line, of.square - step * self.product))
    }
}

impl<const N: usize> Group<'_, N> {
    /// The nearest codes up to `levels`, ties to even, and the error of what they stand for.
    pub(super) fn codes(&self, line: Line, levels: f32) -> ([f32; N], f32) {
        let mut codes = [0.0; N];
        let mut error = [0.0; LANES];
        let blocks = self.blocks().zip(codes.as_chunks_mut::<LANES>().0);
        for ((values, weights), codes) in blocks {
            for lane in 0..LANES {
                codes[lane] = nearest((values[lane] - line.base) / line.step, levels);
                let off = values[lane] - line.value(codes[lane]);
                error[lane] += weights[lane] * (off * off);
            }
        }
        (codes, sum(error))
    }

    /// The sums with the codes that are nearest by `line`, which need not be kept.
    pub(super) fn try_line(&self, line: Line, levels: f32) -> CodeSums {
        let inverse = 1.0 / line.step;
        let offset = -line.base * inverse;
        let (mut code, mut square, mut product) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for (values, weights) in self.blocks() {
            for lane in 0..LANES {
                let nearest = nearest(values[lane] * inverse + offset, levels);
                let weighted = weights[lane] * nearest;
                code[lane] += weighted;
                square[lane] += weighted * nearest;
                product[lane] += weighted * values[lane];
            }
        }
        CodeSums {
            code: sum(code),
            square: sum(square),
            product: sum(product),
        }
    }

    /// The sums with given codes.
    pub(super) fn with_codes(&self, codes: &[f32; N]) -> CodeSums {
        let (mut code, mut square, mut product) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        let blocks = self.blocks().zip(codes.as_chunks::<LANES>().0);
        for ((values, weights), codes) in blocks {
            for lane in 0..LANES {
                let weighted = weights[lane] * codes[lane];
                code[lane] += weighted;
                square[lane] += weighted * codes[lane];
                product[lane] += weighted * values[lane];
            }
        }
        CodeSums {
            code: sum(code),
            square: sum(square),
            product: sum(product),
        }
    }

    /// The sums without codes.
    pub(super) fn moments(&self) -> Moments {
        let (mut one, mut value, mut square) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for (values, weights) in self.blocks() {
            for lane in 0..LANES {
                let weighted = weights[lane] * values[lane];
                one[lane] += weights[lane];
                value[lane] += weighted;
                square[lane] += weighted * values[lane];
            }
        }
        Moments {
            one: sum(one),
            value: sum(value),
            square: sum(square),
        }
    }

    /// Smallest and largest value, or `None` if one is infinite or NaN.
    pub(super) fn range(&self) -> Option<(f32, f32)> {
        let (mut least, mut most) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        let mut poison = [0.0; LANES];
        for (values, _) in self.blocks() {
            for lane in 0..LANES {
                let value = values[lane];
                least[lane] = if value < least[lane] {
                    value
                } else {
                    least[lane]
                };
                most[lane] = if value > most[lane] {
                    value
                } else {
                    most[lane]
                };
                poison[lane] += value * 0.0; // NaN for what is not finite
            }
        }
        let least = reduce(least, |a, b| if b < a { b } else { a });
        let most = reduce(most, |a, b| if b > a { b } else { a });
        (sum(poison) == 0.0).then_some((least, most))
    }

    fn blocks(&self) -> impl Iterator<Item = (&[f32; LANES], &[f32; LANES])> {
        let values = self.values.as_chunks::<LANES>().0.iter();
        values.zip(self.weights.as_chunks::<LANES>().0)
    }
}

/// The nearest code; a place below zero or NaN (0 / 0) gives 0.
#[inline]
fn nearest(place: f32, levels: f32) -> f32 {
    let above = if place > 0.0 { place } else { 0.0 };
    let clamped = if above < levels { above } else { levels };
    // Adding and subtracting 2^23 rounds.
    (clamped + 8_388_608.0) - 8_388_608.0
}

#[inline]
fn sum(lanes: [f32; LANES]) -> f32 {
    reduce(lanes, |a, b| a + b)
}

/// Halves the lanes until one is left: independent operations, unlike a running sum.
#[inline]
fn reduce(mut lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] = combine(lanes[lane], lanes[lane + width]);
        }
    }
    lanes[0]
}
