//! Speculation: guess the next tokens from the text itself, compute them all in one step, and keep
//! those that the sampler would have chosen anyhow.
//!
//! **Exact.** The logits of a position do not depend on the step that computed it (E1), and the
//! sampler draws by seed and position; so the token that it picks after each drafted one is the
//! token that single steps would have given. A drafted token that is another one, and all behind
//! it, are taken back ([`Engine::retract`](crate::Engine::retract)). Speculation changes when
//! tokens come, never which.
//!
//! **Where it pays.** A step reads dense weights once for all its tokens; experts it reads for the
//! union of what its tokens choose. Whether a right guess saves more than wrong ones cost depends
//! on the text, the memory and the disk, so `auto` measures it as it goes (see `payoff.rs`).

mod lookup;
mod payoff;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use lookup::PromptLookup;
use payoff::Payoff;

/// The most tokens of a draft.
const MOST_TOKENS: usize = 8;
/// After a step on trial that failed, as many steps go without draft: what it needed beyond a
/// single step (memory, experts that cannot be read) is not likely to be there at once.
const STEPS_AFTER_FAILURE: u32 = 16;

/// When to speculate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speculate {
    /// `auto`: while it pays.
    #[default]
    Auto,
    /// `off`: never.
    Off,
    /// `always`: wherever the text offers a draft.
    Always,
}

impl fmt::Display for Speculate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Speculate::Auto => "auto",
            Speculate::Off => "off",
            Speculate::Always => "always",
        })
    }
}

impl FromStr for Speculate {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(Speculate::Auto),
            "off" => Ok(Speculate::Off),
            "always" => Ok(Speculate::Always),
            _ => Err(format!("`{s}` is not one of auto, off, always")),
        }
    }
}

/// Tokens that may come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draft {
    /// The tokens, in order.
    pub tokens: Vec<u32>,
    /// Tokens before them that match the text where they are from.
    pub matched: usize,
}

/// What speculation did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct DraftStats {
    /// Steps with a draft.
    pub steps: u64,
    /// Tokens drafted.
    pub drafted: u64,
    /// Drafted tokens that were right.
    pub accepted: u64,
    /// Steps with a draft that failed and were done again without.
    pub failed: u64,
    /// Seconds saved by estimate: those of as many single steps, less those taken.
    pub saved_seconds: f64,
}

/// Speculation with what it has learned; one for each conversation.
pub struct Speculation {
    mode: Speculate,
    lookup: PromptLookup,
    payoff: Payoff,
    stats: DraftStats,
    /// Steps to go without draft.
    pause: u32,
}

impl Speculation {
    /// Speculation that knows nothing yet.
    pub fn new(mode: Speculate) -> Speculation {
        Speculation {
            mode,
            lookup: PromptLookup::new(),
            payoff: Payoff::new(),
            stats: DraftStats::default(),
            pause: 0,
        }
    }

    /// When it speculates.
    pub fn mode(&self) -> Speculate {
        self.mode
    }

    /// What it did since the start or [`Speculation::reset_stats`].
    pub fn stats(&self) -> DraftStats {
        self.stats
    }

    /// Starts counting anew; what was learned stays.
    pub fn reset_stats(&mut self) {
        self.stats = DraftStats::default();
    }

    /// A generation begins, or goes on, after `tokens`.
    pub fn start(&mut self, tokens: &[u32]) {
        if self.mode != Speculate::Off {
            self.lookup.restart(tokens);
        }
    }

    /// At most `most` tokens that are worth computing in one step with `last`, which follows
    /// `tokens`, what the session holds.
    pub fn draft(&mut self, tokens: &[u32], last: u32, most: usize) -> Option<Draft> {
        if self.mode == Speculate::Off {
            return None;
        }
        self.lookup.follow(tokens, last);
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        let mut draft = self.lookup.draft(most.min(MOST_TOKENS))?;
        if self.mode == Speculate::Auto {
            let worth = self.payoff.tokens(draft.matched, draft.tokens.len());
            draft.tokens.truncate(worth);
        }
        (!draft.tokens.is_empty()).then_some(draft)
    }

    /// A step of one token took `time`.
    pub fn single_step(&mut self, time: Duration) {
        self.payoff.single_step(time.as_secs_f64());
    }

    /// A step with `draft` took `time`, and `right` of its tokens were right.
    pub fn drafted_step(&mut self, draft: &Draft, right: usize, time: Duration) {
        let drafted = draft.tokens.len();
        self.stats.steps += 1;
        self.stats.drafted += drafted as u64;
        self.stats.accepted += right as u64;
        let seconds = time.as_secs_f64();
        let saved = self
            .payoff
            .drafted_step(draft.matched, drafted, right, seconds);
        self.stats.saved_seconds += saved;
    }

    /// A step with a draft failed.
    pub fn failed_step(&mut self) {
        self.stats.failed += 1;
        self.pause = STEPS_AFTER_FAILURE;
    }
}
