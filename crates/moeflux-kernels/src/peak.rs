//! The processor's peak in f32 multiply-adds, measured: what no float kernel can exceed.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::{
    Cpu,
    lanes::{Kernel, Lanes},
};

/// A pass this long drowns the cost of starting it.
const PASS: Duration = Duration::from_millis(2);
/// Passes of that length; the best counts.
const PASSES: usize = 8;

impl Cpu {
    /// Fused multiply-adds of f32 a second, all threads together, from registers alone.
    pub fn fused_multiply_adds_per_second(&self) -> f64 {
        let (mut rounds, mut best, mut passes) = (1 << 12, 0.0_f64, 0);
        while passes < PASSES {
            let start = Instant::now();
            self.pool.run(self.pool.threads(), &|_| {
                black_box(self.backend.run(Chains { rounds }));
            });
            let spent = start.elapsed();
            let done = (self.pool.threads() * rounds * CHAINS * 16) as f64;
            best = best.max(done / spent.as_secs_f64().max(1e-9));
            if spent < PASS {
                rounds *= 2;
            } else {
                passes += 1;
            }
        }
        best
    }
}

/// Multiply-adds of 16 lanes in a round: enough independent ones to hide an instruction's latency.
const CHAINS: usize = 12;

/// Chains of multiply-adds that wait for nothing but themselves.
struct Chains {
    rounds: usize,
}

impl Kernel for Chains {
    type Output = f32;

    #[inline(always)]
    fn run<L: Lanes>(self, l: L) -> f32 {
        match L::ROOMY {
            true => chains::<L, CHAINS>(l, self.rounds),
            // As many as the registers hold, twice.
            false => chains::<L, { CHAINS / 2 }>(l, self.rounds * 2),
        }
    }
}

#[inline(always)]
fn chains<L: Lanes, const N: usize>(l: L, rounds: usize) -> f32 {
    let (x, y) = (l.splat(black_box(1e-3)), l.splat(black_box(1e-3)));
    let mut sums = [l.zero(); N];
    for _ in 0..rounds {
        for sum in &mut sums {
            *sum = l.fma(x, y, *sum);
        }
    }
    let mut all = l.zero();
    for sum in sums {
        all = l.add(all, sum);
    }
    l.tree(all)
}

#[cfg(test)]
mod tests {
    use crate::{Cpu, Isa};

    #[test]
    fn every_instruction_set_has_a_peak() {
        for isa in Isa::available() {
            let cpu = Cpu::new(isa, 1).expect("it is available");
            let rate = cpu.fused_multiply_adds_per_second();
            assert!(rate.is_finite() && rate > 1e6, "{isa}: {rate}");
        }
    }
}
