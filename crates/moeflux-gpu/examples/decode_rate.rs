//! Tokens a second of a model on a device: `decode_rate MODEL_DIR [PROMPT_TOKENS] [TOKENS]
//! [GIB_OF_EXPERTS_ON_THE_DEVICE]`.

#![allow(clippy::print_stdout, reason = "it prints what it measures")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use moeflux::{Engine, EngineOptions, Session, Span, Want};
use moeflux_gpu::{DeviceChoice, Gpu, GpuBackend, GpuOptions};

fn step(engine: &Engine, session: &mut Session, token: u32) -> Result<u32, moeflux::Error> {
    let mut span = [Span {
        session,
        tokens: &[token],
        want: Want::Last,
        is_prompt: false,
    }];
    let logits = engine.forward(&mut span)?;
    let row = logits[0].last();
    let better = |best: usize, at: usize| if row[at] > row[best] { at } else { best };
    Ok((0..row.len()).fold(0, better) as u32)
}

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let number = |at: usize, default: usize| -> Result<usize, Box<dyn Error>> {
        Ok(args.get(at).map_or(Ok(default), |s| s.parse())?)
    };
    let path = args.get(1).ok_or("give a model's directory")?;
    let (prompt, count, gib) = (number(2, 256)?, number(3, 64)?, number(4, 0)?);
    let gpu = Gpu::open(DeviceChoice::Any)?;
    println!("{:?}", gpu.line());
    let (held, options) = (
        Arc::clone(&gpu),
        GpuOptions {
            expert_bytes: (gib > 0).then_some((gib as u64) << 30),
        },
    );
    let options = EngineOptions {
        backend: Some(Arc::new(move || {
            Ok(Box::new(GpuBackend::new(Arc::clone(&held), options)) as Box<_>)
        })),
        ..EngineOptions::default()
    };
    let engine = Engine::open(Path::new(path), &options)?;
    let vocab = engine.info().vocab_size as u32;
    let tokens: Vec<u32> = (0..prompt as u32).map(|i| (i * 7919 + 3) % vocab).collect();
    for round in 0..3 {
        let mut session = engine.session();
        let start = Instant::now();
        engine.prefill(&mut session, &tokens, Want::Last)?;
        let prefill = start.elapsed().as_secs_f64();
        let mut token = step(&engine, &mut session, 1)?;
        let start = Instant::now();
        for _ in 0..count {
            token = step(&engine, &mut session, token)?;
        }
        let decode = start.elapsed().as_secs_f64();
        println!(
            "round {round}: prefill {prompt} tokens {:.1} tok/s, decode {:.1} tok/s, {:.2} GiB \
             on the device",
            prompt as f64 / prefill,
            count as f64 / decode,
            gpu.bytes_in_use() as f64 / (1u64 << 30) as f64
        );
    }
    Ok(())
}
