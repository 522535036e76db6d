//! Rows of a table by hashes of the last tokens.

use std::sync::Arc;

use crate::{KernelError, check};

/// How the n-grams that end with a token become rows of a table: for every length from two on,
/// several hashes, each with a part of the table of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NgramRule {
    /// Factors of the token itself, the one before it, and so on: as many as the longest n-gram
    /// has tokens.
    pub factors: Arc<[u64]>,
    /// First row and number of rows of each hash's part, those of the shortest n-grams first; as
    /// many for every length.
    pub parts: Arc<[(u64, u64)]>,
    /// The token that ends a text; whatever lies before it counts as this token too.
    pub end: u32,
}

impl NgramRule {
    /// Rows that a token has.
    pub fn rows(&self) -> usize {
        self.parts.len()
    }

    /// Tokens before the first one that have to be known.
    pub fn context(&self) -> usize {
        self.factors.len().saturating_sub(1)
    }

    /// The rows of the last of some tokens, `[rows()]`. Of the tokens before it those that are
    /// missing, and those before an end, count as ends. An n-gram is the exclusive or of its tokens
    /// times their factors, modulo 2^64; a hash is its remainder by the rows of the part.
    ///
    /// # Errors
    /// If there is no token, or sizes do not fit.
    pub fn rows_of(&self, tokens: &[u32], out: &mut [u64]) -> Result<(), KernelError> {
        const OP: &str = "ngram rows";
        check::positive(OP, "tokens", tokens.len())?;
        check::positive(OP, "factors before the token", self.context())?;
        check::multiple(OP, "parts", self.parts.len(), self.context())?;
        check::size(OP, "out", self.parts.len(), out.len())?;
        let each = self.parts.len() / self.context();
        let mut before = tokens.iter().rev();
        let mut token = before.next().copied().unwrap_or(self.end);
        let mut mixed = u64::from(token).wrapping_mul(self.factors[0]);
        for length in 0..self.context() {
            // The text's last token may be an end itself: what it ends is still its own.
            if length == 0 || token != self.end {
                token = before.next().copied().unwrap_or(self.end);
            }
            mixed ^= u64::from(token).wrapping_mul(self.factors[length + 1]);
            for hash in length * each..(length + 1) * each {
                let (first, count) = self.parts[hash];
                out[hash] = first + mixed % count.max(1);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule() -> NgramRule {
        NgramRule {
            factors: [3, 5, 7].into(),
            parts: [(0, 101), (101, 103), (204, 107), (311, 109)].into(),
            end: 9,
        }
    }

    fn rows(tokens: &[u32]) -> Vec<u64> {
        let mut out = vec![0; 4];
        rule().rows_of(tokens, &mut out).expect("sizes fit");
        out
    }

    /// By hand: the pair is 4 * 3 ^ 6 * 5, the triple that ^ 2 * 7.
    #[test]
    fn rows_are_hashes_of_the_last_tokens() {
        let (pair, triple) = (12 ^ 30, 12 ^ 30 ^ 14);
        let expected = vec![pair, 101 + pair, 204 + triple, 311 + triple];
        assert_eq!(rows(&[8, 2, 6, 4]), expected);
        assert_eq!(rows(&[2, 6, 4]), expected);
    }

    #[test]
    fn what_lies_before_an_end_counts_as_ends() {
        assert_eq!(rows(&[4]), rows(&[9, 9, 4]));
        assert_eq!(rows(&[1, 9, 4]), rows(&[9, 9, 4]));
        assert_eq!(rows(&[9, 6, 4]), rows(&[6, 4]));
        // An end belongs to the text that it ends.
        assert_ne!(rows(&[1, 2, 9]), rows(&[9, 9, 9]));
        assert_ne!(rows(&[1, 2, 9]), rows(&[3, 2, 9]));
    }

    #[test]
    fn sizes_are_checked() {
        assert!(rule().rows_of(&[], &mut [0; 4]).is_err());
        assert!(rule().rows_of(&[1], &mut [0; 3]).is_err());
    }
}
