//! Guessing a layer's experts before its router has its input, so that they are read while the disk
//! has nothing else to do; and judging by the clock whether that helps.

use std::time::Duration;

use moeflux_kernels::MatmulJob;

use super::experts::ExpertStage;
use super::host::{HostBackend, wrong_op};
use super::kernel_set::KernelSet;
use crate::Error;
use crate::graph::{BufferPool, Op};
use crate::options::Lookahead;
use crate::weights::Weights;

/// Scratch memory of a guess.
#[derive(Default)]
pub(super) struct Guesser {
    normed: Vec<f32>,
    logits: Vec<f32>,
    biased: Vec<f32>,
    ids: Vec<u32>,
    weights: Vec<f32>,
}

impl<K: KernelSet> HostBackend<K> {
    /// Runs [`Op::Lookahead`], if guesses are wanted now.
    pub(super) fn lookahead(
        &mut self,
        op: &Op,
        weights: &Weights,
        buffers: &BufferPool,
        stage: &mut ExpertStage,
    ) -> Result<(), Error> {
        let &Op::Lookahead {
            x,
            norm,
            eps,
            router,
            bias,
            experts,
            top_k,
            layer,
        } = op
        else {
            return Err(wrong_op(op));
        };
        if !stage.wants_guesses() {
            return Ok(());
        }
        let x = buffers.get(x);
        let matrix = weights.matrix(router)?;
        let rows = x.len() / matrix.cols();
        let guess = &mut self.guesser;
        guess.normed.resize(x.len(), 0.0);
        guess.logits.resize(rows * experts, 0.0);
        guess.ids.resize(rows * top_k, 0);
        guess.weights.resize(rows * top_k, 0.0);
        let normed = &mut guess.normed;
        self.kernels
            .rms_norm(x, weights.vector(norm)?, eps, normed)?;
        self.kernels.matmul(&mut [MatmulJob {
            weights: matrix,
            x: normed,
            quantized: None,
            tokens: None,
            out: &mut guess.logits,
        }])?;
        if let Some(bias) = bias {
            guess.biased.resize(rows * experts, 0.0);
            let biased = &mut guess.biased;
            self.kernels
                .add_bias(&guess.logits, weights.vector(bias)?, biased)?;
            std::mem::swap(&mut guess.logits, biased);
        }
        let (ids, shares) = (&mut guess.ids, &mut guess.weights);
        self.kernels
            .route(&guess.logits, experts, top_k, false, ids, shares)?;
        stage.guess(layer, ids, shares);
        Ok(())
    }
}

/// Steps after which it is decided anew whether to guess.
const WINDOW_STEPS: u32 = 16;
/// Windows after which the other way is tried again.
const WINDOWS_PER_TRIAL: u32 = 8;

/// Whether guessing pays, by comparing the time that steps with and without it take for each expert
/// that they do not find in memory.
pub(super) struct Trial {
    mode: Lookahead,
    is_on: bool,
    /// What the present window has cost so far.
    steps: u32,
    seconds: f64,
    absent: u64,
    /// Seconds an absent expert without guessing and with it, as last measured.
    cost: [Option<f64>; 2],
    windows: u32,
}

impl Trial {
    pub(super) fn new(mode: Lookahead) -> Trial {
        Trial {
            mode,
            is_on: mode != Lookahead::Off,
            steps: 0,
            seconds: 0.0,
            absent: 0,
            cost: [None; 2],
            windows: 0,
        }
    }

    pub(super) fn is_on(&self) -> bool {
        self.is_on
    }

    /// Whether guesses may be made at all.
    pub(super) fn is_allowed(&self) -> bool {
        self.mode != Lookahead::Off
    }

    /// A step took so long, and `absent` experts were not in memory or only by a guess.
    pub(super) fn note(&mut self, time: Duration, absent: u64) {
        if self.mode != Lookahead::Auto || absent == 0 {
            return;
        }
        self.steps += 1;
        self.seconds += time.as_secs_f64();
        self.absent += absent;
        if self.steps == WINDOW_STEPS {
            self.decide();
        }
    }

    fn decide(&mut self) {
        self.cost[usize::from(self.is_on)] = Some(self.seconds / self.absent as f64);
        (self.steps, self.seconds, self.absent) = (0, 0.0, 0);
        self.windows += 1;
        self.is_on = match self.cost {
            [Some(without), Some(with)] => {
                let best = with <= without;
                best != self.windows.is_multiple_of(WINDOWS_PER_TRIAL)
            }
            [without, _] => without.is_some(),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs windows of steps that take longer with guesses by this factor; returns the share of
    /// steps with them.
    fn share(mode: Lookahead, factor: f64) -> f64 {
        let mut trial = Trial::new(mode);
        let mut on = 0;
        for _ in 0..WINDOW_STEPS * 80 {
            on += u32::from(trial.is_on());
            let time = if trial.is_on() { factor } else { 1.0 };
            trial.note(Duration::from_secs_f64(time), 100);
        }
        f64::from(on) / f64::from(WINDOW_STEPS * 80)
    }

    #[test]
    fn guesses_are_made_while_they_pay() {
        assert!(share(Lookahead::Auto, 0.9) > 0.8);
        assert!(share(Lookahead::Auto, 1.1) < 0.2);
        assert_eq!(share(Lookahead::On, 1.5), 1.0);
        assert_eq!(share(Lookahead::Off, 0.5), 0.0);
    }

    #[test]
    fn a_change_of_fortune_is_noticed() {
        let mut trial = Trial::new(Lookahead::Auto);
        let mut run = |factor: f64| {
            let mut on = 0;
            for _ in 0..WINDOW_STEPS * 40 {
                on += u32::from(trial.is_on());
                let time = if trial.is_on() { factor } else { 1.0 };
                trial.note(Duration::from_secs_f64(time), 3);
            }
            on
        };
        assert!(run(0.8) > WINDOW_STEPS * 30);
        assert!(run(1.3) < WINDOW_STEPS * 12);
        assert!(run(0.8) > WINDOW_STEPS * 24);
    }

    #[test]
    fn steps_that_miss_nothing_say_nothing() {
        let mut trial = Trial::new(Lookahead::Auto);
        for _ in 0..1000 {
            trial.note(Duration::from_secs(1), 0);
        }
        assert!(trial.is_on() && trial.windows == 0);
    }
}
