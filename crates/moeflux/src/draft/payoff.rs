//! Whether a draft pays: running estimates of what steps cost and of how often drafts are right.
//!
//! A step of one token and `k` drafted ones takes `single * (1 + row_cost * k)`; how much a row
//! costs depends on what the steps wait for (weights from memory: little, arithmetic or experts
//! from the disk: nearly a step), so it is measured. A drafted token is right with a probability
//! that is measured for each class of matches. From both follows the length of draft that gives the
//! most tokens a second, or that none gives more than single steps do.
//!
//! Estimates go stale and may be wrong, so they do not decide alone. An account holds what drafts
//! may lose: it earns a share of all time, each step's measured gain or loss goes into it, and
//! nothing is drafted that is expected to lose more than it holds. From it come the trials that
//! keep the estimates fresh where drafts do not pay, and its share bounds what they cost.

/// The share of all time that trials may cost.
const TRIAL_SHARE: f64 = 0.03;
/// The account holds at most this many single steps.
const MOST_CREDIT_STEPS: f64 = 4.0;
/// Drafted tokens of a trial.
const TRIAL_TOKENS: usize = 4;
/// Single steps before anything is drafted, so that their time is known.
const FIRST_SINGLES: u32 = 4;
/// Drafted steps until a single one refreshes the estimate of its time.
const SINGLE_EVERY: u32 = 16;
/// Weight of a new measurement.
const NEW: f64 = 0.125;
/// A measurement counts as at most this many times the estimate: a stall is no trend.
const OUTLIER: f64 = 4.0;
/// What the cost of a row is taken for until it is measured.
const FIRST_ROW_COST: f64 = 0.5;
/// Old outcomes of drafts lose this much of their weight with each new one.
const FORGET: f64 = 0.9;

/// How often drafts of one class of matches are right, as weights of outcomes.
#[derive(Clone, Copy)]
struct Odds {
    right: f64,
    wrong: f64,
}

impl Odds {
    /// The probability that a drafted token is right if those before it are.
    fn share(self) -> f64 {
        self.right / (self.right + self.wrong)
    }

    /// Tokens of a draft of `k` that are expected to be right.
    fn expected(self, k: usize) -> f64 {
        let share = self.share();
        (1..=k as i32).map(|i| share.powi(i)).sum()
    }
}

/// The class of a match of that many tokens.
fn class(matched: usize) -> usize {
    match matched {
        0..=2 => 0,
        3 => 1,
        4..=7 => 2,
        _ => 3,
    }
}

/// The estimates and the account.
pub(super) struct Payoff {
    /// Seconds of a single step.
    single: f64,
    singles: u32,
    since_single: u32,
    /// What a further row costs, in single steps.
    row_cost: f64,
    odds: [Odds; 4],
    /// Seconds that drafts may lose.
    credit: f64,
}

impl Payoff {
    pub fn new() -> Payoff {
        let odds = |right| Odds {
            right: 4.0 * right,
            wrong: 4.0 * (1.0 - right),
        };
        Payoff {
            single: 0.0,
            singles: 0,
            since_single: 0,
            row_cost: FIRST_ROW_COST,
            odds: [odds(0.3), odds(0.4), odds(0.6), odds(0.8)],
            credit: 0.0,
        }
    }

    /// How many of `most` tokens of a draft to use; 0 for none.
    pub fn tokens(&self, matched: usize, most: usize) -> usize {
        if most == 0 || self.singles < FIRST_SINGLES || self.since_single >= SINGLE_EVERY {
            return 0;
        }
        let odds = self.odds[class(matched)];
        let gain = |k: usize| (1.0 + odds.expected(k)) / (1.0 + self.row_cost * k as f64);
        let best = (1..=most).max_by(|&a, &b| gain(a).total_cmp(&gain(b)));
        let tokens = match best {
            Some(best) if gain(best) > 1.0 => best,
            _ => most.min(TRIAL_TOKENS),
        };
        let loss = self.row_cost * tokens as f64 - odds.expected(tokens);
        match self.credit >= self.single * loss.max(0.0) {
            true => tokens,
            false => 0,
        }
    }

    /// A step of one token took `seconds`.
    pub fn single_step(&mut self, seconds: f64) {
        self.since_single = 0;
        self.singles = self.singles.saturating_add(1);
        match self.singles {
            1 => self.single = seconds,
            _ => self.single = moved(self.single, seconds),
        }
        self.earn(seconds, 0.0);
    }

