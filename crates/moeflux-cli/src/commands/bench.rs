//! `moeflux bench`: prefill and decode speed, with the floor that the hardware sets.
//!
//! Tokens are pseudo-random, so that experts are chosen as widely as by any text. The floor is the
//! slowest of three: multiply-adds over the matrix kernel's rate in the caches; for decode, bytes of
//! weights that a token touches over the memory's measured bandwidth; bytes of experts that had to be
//! read over the disk's measured rate.

use std::time::Instant;

use clap::Args;
use moeflux::formats::Codec;
use moeflux::{Engine, ModelInfo, Want};
use serde_json::{Value, json};

use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::interrupt;
use crate::measure::{self, DiskRate};
use crate::model;
use crate::output;

/// Tokens before a decode measurement.
const DECODE_PROMPT: usize = 16;

/// Flags of `bench`.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Prompt lengths to measure
    #[arg(
        short,
        long,
        value_delimiter = ',',
        default_value = "128,512",
        value_name = "N,N,..."
    )]
    prompt_tokens: Vec<usize>,
    /// Tokens to decode
    #[arg(
        short = 'n',
        long,
        value_delimiter = ',',
        default_value = "64",
        value_name = "N,N,..."
    )]
    decode_tokens: Vec<usize>,
    /// Repetitions of each
    #[arg(short, long, default_value_t = 3, value_name = "N",
          value_parser = clap::value_parser!(u16).range(1..=1000))]
    repetitions: u16,
    /// Forget cached experts before each repetition, instead of one run to warm up
    #[arg(long)]
    cold: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// The machine's rates.
struct Machine {
    memory_bytes_per_second: f64,
    multiply_adds_per_second: f64,
    disk: DiskRate,
}

/// One measurement, all repetitions together.
struct Measured {
    kind: &'static str,
    tokens: usize,
    rates: Vec<f64>,
    hit_rate: f64,
    /// Bytes of experts read for each token.
    read_bytes: f64,
    /// Highest tokens a second that the hardware allows.
    floor: f64,
    /// What sets it.
    limit: &'static str,
}

impl Measured {
    fn mean(&self) -> f64 {
        self.rates.iter().sum::<f64>() / self.rates.len().max(1) as f64
    }

    fn best(&self) -> f64 {
        self.rates.iter().copied().fold(0.0, f64::max)
    }

    fn text(&self) -> String {
        let floor = format!(
            "floor {:>8.1} by {} ({:.0} % of it)",
            self.floor,
            self.limit,
            self.mean() / self.floor * 100.0
        );
        format!(
            "{:<8}{:>6} tokens {:>9.1} tok/s (best {:.1})  {floor}  {:.1} % hits, {:.3} MB read a token",
            self.kind,
            self.tokens,
            self.mean(),
            self.best(),
            self.hit_rate * 100.0,
            self.read_bytes * 1e-6,
        )
    }

    fn json(&self) -> Value {
        json!({
            "kind": self.kind,
            "tokens": self.tokens,
            "repetitions": self.rates.len(),
            "tokens_per_second": self.mean(),
            "tokens_per_second_best": self.best(),
            "floor_tokens_per_second": self.floor,
            "limit": self.limit,
            "hit_rate": self.hit_rate,
            "read_bytes_per_token": self.read_bytes,
        })
    }
}

/// Runs the command.
pub fn run(args: &BenchArgs) -> Result<(), Failure> {
    let dir = model::find(&args.model.model)?;
    if args
        .prompt_tokens
        .iter()
        .chain(&args.decode_tokens)
        .any(|tokens| *tokens == 0)
    {
        return Err(Failure::Usage(
            "-p and -n take lengths of at least 1".into(),
        ));
    }
    let info = moeflux::inspect(&dir)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.model.threads.unwrap_or(cores).clamp(1, 256);
    let isa = args.model.isa.unwrap_or_else(moeflux::Isa::detect);
    // Measured before the engine takes its memory.
    let machine = Machine {
        memory_bytes_per_second: measure::memory_bytes_per_second(threads, args.model.memory),
        multiply_adds_per_second: measure::multiply_adds_per_second(
            isa,
            threads,
            expert_codec(&info),
            args.model.activations,
        )
        .map_err(moeflux::Error::from)?,
        disk: measure::disk(&dir, args.model.reader)?,
    };
    let engine = model::open_engine(&dir, &args.model)?;
    check_lengths(args, &engine)?;
    if !args.json {
        output::line(&heading(&engine, &machine))?;
    }
    let guard = interrupt::listen();
    let mut measured = Vec::new();
    let prefill = args.prompt_tokens.iter().map(|tokens| ("prefill", *tokens));
    let decode = args.decode_tokens.iter().map(|tokens| ("decode", *tokens));
    for (kind, tokens) in prefill.chain(decode) {
        let result = measure_one(&engine, &machine, args, kind, tokens, &guard)?;
        if !args.json {
            output::line(&result.text())?;
        }
        measured.push(result);
    }
    if args.json {
        let stats = engine.stats();
        output::json(&json!({
            "model": dir.display().to_string(),
            "model_type": engine.info().model_type,
            "isa": stats.isa.to_string(),
            "threads": stats.threads,
            "activations": stats.activations.to_string(),
            "kv": stats.kv.to_string(),
            "memory_bytes_per_second": machine.memory_bytes_per_second,
            "multiply_adds_per_second": machine.multiply_adds_per_second,
            "disk_bytes_per_second": machine.disk.bytes_per_second,
            "reader": machine.disk.reader,
            "cold": args.cold,
            "tests": measured.iter().map(Measured::json).collect::<Vec<_>>(),
        }))?;
    }
    Ok(())
}

