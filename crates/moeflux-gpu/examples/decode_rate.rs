//! Tokens a second of a model on a device: `decode_rate MODEL_DIR [PROMPT_TOKENS,..] [TOKENS]
//! [GIB_OF_EXPERTS_ON_THE_DEVICE]`. Ends with the times of a token's dispatches.

#![allow(clippy::print_stdout, reason = "it prints what it measures")]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use moeflux::{Best, Engine, EngineOptions, Session, Want};
use moeflux_gpu::{CpuExperts, DeviceChoice, Gpu, GpuBackend, GpuOptions};

/// The most likely token after `token`.
fn step(engine: &Engine, session: &mut Session, token: u32) -> Result<u32, moeflux::Error> {
    match engine.decode_best(session, token)? {
        Best::Token(token) => Ok(token),
        Best::Logits(logits) => {
            let row = logits.last();
            let better = |best: usize, at: usize| if row[at] > row[best] { at } else { best };
            Ok((0..row.len()).fold(0, better) as u32)
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let number = |at: usize, default: usize| -> Result<usize, Box<dyn Error>> {
        Ok(args.get(at).map_or(Ok(default), |s| s.parse())?)
    };
    let path = args.get(1).ok_or("give a model's directory")?;
    let prompts = args.get(2).map_or("256", String::as_str).split(',');
    let prompts: Vec<usize> = prompts.map(str::parse).collect::<Result<_, _>>()?;
    let (count, gib) = (number(3, 64)?, number(4, 0)?);
    let gpu = Gpu::open(DeviceChoice::Any)?;
    println!("{:?}", gpu.line());
    let (held, options) = (
        Arc::clone(&gpu),
        GpuOptions {
            expert_bytes: (gib > 0).then_some((gib as u64) << 30),
            cpu_experts: match args.get(5).map(String::as_str) {
                Some("on") => CpuExperts::On,
                Some("auto") => CpuExperts::Auto,
                _ => CpuExperts::Off,
            },
        },
    );
    let options = EngineOptions {
        backend: Some(Arc::new(move || {
            Ok(Box::new(GpuBackend::new(Arc::clone(&held), options)) as Box<_>)
        })),
        ..EngineOptions::default()
    };
    let engine = Engine::open(Path::new(path), &options)?;
    let start = Instant::now();
    engine.warm(&mut |_, _| ())?;
    let seconds = start.elapsed().as_secs_f64();
    println!("experts brought there in {seconds:.1} s");
    let vocab = engine.info().vocab_size as u32;
    for prompt in prompts {
        let tokens: Vec<u32> = (0..prompt as u32).map(|i| (i * 7919 + 3) % vocab).collect();
        for _ in 0..2 {
            round(&gpu, &engine, &tokens, count)?;
        }
        profile(&gpu, &engine, &tokens)?;
    }
    let bytes = gpu.bytes_in_use() as f64;
    println!("{:.2} GiB on the device", bytes / f64::from(1 << 30));
    Ok(())
}

fn round(gpu: &Gpu, engine: &Engine, tokens: &[u32], count: usize) -> Result<(), Box<dyn Error>> {
    let mut session = engine.session();
    let start = Instant::now();
    engine.prefill(&mut session, tokens, Want::Last)?;
    let prefill = start.elapsed().as_secs_f64();
    let mut token = step(engine, &mut session, 1)?;
    let mut times = Vec::with_capacity(count);
    let (waited, ahead) = (gpu.waited(), gpu.steps_ahead());
    for _ in 0..count {
        let start = Instant::now();
        token = step(engine, &mut session, token)?;
        times.push(start.elapsed().as_secs_f64());
    }
    let all: f64 = times.iter().sum();
    let waited = (gpu.waited() - waited).as_secs_f64();
    times.sort_by(f64::total_cmp);
    println!(
        "prefill {} tokens {:.1} tok/s, decode {:.1} tok/s (fastest step {:.1}, median {:.1}), \
         waiting {:.0} of {:.0} us a token, {} of {count} steps begun ahead",
        tokens.len(),
        tokens.len() as f64 / prefill,
        count as f64 / all,
        1.0 / times[0],
        1.0 / times[count / 2],
        waited * 1e6 / count as f64,
        all * 1e6 / count as f64,
        gpu.steps_ahead() - ahead
    );
    Ok(())
}

/// Prints where the time of a token goes, by kernel.
fn profile(gpu: &Gpu, engine: &Engine, tokens: &[u32]) -> Result<(), Box<dyn Error>> {
    const STEPS: usize = 8;
    let mut session = engine.session();
    engine.prefill(&mut session, tokens, Want::Last)?;
    let mut token = step(engine, &mut session, 1)?;
    gpu.time_dispatches(true)?;
    for _ in 0..STEPS {
        token = step(engine, &mut session, token)?;
    }
    gpu.time_dispatches(false)?;
    // By kernel and workgroups: how many, microseconds, and microseconds with what lies before.
    let mut kernels: BTreeMap<_, (usize, f64, f64)> = BTreeMap::new();
    for time in gpu.take_times() {
        for key in [(time.kernel, time.groups), ("all", [0; 3])] {
            let sums = kernels.entry(key).or_default();
            sums.0 += 1;
            sums.1 += time.microseconds;
            sums.2 += time.with_gap.min(1e3);
        }
    }
    println!("kernel, workgroups: a token's dispatches, us a dispatch (with gap), us a token");
    for ((kernel, groups), (count, time, with_gap)) in kernels {
        let (count, steps) = (count as f64, STEPS as f64);
        println!(
            "{kernel} {groups:?}: {:.1}, {:.2} ({:.2}), {:.1}",
            count / steps,
            time / count,
            with_gap / count,
            time / steps
        );
    }
    Ok(())
}