    /// A step with `drafted` tokens took `seconds` in all, and `right` of them were right. Gives
    /// the seconds that it saved by the estimates; 0 where single steps have not been timed yet.
    pub fn drafted_step(
        &mut self,
        matched: usize,
        drafted: usize,
        right: usize,
        seconds: f64,
    ) -> f64 {
        self.since_single += 1;
        let odds = &mut self.odds[class(matched)];
        odds.right = odds.right * FORGET + right as f64;
        odds.wrong = odds.wrong * FORGET + f64::from(u8::from(right < drafted));
        if self.singles == 0 || self.single <= 0.0 || drafted == 0 {
            return 0.0;
        }
        let measured = (seconds / self.single - 1.0) / drafted as f64;
        self.row_cost = moved(self.row_cost, measured.max(0.01));
        let saved = self.single * (1 + right) as f64 - seconds;
        self.earn(seconds, saved);
        saved
    }

    fn earn(&mut self, seconds: f64, saved: f64) {
        let credit = self.credit + TRIAL_SHARE * seconds + saved;
        self.credit = credit.min(MOST_CREDIT_STEPS * self.single);
    }
}

/// An estimate after a measurement.
fn moved(estimate: f64, measured: f64) -> f64 {
    estimate + NEW * (measured.min(OUTLIER * estimate) - estimate)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs until `tokens` were generated with single steps of 0.1 s, rows that cost `row_cost`
    /// single steps each, and drafts whose tokens are right with probability `odds`; gives the
    /// seconds taken, and how many single steps they are a token.
    fn run(payoff: &mut Payoff, tokens: usize, row_cost: f64, odds: f64, seed: u64) -> f64 {
        let (mut seconds, mut done, mut draws) = (0.0, 0, seed);
        let mut draw = || {
            draws += 1;
            crate::sampling::uniform(seed, draws)
        };
        while done < tokens {
            let drafted = payoff.tokens(4, 8);
            // Steps take now more, now less, as they do.
            let step = 0.1 * (0.8 + 0.4 * draw()) * (1.0 + row_cost * drafted as f64);
            let right = (0..drafted).take_while(|_| draw() < odds).count();
            seconds += step;
            done += 1 + right;
            match drafted {
                0 => payoff.single_step(step),
                _ => _ = payoff.drafted_step(4, drafted, right, step),
            }
        }
        seconds / done as f64 / 0.1
    }

    #[test]
    fn drafts_that_never_pay_cost_a_few_percent_at_most() {
        for (row_cost, odds) in [(1.0, 0.0), (1.0, 0.9), (0.5, 0.2), (3.0, 0.5), (0.9, 0.8)] {
            for seed in 0..8 {
                let cost = run(&mut Payoff::new(), 2000, row_cost, odds, seed);
                assert!(cost < 1.045, "row {row_cost}, odds {odds}: {cost}");
            }
        }
    }

    #[test]
    fn drafts_that_pay_are_used() {
        for (row_cost, odds, at_most) in [(0.1, 0.9, 0.45), (0.3, 0.95, 0.60), (0.02, 0.5, 0.65)] {
            for seed in 0..8 {
                let cost = run(&mut Payoff::new(), 2000, row_cost, odds, seed);
                assert!(cost < at_most, "row {row_cost}, odds {odds}: {cost}");
            }
        }
    }

    #[test]
    fn a_change_is_noticed_either_way() {
        for seed in 0..8 {
            let mut payoff = Payoff::new();
            run(&mut payoff, 500, 0.1, 0.9, seed);
            let worse = run(&mut payoff, 2000, 0.8, 0.1, seed);
            assert!(worse < 1.05, "{worse}");
            let better = run(&mut payoff, 4000, 0.1, 0.9, seed);
            assert!(better < 0.7, "{better}");
        }
    }

    #[test]
    fn a_stall_does_not_make_drafts_look_good() {
        let mut payoff = Payoff::new();
        run(&mut payoff, 200, 1.0, 0.1, 1);
        payoff.single_step(10.0);
        assert!(payoff.single < 0.15, "{}", payoff.single);
        let cost = run(&mut payoff, 500, 1.0, 0.1, 2);
        assert!(cost < 1.05, "{cost}");
    }
}
