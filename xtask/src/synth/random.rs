//! Reproducible random numbers by position: value `i` of a stream is a hash of `i` (splitmix64), so
//! any part of a tensor can be made without what comes before it.

use xxhash_rust::xxh3::xxh3_64_with_seed;

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of random numbers.
#[derive(Clone, Copy, Debug)]
pub struct Stream(u64);

impl Stream {
    /// The stream called `name` of a seed.
    pub fn new(seed: u64, name: &str) -> Stream {
        Stream(xxh3_64_with_seed(name.as_bytes(), seed))
    }

    /// 64 random bits.
    #[inline(always)]
    pub fn bits(self, index: u64) -> u64 {
        let x = self.0.wrapping_add((index + 1).wrapping_mul(GOLDEN));
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// Uniform in [0, 1).
    #[inline(always)]
    pub fn unit(self, index: u64) -> f32 {
        (self.bits(index) >> 40) as f32 / (1_u32 << 24) as f32
    }

    /// The bytes from word `first_word` (of 8 bytes) of the stream on.
    pub fn fill(self, first_word: u64, out: &mut [u8]) {
        let (words, tail) = out.as_chunks_mut::<8>();
        let mut index = first_word;
        for word in words {
            *word = self.bits(index).to_le_bytes();
            index += 1;
        }
        let last = self.bits(index).to_le_bytes();
        tail.copy_from_slice(&last[..tail.len()]);
    }

    /// The numbers `0..count` in random order (Fisher and Yates).
    pub fn permutation(self, count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        for last in (1..count).rev() {
            let other = self.bits(last as u64) % (last as u64 + 1);
            order.swap(last, other as usize);
        }
        order
    }
}
