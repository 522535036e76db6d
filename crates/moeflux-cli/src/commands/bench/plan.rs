//! What is measured: tests by kind, length and depth.

use moeflux::cost::StepShape;

use super::BenchArgs;
use crate::failure::Failure;

/// What a test times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Tokens at once, logits of the last one.
    Prefill,
    /// Tokens one by one, logits of each.
    Decode,
}

/// What is in memory when a repetition begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// Every expert, as all fit.
    Resident,
    /// No expert.
    Cold,
    /// What other tokens of the same kind left.
    Warm,
    /// What tokens of another part of the vocabulary left, as after a change of topic.
    Rotating,
}

impl Cache {
    /// Its name in results.
    pub fn name(self) -> &'static str {
        match self {
            Cache::Resident => "resident",
            Cache::Cold => "cold",
            Cache::Warm => "warm",
            Cache::Rotating => "rotating",
        }
    }

    /// The states to measure a test in.
    pub fn all(is_cold: bool, all_resident: bool) -> &'static [Cache] {
        match (is_cold, all_resident) {
            (true, _) => &[Cache::Cold],
            (false, true) => &[Cache::Resident],
            (false, false) => &[Cache::Cold, Cache::Warm, Cache::Rotating],
        }
    }
}

/// One test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    pub kind: Kind,
    /// Tokens timed.
    pub tokens: usize,
    /// Tokens in the context before.
    pub depth: usize,
}

impl Test {
    /// Its name, as llama-bench has it: `pp128`, `tg32 @ d4096`.
    pub fn name(&self) -> String {
        let kind = match self.kind {
            Kind::Prefill => "pp",
            Kind::Decode => "tg",
        };
        match self.depth {
            0 => format!("{kind}{}", self.tokens),
            depth => format!("{kind}{} @ d{depth}", self.tokens),
        }
    }

    /// The steps in which an engine takes the tokens, each of at most `chunk` and with `experts`
    /// distinct experts a layer.
    pub fn steps(&self, chunk: usize, experts: f64) -> impl Iterator<Item = StepShape> {
        let Test {
            kind,
            tokens,
            depth,
        } = *self;
        let chunk = match kind {
            Kind::Prefill => chunk.max(1),
            Kind::Decode => 1,
        };
        (0..tokens).step_by(chunk).map(move |at| {
            let len = chunk.min(tokens - at);
            let is_last = at + len == tokens;
            StepShape {
                start: depth + at,
                tokens: len,
                outputs: usize::from(kind == Kind::Decode || is_last),
                experts,
            }
        })
    }
}

/// The tests that the flags ask for, those of one depth together, all within `context` tokens.
pub fn tests(args: &BenchArgs, context: usize) -> Result<Vec<Test>, Failure> {
    let mut tests = Vec::new();
    for &depth in &args.depth {
        let of = |kind, lengths: &[usize]| {
            let lengths = lengths.iter().copied().filter(|&tokens| tokens > 0);
            let tests = lengths.map(move |tokens| Test {
                kind,
                tokens,
                depth,
            });
            tests.collect::<Vec<_>>()
        };
        tests.extend(of(Kind::Prefill, &args.prompt_tokens));
        tests.extend(of(Kind::Decode, &args.decode_tokens));
    }
    if tests.is_empty() {
        let problem = "-p 0 with -n 0 leaves nothing to measure; give a length to one of them";
        return Err(Failure::Usage(problem.into()));
    }
    let ends = tests.iter().map(|t| t.tokens.saturating_add(t.depth));
    match ends.max() {
        Some(tokens) if tokens > context => Err(moeflux::Error::ContextExceeded {
            tokens,
            limit: context,
        }
        .into()),
        _ => Ok(tests),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_taken_in_chunks_and_only_the_last_has_logits() {
        let test = Test {
            kind: Kind::Prefill,
            tokens: 300,
            depth: 1000,
        };
        assert_eq!(test.name(), "pp300 @ d1000");
        let steps: Vec<StepShape> = test.steps(128, 2.0).collect();
        let shapes: Vec<_> = steps
            .iter()
            .map(|s| (s.start, s.tokens, s.outputs))
            .collect();
        assert_eq!(shapes, [(1000, 128, 0), (1128, 128, 0), (1256, 44, 1)]);
    }

    #[test]
    fn decoding_takes_a_step_and_logits_a_token() {
        let test = Test {
            kind: Kind::Decode,
            tokens: 3,
            depth: 0,
        };
        assert_eq!(test.name(), "tg3");
        let steps: Vec<StepShape> = test.steps(128, 8.0).collect();
        let shapes: Vec<_> = steps
            .iter()
            .map(|s| (s.start, s.tokens, s.outputs))
            .collect();
        assert_eq!(shapes, [(0, 1, 1), (1, 1, 1), (2, 1, 1)]);
    }
}
