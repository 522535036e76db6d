//! The sampler's settings.

use super::SamplingError;

/// How to pick tokens. The default is greedy.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParams {
    /// Divides the logits; 0 picks the most likely token (ties: the lowest id).
    pub temperature: f32,
    /// Keeps the `top_k` most likely tokens, and those tied with the last of them; 0 keeps all.
    pub top_k: usize,
    /// Keeps the smallest set of most likely tokens whose probabilities reach `top_p`; 1 keeps all.
    pub top_p: f32,
    /// Keeps tokens at least `min_p` times as likely as the most likely one; 0 keeps all.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens seen in prompt or answer; 1 is none.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of each token that the answer holds; 0 is none.
    pub presence_penalty: f32,
    /// Subtracted from a token's logit once for each time that the answer holds it; 0 is none.
    pub frequency_penalty: f32,
    /// Chooses the sequence of random numbers.
    pub seed: u64,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 0,
        }
    }
}

impl SamplingParams {
    /// Checks every range.
    ///
    /// # Errors
    /// The first parameter outside its range, by name, with the range. NaN is outside all.
    pub fn validate(&self) -> Result<(), SamplingError> {
        let check = |parameter, value, inside, allowed| match inside {
            true => Ok(()),
            false => Err(SamplingError::OutOfRange {
                parameter,
                value,
                allowed,
            }),
        };
        let temperature = self.temperature;
        let inside = (0.0..=100.0).contains(&temperature);
        check("temperature", temperature, inside, "between 0 and 100")?;
        let inside = self.top_p > 0.0 && self.top_p <= 1.0;
        check("top_p", self.top_p, inside, "above 0 and at most 1")?;
        check(
            "min_p",
            self.min_p,
            (0.0..=1.0).contains(&self.min_p),
            "between 0 and 1",
        )?;
        let inside = self.repetition_penalty > 0.0 && self.repetition_penalty <= 100.0;
        let allowed = "above 0 and at most 100";
        check(
            "repetition_penalty",
            self.repetition_penalty,
            inside,
            allowed,
        )?;
        for (name, value) in [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ] {
            check(
                name,
                value,
                (-100.0..=100.0).contains(&value),
                "between -100 and 100",
            )?;
        }
        Ok(())
    }

    /// Whether every token is the most likely one, so that the seed has no effect.
    pub fn is_greedy(&self) -> bool {
        self.temperature == 0.0 || self.top_k == 1
    }

    /// Whether no filter leaves out a token (penalties may still be on).
    pub fn keeps_all(&self) -> bool {
        self.top_k == 0 && self.top_p >= 1.0 && self.min_p <= 0.0
    }

    /// Whether any penalty is on.
    pub fn has_penalties(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }
}
