//! Experts that are in the host's memory and not on the device, computed by the processor while the
//! device computes its own. Whether one is computed here or brought to the device is a matter of
//! measured time: it is computed here until that has taken as long as bringing it over would have.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use moeflux::Error;
use moeflux::backend::ExpertStage;
use moeflux::weights::ExpertLayout;
use moeflux_kernels::{Cpu, Isa, MatmulJob, Matrix, Quantized, Rounding};

/// The processor's part.
pub(super) struct HostExperts {
    cpu: Cpu,
    costs: Costs,
    input: Quantized,
    middle: Quantized,
    gate: Vec<f32>,
    up: Vec<f32>,
    act: Vec<f32>,
}

/// What a layer's tokens want of the processor.
pub(super) struct Wanted<'a> {
    pub layer: usize,
    /// Experts, ascending.
    pub experts: &'a [u32],
    /// Choices of all tokens, `[n, top_k]`.
    pub ids: &'a [u32],
    pub top_k: usize,
    /// Inputs, `[n, hidden]`.
    pub x: &'a [f32],
    pub hidden: usize,
    /// Whether activations are rounded to 8 bits: where the device does it and has these bits.
    pub is_rounded: bool,
}

/// A result: the choice that it is of, and `[hidden]`.
pub(super) type ResultRow = (usize, Vec<f32>);

impl HostExperts {
    pub fn new() -> Result<HostExperts, Error> {
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        Ok(HostExperts {
            cpu: Cpu::new(Isa::detect(), threads)?,
            costs: Costs::default(),
            input: Quantized::default(),
            middle: Quantized::default(),
            gate: Vec::new(),
            up: Vec::new(),
            act: Vec::new(),
        })
    }

    /// Which of the experts that are not on the device the processor computes now; `free` slots of
    /// the layer hold nothing yet.
    pub fn choose(&mut self, layer: usize, missing: &[u32], free: usize) -> Vec<u32> {
        let asked = missing.iter().copied().skip(free);
        asked.filter(|&expert| self.costs.rents(layer, expert)).collect()
    }

    /// Notes how long it took to bring experts over.
    pub fn brought(&mut self, experts: usize, time: Duration) {
        self.costs.bring.note(experts, time);
    }

    /// Computes the experts wanted, for all their tokens.
    pub fn compute(
        &mut self,
        stage: &mut ExpertStage,
        wanted: &Wanted<'_>,
    ) -> Result<Vec<ResultRow>, Error> {
        let started = Instant::now();
        let layout = stage.layout(wanted.layer)?.clone();
        let rounding = layout.gate.rounding().filter(|_| wanted.is_rounded);
        if let Some(rounding) = rounding {
            let n = wanted.x.len() / wanted.hidden.max(1);
            self.input.quantize(&self.cpu, wanted.x, n, wanted.hidden, rounding)?;
        }
        let mut rows = Vec::new();
        stage.hand_out(wanted.layer, wanted.experts, &mut |expert, bytes| {
            self.expert(&layout, bytes, expert, wanted, rounding, &mut rows)
        })?;
        self.costs.compute.note(wanted.experts.len(), started.elapsed());
        Ok(rows)
    }

    fn expert(
        &mut self,
        layout: &ExpertLayout,
        bytes: &[u8],
        expert: u32,
        wanted: &Wanted<'_>,
        rounding: Option<Rounding>,
        rows: &mut Vec<ResultRow>,
    ) -> Result<(), Error> {
        let choices = wanted.ids.iter().enumerate().filter(|(_, id)| **id == expert);
        let choices: Vec<usize> = choices.map(|(choice, _)| choice).collect();
        let tokens: Vec<u32> = choices.iter().map(|c| (c / wanted.top_k) as u32).collect();
        let (gate, up) = (layout.gate.view(bytes)?, layout.up.view(bytes)?);
        let len = tokens.len() * gate.rows();
        for buffer in [&mut self.gate, &mut self.up, &mut self.act] {
            buffer.resize(len, 0.0);
        }
        let quantized = rounding.map(|_| &self.input);
        let job = |weights, out| MatmulJob {
            weights,
            x: wanted.x,
            quantized,
            tokens: Some(&tokens),
            out,
        };
        self.cpu.matmul(&mut [job(gate, &mut self.gate), job(up, &mut self.up)])?;
        self.cpu.swiglu(&self.gate, &self.up, &mut self.act)?;
        let down: Matrix<'_> = layout.down.view(bytes)?;
        let act_rounding = down.rounding().filter(|_| wanted.is_rounded);
        if let Some(rounding) = act_rounding {
            let (n, cols) = (tokens.len(), down.cols());
            self.middle.quantize(&self.cpu, &self.act, n, cols, rounding)?;
        }
        let mut out = vec![0.0; tokens.len() * wanted.hidden];
        self.cpu.matmul(&mut [MatmulJob {
            weights: down,
            x: &self.act,
            quantized: act_rounding.map(|_| &self.middle),
            tokens: None,
            out: &mut out,
        }])?;
        let results = out.chunks_exact(wanted.hidden).map(<[f32]>::to_vec);
        rows.extend(choices.into_iter().zip(results));
        Ok(())
    }
}

/// A running mean of the seconds of an expert.
#[derive(Default)]
struct Mean(Option<f64>);

impl Mean {
    fn note(&mut self, experts: usize, time: Duration) {
        if experts == 0 {
            return;
        }
        let new = time.as_secs_f64() / experts as f64;
        self.0 = Some(self.0.map_or(new, |old| 0.9 * old + 0.1 * new));
    }
}

/// Measured times, and what has been spent on each expert since it left the device.
#[derive(Default)]
struct Costs {
    bring: Mean,
    compute: Mean,
    spent: HashMap<(usize, u32), f64>,
}

impl Costs {
    /// Whether an expert is computed by the processor this time.
    fn rents(&mut self, layer: usize, expert: u32) -> bool {
        // Each is tried once.
        let Some(bring) = self.bring.0 else {
            return false;
        };
        let compute = self.compute.0.unwrap_or(0.0);
        let spent = self.spent.entry((layer, expert)).or_default();
        if *spent + compute > bring {
            *spent = 0.0;
            return false;
        }
        *spent += compute;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(bring: u64, compute: u64) -> Costs {
        let mut costs = Costs::default();
        costs.bring.note(1, Duration::from_micros(bring));
        costs.compute.note(1, Duration::from_micros(compute));
        costs
    }

    #[test]
    fn an_expert_is_brought_when_computing_it_has_cost_as_much() {
        let mut costs = costs(1000, 300);
        let rents: Vec<bool> = (0..8).map(|_| costs.rents(0, 5)).collect();
        assert_eq!(rents, [true, true, true, false, true, true, true, false]);
        // Another expert's and another layer's accounts are their own.
        assert!(costs.rents(0, 6) && costs.rents(1, 5));
    }

    #[test]
    fn what_is_cheaper_to_bring_is_brought() {
        let mut costs = costs(100, 300);
        assert!((0..4).all(|_| !costs.rents(2, 9)));
    }

    #[test]
    fn nothing_is_known_before_an_expert_was_brought() {
        let mut costs = Costs::default();
        assert!(!costs.rents(0, 0));
        costs.bring.note(0, Duration::from_secs(1));
        assert!(!costs.rents(0, 0));
        costs.bring.note(2, Duration::from_secs(1));
        // The processor's time is not known either: it is tried.
        assert!(costs.rents(0, 0));
    }
}
