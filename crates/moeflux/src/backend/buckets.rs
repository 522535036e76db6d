//! A step's assignments of tokens to experts, in buckets by expert.

use crate::Error;

/// A step's tokens with the router's choice for one layer.
#[derive(Clone, Copy)]
pub struct RoutedTokens<'a> {
    /// `[n, hidden]`.
    pub x: &'a [f32],
    /// `[n, top_k]`.
    pub ids: &'a [u32],
    /// `[n, top_k]`.
    pub weights: &'a [f32],
    /// Experts that a token uses.
    pub top_k: usize,
}

/// Assignments (token, expert) sorted by expert, then token; experts without tokens do not
/// appear. Kept to avoid allocation.
#[derive(Default)]
pub struct Buckets {
    /// `(expert, token, slot in the token's choice)`.
    assignments: Vec<(u32, u32, u32)>,
    /// Token of each assignment.
    tokens: Vec<u32>,
    /// Experts in use, ascending, with their range of assignments.
    experts: Vec<(u32, usize, usize)>,
    /// Experts in use, ascending.
    ids: Vec<u32>,
    /// Tokens of each expert in use.
    counts: Vec<u32>,
    /// For each token the start of its entries; one more at the end.
    offsets: Vec<u32>,
    /// `(assignment, weight)` by token, in ascending expert id.
    entries: Vec<(u32, f32)>,
    /// Where each token's next entry goes.
    cursors: Vec<u32>,
}

impl Buckets {
    /// Replaces the contents by the assignments of `tokens`.
    pub fn sort(&mut self, tokens: &RoutedTokens<'_>) {
        let k = tokens.top_k;
        let n = tokens.ids.len() / k;
        self.assignments.clear();
        for (index, &expert) in tokens.ids.iter().enumerate() {
            self.assignments
                .push((expert, (index / k) as u32, (index % k) as u32));
        }
        self.assignments.sort_unstable();
        self.tokens.clear();
        self.tokens
            .extend(self.assignments.iter().map(|&(_, token, _)| token));
        self.experts.clear();
        self.ids.clear();
        for (index, &(expert, _, _)) in self.assignments.iter().enumerate() {
            match self.experts.last_mut() {
                Some((last, _, end)) if *last == expert => *end = index + 1,
                _ => {
                    self.experts.push((expert, index, index + 1));
                    self.ids.push(expert);
                }
            }
        }
        self.counts.clear();
        self.counts.extend(
            self.experts
                .iter()
                .map(|&(_, start, end)| (end - start) as u32),
        );
        // Every token has k entries; going through the assignments in order keeps each token's
        // in ascending expert id.
        self.offsets.clear();
        self.offsets.extend((0..=n).map(|t| (t * k) as u32));
        self.cursors.clear();
        self.cursors.extend_from_slice(&self.offsets[..n]);
        self.entries.clear();
        self.entries.resize(n * k, (0, 0.0));
        for (row, &(_, token, slot)) in self.assignments.iter().enumerate() {
            let at = &mut self.cursors[token as usize];
            let weight = tokens.weights[token as usize * k + slot as usize];
            self.entries[*at as usize] = (row as u32, weight);
            *at += 1;
        }
    }

    /// The experts in use, ascending.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// How many tokens use each of them.
    pub fn counts(&self) -> &[u32] {
        &self.counts
    }

    /// Token of each assignment, ascending within an expert.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// The assignments of `expert`: first, and one past the last.
    ///
    /// # Errors
    /// [`Error::Internal`] if no token uses it.
    pub fn range(&self, expert: u32) -> Result<(usize, usize), Error> {
        let at = self.experts.binary_search_by_key(&expert, |e| e.0);
        let at = at.map_err(|_| Error::Internal(format!("expert {expert} was not asked for")))?;
        Ok((self.experts[at].1, self.experts[at].2))
    }

    /// The choice that an assignment is of: its place in the tokens' `ids`.
    pub fn choice(&self, assignment: usize, top_k: usize) -> Option<usize> {
        let &(_, token, slot) = self.assignments.get(assignment)?;
        Some(token as usize * top_k + slot as usize)
    }

    /// For each token the start of its entries, and their end after the last token.
    pub fn offsets(&self) -> &[u32] {
        &self.offsets
    }

    /// `(assignment, weight)` by token, in ascending expert id.
    pub fn entries(&self) -> &[(u32, f32)] {
        &self.entries
    }
}
