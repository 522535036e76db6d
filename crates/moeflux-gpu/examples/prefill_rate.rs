//! Times prompts on the machine's device, then each kind of operation of one:
//! `cargo run --release -p moeflux-gpu --example prefill_rate MODEL [TOKENS]`.

#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use moeflux::backend::{Backend, ExpertStage, Step};
use moeflux::graph::{BufferId, BufferPool, Op};
use moeflux::weights::Weights;
use moeflux::{Engine, EngineOptions, RemoteStates, Want};
use moeflux_gpu::{DeviceBuffer, DeviceChoice, Gpu, GpuBackend, GpuOptions};

/// Seconds and runs, by operation; only while somebody wants them.
type Times = Arc<Mutex<Option<BTreeMap<String, (f64, u32)>>>>;

/// The device's backend, which waits for each operation while times are taken.
struct Timed {
    inner: GpuBackend,
    gpu: Arc<Gpu>,
    end: DeviceBuffer,
    times: Times,
}

impl Backend for Timed {
    fn cached_tokens(&self) -> usize {
        self.inner.cached_tokens()
    }

    fn states(&self) -> Option<Arc<dyn RemoteStates>> {
        self.inner.states()
    }

    fn begin_step(&mut self) {
        self.inner.begin_step();
    }

    fn fetch(&mut self, wanted: &[BufferId], pool: &mut BufferPool) -> Result<(), moeflux::Error> {
        self.inner.fetch(wanted, pool)
    }

    fn end_step(&mut self) -> Result<(), moeflux::Error> {
        self.inner.end_step()
    }

    fn run(
        &mut self,
        op: &Op,
        step: &mut Step<'_>,
        weights: &Weights,
        buffers: &mut BufferPool,
        experts: &mut ExpertStage,
    ) -> Result<(), moeflux::Error> {
        let begin = Instant::now();
        self.inner.run(op, step, weights, buffers, experts)?;
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(times) = &mut *times {
            self.inner.end_step()?;
            self.gpu.read(&self.end, 0, 16)?;
            let name = match op {
                Op::Matmul { outputs, exact, .. } => {
                    let rows = outputs.iter().map(|(_, out)| buffers.len(*out));
                    let rows: Vec<usize> = rows.map(|n| n / step.tokens.len().max(1)).collect();
                    format!("matmul {rows:?}{}", if *exact { " exact" } else { "" })
                }
                op => op.name().to_owned(),
            };
            let entry = times.entry(name).or_default();
            entry.0 += begin.elapsed().as_secs_f64();
            entry.1 += 1;
        }
        Ok(())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("give a model's directory")?;
    let count: u32 = args.next().map_or(Ok(2048), |s| s.parse())?;
    let gpu = Gpu::open(DeviceChoice::Any)?;
    println!("{:?}, matrix unit {:?}", gpu.line(), gpu.matrix_unit());
    let times: Times = Arc::default();
    let (held, shared) = (Arc::clone(&gpu), Arc::clone(&times));
    let options = EngineOptions {
        backend: Some(Arc::new(move || {
            Ok(Box::new(Timed {
                inner: GpuBackend::new(Arc::clone(&held), GpuOptions::default()),
                end: held.buffer("end", 16)?,
                gpu: Arc::clone(&held),
                times: Arc::clone(&shared),
            }) as Box<_>)
        })),
        ..EngineOptions::default()
    };
    let engine = Engine::open(Path::new(&path), &options)?;
    let vocab = engine.info().vocab_size as u32;
    let tokens: Vec<u32> = (0..count).map(|i| (i * 7919 + 3) % vocab).collect();
    for round in 0..6 {
        if round == 5 {
            *times.lock().unwrap_or_else(PoisonError::into_inner) = Some(BTreeMap::new());
        }
        let mut session = engine.session();
        let start = Instant::now();
        engine.prefill(&mut session, &tokens, Want::Last)?;
        let seconds = start.elapsed().as_secs_f64();
        let rate = f64::from(count) / seconds;
        println!("round {round}: {count} tokens in {seconds:.3} s, {rate:.1} tok/s");
    }
    let times = times.lock().unwrap_or_else(PoisonError::into_inner).take();
    let mut times: Vec<_> = times.unwrap_or_default().into_iter().collect();
    times.sort_by(|a, b| b.1.0.total_cmp(&a.1.0));
    println!("waiting for each operation (tens of microseconds each of which are the wait):");
    for (name, (seconds, runs)) in times {
        let each = seconds * 1e6 / f64::from(runs);
        println!(
            "{name:44} {runs:5} x {each:9.1} us = {:8.2} ms",
            seconds * 1e3
        );
    }
    Ok(())
}
