//! Prompt lookup: what followed the last tokens when they stood in the text before is likely to
//! follow them again (code that is edited, passages that are quoted, names, lists).
//!
//! The index is a table for each length of match: a hash of that many tokens gives the place after
//! them, the latest one. Places are compared with the text before they are used, so that a
//! collision or a place that a rewind has made stale costs a draft and nothing else, and the tables
//! never grow.

use super::Draft;

/// Lengths of the matches that the index finds.
const MATCHES: [usize; 3] = [4, 3, 2];
/// Tokens compared to say how long a match is.
const MOST_MATCHED: usize = 16;
/// Places in a table, a power of two.
const PLACES: usize = 1 << 15;
/// No place.
const NONE: u32 = u32::MAX;

/// An index over a text that grows at its end.
pub(super) struct PromptLookup {
    text: Vec<u32>,
    /// For each of [`MATCHES`], by hash: a place in `text` that such a match ends before.
    tables: Vec<Vec<u32>>,
}

impl PromptLookup {
    pub fn new() -> PromptLookup {
        PromptLookup {
            text: Vec::new(),
            tables: vec![vec![NONE; PLACES]; MATCHES.len()],
        }
    }

    /// Makes the text `tokens`; what it begins with in common with the text before stays indexed.
    pub fn restart(&mut self, tokens: &[u32]) {
        let both = self.text.iter().zip(tokens);
        let common = both.take_while(|(a, b)| a == b).count();
        self.text.truncate(common);
        tokens[common..].iter().for_each(|&token| self.push(token));
    }

    /// Makes the text `tokens` and then `last`, of which it is a beginning.
    pub fn follow(&mut self, tokens: &[u32], last: u32) {
        let new = tokens.get(self.text.len()..).unwrap_or_default();
        new.iter().for_each(|&token| self.push(token));
        if self.text.len() == tokens.len() {
            self.push(last);
        }
    }

    fn push(&mut self, token: u32) {
        let place = self.text.len();
        for (table, length) in self.tables.iter_mut().zip(MATCHES) {
            if let Some(start) = place.checked_sub(length) {
                table[slot(&self.text[start..])] = place as u32;
            }
        }
        self.text.push(token);
    }

    /// Up to `most` tokens that may follow the text, by the longest match.
    pub fn draft(&self, most: usize) -> Option<Draft> {
        let text = &self.text[..];
        let place = self
            .tables
            .iter()
            .zip(MATCHES)
            .find_map(|(table, length)| {
                let end = &text[text.len().checked_sub(length)?..];
                let place = table[slot(end)] as usize;
                let found = text.get(place.checked_sub(length)?..place)?;
                (place < text.len() && found == end).then_some(place)
            })?;
        let back = text[..place].iter().rev().zip(text.iter().rev());
        let matched = back.take(MOST_MATCHED).take_while(|(a, b)| a == b).count();
        let mut tokens: Vec<u32> = Vec::with_capacity(most);
        for at in place..place + most {
            // A repetition goes on behind the text's end with itself.
            let token = match text.get(at) {
                Some(&token) => token,
                None => tokens[at - text.len()],
            };
            tokens.push(token);
        }
        Some(Draft { tokens, matched })
    }
}

/// Where a table has these tokens (FNV-1a over them, its bits folded).
fn slot(tokens: &[u32]) -> usize {
    let hash = tokens
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &token| {
            (hash ^ u64::from(token)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    ((hash ^ (hash >> 32)) as usize ^ (hash >> 17) as usize) % PLACES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft(text: &[u32], most: usize) -> Option<(Vec<u32>, usize)> {
        let mut lookup = PromptLookup::new();
        lookup.restart(text);
        lookup.draft(most).map(|d| (d.tokens, d.matched))
    }

    #[test]
    fn the_longest_match_decides_and_then_the_latest() {
        // 1 2 3 is followed by 7; 2 3 alone, later, by 8.
        assert_eq!(
            draft(&[1, 2, 3, 7, 9, 2, 3, 8, 1, 2, 3], 1),
            Some((vec![7], 3))
        );
        assert_eq!(
            draft(&[5, 2, 3, 7, 9, 2, 3, 8, 6, 2, 3], 2),
            Some((vec![8, 6], 2))
        );
        assert_eq!(draft(&[1, 2, 3, 4, 5], 4), None);
        assert_eq!(draft(&[1, 3, 4, 3], 4), None, "one token is no match");
        assert_eq!(draft(&[], 4), None);
    }

    #[test]
    fn a_repetition_is_continued_behind_its_end() {
        let (tokens, matched) = draft(&[9, 1, 2, 1, 2, 1, 2], 5).expect("a match");
        assert_eq!((tokens, matched), (vec![1, 2, 1, 2, 1], 4));
        assert_eq!(draft(&[4; 40], 8), Some((vec![4; 8], MOST_MATCHED)));
    }

    #[test]
    fn a_text_may_begin_anew_and_go_on() {
        let mut lookup = PromptLookup::new();
        lookup.restart(&[1, 2, 3, 4, 5, 6, 7]);
        lookup.restart(&[1, 2, 3]);
        assert!(lookup.draft(3).is_none());
        lookup.follow(&[1, 2, 3], 1);
        lookup.follow(&[1, 2, 3], 1);
        lookup.follow(&[1, 2, 3, 1], 2);
        let draft = lookup.draft(2).expect("a match");
        assert_eq!((draft.tokens, draft.matched), (vec![3, 1], 2));
        lookup.follow(&[1, 2, 3, 1, 2, 3, 4], 5);
        assert!(lookup.draft(3).is_none(), "places behind the end are stale");
    }

    #[test]
    fn nearly_all_matches_of_a_plain_search_are_found() {
        // Few different tokens, so that matches abound.
        let mut state = 7_u64;
        let text: Vec<u32> = (0..2000)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 60) as u32
            })
            .collect();
        let mut lookup = PromptLookup::new();
        let (mut found, mut others) = (0, 0);
        for (len, &token) in text.iter().enumerate() {
            lookup.follow(&text[..len], token);
            let text = &text[..=len];
            let plain = MATCHES.iter().find_map(|&n| {
                let end = &text[text.len().checked_sub(n)?..];
                let before = &text[..text.len() - 1];
                before.windows(n).rposition(|w| w == end).map(|at| at + n)
            });
            let draft = lookup.draft(1).map(|d| d.tokens[0]);
            // A collision hides a place; then another match is found, or none.
            others += usize::from(draft != plain.map(|place| text[place]));
            found += usize::from(draft.is_some());
        }
        assert!(others < 40, "{others}");
        assert!(found > 1000, "{found}");
    }
}
