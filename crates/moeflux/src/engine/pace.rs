//! How many tokens of a prompt to run at once. A large chunk reads each expert for many tokens, a
//! small one keeps its activations in the processor's caches: what is better shows in how long
//! steps wait for the disk.

use std::time::Duration;

/// Waiting for more than this part of a step asks for larger chunks, for less than that for smaller.
const MUCH_WAITING: f64 = 0.15;
const LITTLE_WAITING: f64 = 0.03;

/// The chunk to use where there is room for it.
#[derive(Debug)]
pub(super) struct Pace {
    tokens: usize,
    most: usize,
    /// Chunks are not made smaller than this for the caches' sake.
    cached: usize,
}

impl Pace {
    /// As large as `most` allows, until steps show that the disk does not need it: then as long as
    /// the backend's caches like them.
    pub fn new(most: usize, cached: usize) -> Pace {
        Pace {
            tokens: most,
            most,
            cached: cached.min(most),
        }
    }

    /// Tokens to run at once of the `rest` that are left: all chunks about equally long, since a
    /// short one at the end would read nearly as much as a long one.
    pub fn chunk(&self, rest: usize, is_complete: bool) -> usize {
        let tokens = match is_complete {
            true => self.cached,
            false => self.tokens,
        };
        rest.div_ceil(rest.div_ceil(tokens).max(1))
    }

    /// A step of so many tokens has taken `time`, `waited` of it for the disk.
    pub fn note(&mut self, tokens: usize, time: Duration, waited: Duration) {
        // Short steps wait whatever the chunk is.
        if tokens * 2 <= self.tokens || tokens < self.cached / 2 {
            return;
        }
        let share = waited.as_secs_f64() / time.as_secs_f64().max(1e-9);
        if share > MUCH_WAITING {
            self.tokens = (self.tokens * 2).min(self.most);
        } else if share < LITTLE_WAITING {
            self.tokens = (self.tokens / 2).max(self.cached);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(pace: &mut Pace, tokens: usize, waited_ms: u64) {
        pace.note(
            tokens,
            Duration::from_millis(1000),
            Duration::from_millis(waited_ms),
        );
    }

    #[test]
    fn chunks_are_of_about_one_length() {
        let pace = Pace::new(4096, 512);
        assert_eq!(pace.chunk(4096, false), 4096);
        assert_eq!(pace.chunk(4097, false), 2049);
        assert_eq!(pace.chunk(100, false), 100);
        assert_eq!(pace.chunk(1, true), 1);
        assert_eq!(pace.chunk(4096, true), 512);
        assert_eq!(pace.chunk(520, true), 260);
        assert_eq!(Pace::new(8, 512).chunk(20, true), 7);
    }

    #[test]
    fn waiting_decides() {
        let mut pace = Pace::new(4096, 512);
        (0..9).for_each(|_| note(&mut pace, 4096, 10));
        assert_eq!(pace.chunk(9000, false), 500, "no waiting: small chunks");
        note(&mut pace, 512, 100);
        assert_eq!(pace.tokens, 512, "some: as it is");
        note(&mut pace, 20, 900);
        assert_eq!(pace.tokens, 512, "a short step says nothing");
        (0..9).for_each(|_| {
            let tokens = pace.tokens;
            note(&mut pace, tokens, 500);
        });
        assert_eq!(pace.tokens, 4096, "much: large chunks");
        let mut small = Pace::new(64, 512);
        (0..9).for_each(|_| note(&mut small, 64, 0));
        assert_eq!(small.tokens, 64);
    }
}
