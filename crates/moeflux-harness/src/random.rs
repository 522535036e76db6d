//! The generator of all data: xorshift64*.

/// A seeded generator. The same seed gives the same data on every machine.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// A generator; the seed 0, with which it would stand still, counts as another.
    pub fn new(seed: u64) -> Random {
        let state = if seed == 0 {
            0x9E37_79B9_7F4A_7C15
        } else {
            seed
        };
        Random { state }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// In [-1, 1]: the upper 56 bits.
    pub fn next_f32(&mut self) -> f32 {
        (self.next_u64() >> 8) as f32 / (1_u64 << 56) as f32 * 2.0 - 1.0
    }

    /// `len` numbers in [-scale, scale].
    pub fn floats(&mut self, len: usize, scale: f32) -> Vec<f32> {
        (0..len).map(|_| self.next_f32() * scale).collect()
    }

    /// A number from `first` to `last`, both included.
    pub fn within(&mut self, first: usize, last: usize) -> usize {
        first + (self.next_u64() >> 16) as usize % (last - first + 1)
    }

    /// One of `choices`, which are not none.
    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.within(0, choices.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::Random;

    /// The first outputs of xorshift64* for the state 1, worked out by hand: 1 ^ 1 << 25 times
    /// the multiplier.
    #[test]
    fn follows_the_definition() {
        let state = 1_u64 ^ (1 << 25);
        let expected = state.wrapping_mul(0x2545_F491_4F6C_DD1D);
        assert_eq!(Random::new(1).next_u64(), expected);
        let mut second = Random::new(0);
        assert_eq!(
            second.next_u64(),
            Random::new(0x9E37_79B9_7F4A_7C15).next_u64()
        );
    }

    #[test]
    fn floats_fill_their_range() {
        let values = Random::new(7).floats(10_000, 0.5);
        assert!(values.iter().all(|x| x.abs() <= 0.5));
        let mean = values.iter().sum::<f32>() / 10_000.0;
        let above = values.iter().filter(|x| x.abs() > 0.49).count();
        assert!(
            mean.abs() < 0.01 && above > 100,
            "mean {mean}, {above} near the ends"
        );
    }
}