/// The codec that most multiply-adds meet: that of the routed experts.
fn expert_codec(info: &ModelInfo) -> Codec {
    let experts = info
        .codecs
        .iter()
        .find(|(class, _)| class == "routed experts");
    let name = experts.and_then(|(_, codecs)| codecs.split(',').next());
    name.and_then(|name| name.trim().parse().ok())
        .unwrap_or(Codec::Bf16)
}

fn check_lengths(args: &BenchArgs, engine: &Engine) -> Result<(), Failure> {
    let limit = engine.session().context_tokens();
    let decode = args
        .decode_tokens
        .iter()
        .map(|tokens| tokens + DECODE_PROMPT);
    match args
        .prompt_tokens
        .iter()
        .copied()
        .chain(decode)
        .find(|tokens| *tokens > limit)
    {
        Some(tokens) => Err(moeflux::Error::ContextExceeded { tokens, limit }.into()),
        None => Ok(()),
    }
}

fn heading(engine: &Engine, machine: &Machine) -> String {
    let stats = engine.stats();
    let slots = stats.experts.slots;
    format!(
        "{}, {} threads, {} activations, {} keys and values; {slots} of {} experts fit in memory\n\
         memory {:.1} GB/s, matrices {:.0} G multiply-adds/s, disk {:.2} GB/s ({})",
        stats.isa,
        stats.threads,
        stats.activations,
        stats.kv,
        engine.info().expert_records,
        machine.memory_bytes_per_second * 1e-9,
        machine.multiply_adds_per_second * 1e-9,
        machine.disk.bytes_per_second * 1e-9,
        machine.disk.reader,
    )
}

fn measure_one(
    engine: &Engine,
    machine: &Machine,
    args: &BenchArgs,
    kind: &'static str,
    tokens: usize,
    guard: &interrupt::Guard,
) -> Result<Measured, Failure> {
    let mut measured = Measured {
        kind,
        tokens,
        rates: Vec::new(),
        hit_rate: 0.0,
        read_bytes: 0.0,
        floor: 0.0,
        limit: "",
    };
    let (mut hits, mut asked, mut read) = (0, 0, 0);
    let warm_up = usize::from(!args.cold);
    for repetition in 0..usize::from(args.repetitions) + warm_up {
        if args.cold {
            engine.cool();
        }
        let seconds = match kind {
            "prefill" => prefill_seconds(engine, tokens, repetition)?,
            _ => decode_seconds(engine, tokens, repetition, guard)?,
        };
        if guard.stopped() {
            return Err(Failure::Interrupted);
        }
        if repetition < warm_up {
            continue;
        }
        let stats = engine.stats().experts;
        hits += stats.hits;
        asked += stats.hits + stats.misses;
        read += stats.bytes_read;
        measured.rates.push(tokens as f64 / seconds);
    }
    measured.hit_rate = if asked == 0 {
        0.0
    } else {
        hits as f64 / asked as f64
    };
    measured.read_bytes = read as f64 / (tokens * measured.rates.len()) as f64;
    let info = engine.info();
    let touched = (info.token_dense_bytes + info.token_expert_bytes) as f64;
    // Prefill reads each weight once for many tokens.
    let once = if kind == "decode" { 1.0 } else { tokens as f64 };
    let (seconds, limit) = [
        (touched / machine.memory_bytes_per_second / once, "memory"),
        (
            measured.read_bytes / machine.disk.bytes_per_second.max(1.0),
            "disk",
        ),
        (
            info.token_multiply_adds as f64 / machine.multiply_adds_per_second,
            "compute",
        ),
    ]
    .into_iter()
    .max_by(|a, b| a.0.total_cmp(&b.0))
    .unwrap_or((f64::INFINITY, ""));
    measured.floor = 1.0 / seconds;
    measured.limit = limit;
    Ok(measured)
}

/// A token by its place; the same in every run.
fn token(engine: &Engine, repetition: usize, position: usize) -> u32 {
    let number = moeflux::sampling::uniform(repetition as u64, position as u64);
    (number * engine.info().vocab_size as f64) as u32
}

fn prefill_seconds(engine: &Engine, tokens: usize, repetition: usize) -> Result<f64, Failure> {
    let prompt: Vec<u32> = (0..tokens)
        .map(|at| token(engine, repetition, at))
        .collect();
    let mut session = engine.session();
    engine.reset_stats();
    let start = Instant::now();
    engine.prefill(&mut session, &prompt, Want::Last)?;
    Ok(start.elapsed().as_secs_f64())
}

fn decode_seconds(
    engine: &Engine,
    tokens: usize,
    repetition: usize,
    guard: &interrupt::Guard,
) -> Result<f64, Failure> {
    let prompt: Vec<u32> = (0..DECODE_PROMPT)
        .map(|at| token(engine, repetition, at))
        .collect();
    let mut session = engine.session();
    engine.prefill(&mut session, &prompt, Want::None)?;
    engine.reset_stats();
    let start = Instant::now();
    for at in 0..tokens {
        let next = token(engine, repetition, DECODE_PROMPT + at);
        engine.prefill(&mut session, &[next], Want::Last)?;
        if guard.stopped() {
            return Err(Failure::Interrupted);
        }
    }
    Ok(start.elapsed().as_secs_f64())
}
