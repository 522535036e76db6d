//! Flags that several commands share.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use moeflux::draft::Speculate;
use moeflux::experts::{PolicyKind, ReaderKind};
use moeflux::sampling::SamplingParams;
use moeflux::text::SuggestedSampling;
use moeflux::{Activations, EngineOptions, Isa, KvType, Lookahead};

use crate::device::{self, CpuExperts, Device};
use crate::failure::Failure;
use crate::size;

/// Which model, and with what means it runs.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Model and machine")]
pub struct ModelArgs {
    /// A model's directory or GGUF file, or its name under $MOEFLUX_MODELS, ./models, or a models
    /// folder beside or above the program
    #[arg(short, long, default_value = "demo")]
    pub model: String,
    /// Bound of the process's memory, as 8GiB [default: 80 % of what is available]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub memory: Option<u64>,
    /// Memory for experts, instead of what --memory leaves
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub expert_cache: Option<u64>,
    /// Where operations run: cpu, gpu, gpu:N (see moeflux devices), or auto (gpu where there is one);
    /// answers of cpu and gpu may differ in rounding
    #[arg(long, default_value = "cpu", value_name = "DEVICE",
          value_parser = |name: &str| name.parse::<Device>())]
    pub device: Device,
    /// Memory of the graphics processor for experts [default: all of them, or what it has left]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    pub gpu_memory: Option<u64>,
    /// Whether the processor computes, at the same time, experts that the graphics processor's memory
    /// does not hold, where that takes less time than to bring them over: off, on, or auto (where
    /// the device has the processor's bits). Experts are then computed from activations in 8 bits on
    /// both [default: off, or on if no value is given]
    #[arg(long, value_name = "WHEN", num_args = 0..=1, require_equals = true,
          default_missing_value = "on")]
    pub cpu_experts: Option<CpuExperts>,
    /// Compute threads [default: one per core]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Longest sequence in tokens [default: what the model was made for]
    #[arg(long, value_name = "TOKENS")]
    pub context: Option<usize>,
    /// Instruction set: avx512, avx2, neon or scalar; the answer is the same [default: the best]
    #[arg(long, value_parser = |name: &str| name.parse::<Isa>())]
    pub isa: Option<Isa>,
    /// How activations meet integer weights: int8 (fast) or f32 (the yardstick)
    #[arg(long, default_value = "int8", value_name = "KIND")]
    pub activations: Activations,
    /// What keys and values are kept as: f16 (half the memory) or f32 (the yardstick)
    #[arg(long, default_value = "f16", value_name = "TYPE",
          value_parser = |name: &str| name.parse::<KvType>())]
    pub kv: KvType,
    /// How experts are read: auto, uring or direct (around the page cache), or buffered
    #[arg(long, default_value = "auto", value_name = "KIND",
          value_parser = |name: &str| name.parse::<ReaderKind>())]
    pub reader: ReaderKind,
    /// Which expert makes room for another: frequency, lru, least-stale or pinned
    #[arg(long, default_value = "frequency", value_name = "KIND",
          value_parser = |name: &str| name.parse::<PolicyKind>())]
    pub policy: PolicyKind,
    /// Let the system swap resident weights out
    #[arg(long)]
    pub no_lock: bool,
    /// Do not begin by reading the experts that were used most by earlier runs, nor write down what
    /// this one uses (FILE.gguf.popularity, or .moeflux-popularity in the model's directory); only
    /// run, chat, serve and eval answers do that at all
    #[arg(long)]
    pub no_warm: bool,
    /// Record in this file which experts are used, for moeflux trace
    #[arg(long, value_name = "FILE")]
    pub trace: Option<PathBuf>,
    /// Whether experts are guessed a layer ahead and read when the disk is idle: auto (while it helps),
    /// on or off; the answer is the same
    #[arg(long, default_value = "auto", value_name = "WHEN")]
    pub lookahead: Lookahead,
    /// Most tokens computed at once [default: by the memory]
    #[arg(long, value_name = "N")]
    pub chunk_tokens: Option<usize>,
}

impl ModelArgs {
    /// The engine's options.
    pub fn options(&self) -> Result<EngineOptions, Failure> {
        let mut options = EngineOptions {
            memory_bytes: self.memory,
            expert_cache_bytes: self.expert_cache,
            threads: self.threads,
            isa: self.isa,
            activations: self.activations,
            kv: self.kv,
            reader: self.reader.into(),
            policy: self.policy,
            lookahead: self.lookahead,
            chunk_tokens: self.chunk_tokens,
            max_context: self.context,
            lock_weights: !self.no_lock,
            trace: self.trace.clone(),
            ..EngineOptions::default()
        };
        device::place(&mut options, self)?;
        Ok(options)
    }
}

/// How tokens are picked, and how many.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Generation (greedy unless a sampling flag is given)")]
pub struct GenerationArgs {
    /// Most tokens to generate
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub max_tokens: usize,
    /// Divides the logits; 0 is greedy [default: 0, or 1 if another sampling flag is given]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub temperature: Option<f32>,
    /// Keep the N most likely tokens; 0 keeps all
    #[arg(long, value_name = "N")]
    pub top_k: Option<usize>,
    /// Keep the most likely tokens that reach this probability together
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Keep tokens at least this likely relative to the most likely one
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Penalty on tokens seen in prompt or answer; 1 is none
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub repetition_penalty: Option<f32>,
    /// Penalty on tokens seen in the answer; 0 is none
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// Penalty for each time that the answer holds a token; 0 is none
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// Makes drawing repeatable [default: a new one each time]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Take sampling values that no flag sets from the model's generation_config.json
    #[arg(long)]
    pub suggested: bool,
    /// Guess tokens from the text so far and check several in one step: auto (while it pays), off
    /// or always; the answer is the same
    #[arg(long, default_value = "auto", value_name = "WHEN")]
    pub speculate: Speculate,
}

impl GenerationArgs {
    /// The sampler's parameters; `suggested` are the model's own, used only if asked for.
    pub fn sampling(&self, suggested: &SuggestedSampling) -> SamplingParams {
        let none = SuggestedSampling::default();
        let suggested = match self.suggested && suggested.do_sample != Some(false) {
            true => suggested,
            false => &none,
        };
        let top_k = self.top_k.or(suggested.top_k);
        let top_p = self.top_p.or(suggested.top_p);
        let min_p = self.min_p.or(suggested.min_p);
        let filters = top_k.is_some() || top_p.is_some() || min_p.is_some();
        let greedy = SamplingParams::default();
        let temperature = self.temperature.or(suggested.temperature);
        SamplingParams {
            temperature: temperature.unwrap_or(if filters { 1.0 } else { 0.0 }),
            top_k: top_k.unwrap_or(greedy.top_k),
            top_p: top_p.unwrap_or(greedy.top_p),
            min_p: min_p.unwrap_or(greedy.min_p),
            repetition_penalty: self
                .repetition_penalty
                .or(suggested.repetition_penalty)
                .unwrap_or(greedy.repetition_penalty),
            presence_penalty: self.presence_penalty.unwrap_or(greedy.presence_penalty),
            frequency_penalty: self.frequency_penalty.unwrap_or(greedy.frequency_penalty),
            seed: self.seed.unwrap_or_else(new_seed),
        }
    }
}

/// A seed that differs from run to run, short enough to type again.
fn new_seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let nanos = now.map_or(0, |time| time.as_nanos() as u64);
    (moeflux::sampling::uniform(nanos, u64::from(std::process::id())) * 1e9) as u64
}
