//! Stop sequences: text that ends an answer and is not part of it.

use super::open_tag;

/// Looks for stop sequences in text that comes in pieces.
#[derive(Debug)]
pub struct StopMatcher {
    sequences: Vec<String>,
    held: String,
}

/// What came of a piece.
#[derive(Debug, PartialEq, Eq)]
pub struct Matched {
    /// Text that is certainly part of the answer.
    pub text: String,
    /// The sequence that ended the answer.
    pub stop: Option<String>,
}

impl StopMatcher {
    /// A matcher of sequences, none of them empty.
    pub fn new(sequences: Vec<String>) -> StopMatcher {
        StopMatcher {
            sequences,
            held: String::new(),
        }
    }

    /// Adds a piece of text.
    pub fn push(&mut self, piece: &str) -> Matched {
        if self.sequences.is_empty() {
            let (text, stop) = (piece.to_owned(), None);
            return Matched { text, stop };
        }
        self.held.push_str(piece);
        let found = self
            .sequences
            .iter()
            .filter_map(|s| self.held.find(s.as_str()).map(|at| (at, s)));
        // The first to begin; of those that begin together the longest.
        if let Some((at, sequence)) = found.min_by_key(|(at, s)| (*at, usize::MAX - s.len())) {
            let stop = Some(sequence.clone());
            let text = self.held[..at].to_owned();
            self.held.clear();
            return Matched { text, stop };
        }
        let open = open_tag(&self.held, self.sequences.iter().map(String::as_str));
        let rest = self.held.split_off(self.held.len() - open);
        let text = std::mem::replace(&mut self.held, rest);
        Matched { text, stop: None }
    }

    /// The text held back, when no more follows.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::StopMatcher;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<String>) {
        let mut matcher = StopMatcher::new(stops.iter().map(ToString::to_string).collect());
        let mut text = String::new();
        for piece in pieces {
            let matched = matcher.push(piece);
            text.push_str(&matched.text);
            if matched.stop.is_some() {
                return (text, matched.stop);
            }
        }
        (text + &matcher.finish(), None)
    }

    #[test]
    fn sequences_are_found_across_pieces() {
        let stop = |s: &str| Some(s.to_owned());
        assert_eq!(
            run(&["END"], &["a E", "N", "D b"]),
            ("a ".into(), stop("END"))
        );
        assert_eq!(run(&["END"], &["a E", "N", "d"]), ("a ENd".into(), None));
        assert_eq!(run(&["END"], &["a EN"]), ("a EN".into(), None));
        assert_eq!(run(&["b", "abc"], &["xabc"]), ("x".into(), stop("abc")));
        assert_eq!(
            run(&["\n\n", "é"], &["a\n", "b", "é"]),
            ("a\nb".into(), stop("é"))
        );
        assert_eq!(run(&[], &["a", "b"]), ("ab".into(), None));
    }
}
