//! `moeflux plan`: what fits in memory, what speed to expect and what limits it, without waiting
//! for an answer to be slow.
//!
//! The machine is measured for a few seconds with the model on it, at the smallest of the budgets;
//! other budgets are computed from that.

mod advice;
mod report;
mod tiers;

use std::path::PathBuf;

use clap::Args;
use moeflux::experts::{PolicyKind, ReaderKind};
use moeflux::kernels::Cpu;
use moeflux::{Activations, Engine, EngineOptions, Isa, KvType, MemoryPlan, ModelInfo};

use self::report::Report;
use crate::device::Device;
use crate::failure::Failure;
use crate::floor::Machine;
use crate::measure::{self, DiskRate};
use crate::predict::{self, DecodeModel, HitModel, PrefillModel};
use crate::{model, output, size};

/// The context that is planned for unless told otherwise.
const CONTEXT_TOKENS: usize = 4096;
/// Prompts whose speed is given.
const PROMPTS: [usize; 3] = [512, 2048, 4096];

/// An answer's first tokens, whose speed a cold start is judged by.
const FIRST_TOKENS: usize = 8;

/// Flags of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// A model's directory or GGUF file, or its name, as for the other commands
    #[arg(short, long, default_value = "demo")]
    model: String,
    /// Bounds of the process's memory to plan for, as 8GiB,16GiB [default: 80 % of what is available]
    #[arg(long, value_name = "SIZE,SIZE,...", value_delimiter = ',', value_parser = size::parse)]
    memory: Vec<u64>,
    /// Tokens of context to plan for [default: 4096, or what the model was made for]
    #[arg(long, value_name = "TOKENS")]
    context: Option<usize>,
    /// Compute threads [default: one per core]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// How activations meet integer weights: int8 (fast) or f32 (the yardstick)
    #[arg(long, default_value = "int8", value_name = "KIND")]
    activations: Activations,
    /// What keys and values are kept as: f16 (half the memory) or f32 (the yardstick)
    #[arg(long, default_value = "f16", value_name = "TYPE",
          value_parser = |name: &str| name.parse::<KvType>())]
    kv: KvType,
    /// How experts are read, as for the other commands
    #[arg(long, default_value = "auto", value_name = "KIND",
          value_parser = |name: &str| name.parse::<ReaderKind>())]
    reader: ReaderKind,
    /// Which expert makes room for another, as for the other commands
    #[arg(long, default_value = "frequency", value_name = "KIND",
          value_parser = |name: &str| name.parse::<PolicyKind>())]
    policy: PolicyKind,
    /// Take the experts that are used from this file, written by --trace of another run, instead of
    /// any as often as another
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Where operations run: cpu, gpu, gpu:N or auto, as for the other commands
    #[arg(long, default_value = "cpu", value_name = "DEVICE",
          value_parser = |name: &str| name.parse::<Device>())]
    device: Device,
    /// Memory of the graphics processor for experts, as for the other commands
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    gpu_memory: Option<u64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// What a bound of memory gives.
struct Budget {
    memory: MemoryPlan,
    /// State of a session of the whole context.
    state_bytes: u64,
    /// Places for experts beside that.
    slots: u64,
}

/// What was measured, and what follows from it for any budget.
struct Outlook<'a> {
    info: &'a ModelInfo,
    disk: &'a DiskRate,
    decode: DecodeModel,
    hits: HitModel,
    prefill: PrefillModel<'a>,
    /// More for each token at the middle of the context: keys and values to read.
    context_seconds: f64,
}

/// Tokens a second.
struct Speeds {
    hit_rate: f64,
    cold: f64,
    warm: f64,
    best: f64,
}

/// Runs the command.
pub fn run(args: &PlanArgs) -> Result<(), Failure> {
    let device = match args.checked_device()? {
        Device::Cpu => None,
        device => Some(tiers::open(args, device)?),
    };
    let path = model::find(&args.model)?;
    let info = moeflux::inspect(&path)?;
    let context = args
        .context
        .unwrap_or(CONTEXT_TOKENS.min(info.context_tokens));
    let memory_args = match args.memory.is_empty() {
        true => vec![None],
        false => args.memory.iter().copied().map(Some).collect(),
    };
    let mut plans = Vec::with_capacity(memory_args.len());
    for &memory in &memory_args {
        plans.push(MemoryPlan::of(&path, &args.options(memory)));
    }
    let workable = plans.iter().flatten();
    let Some(smallest) = workable.map(|plan| plan.limit_bytes).min() else {
        return plans
            .into_iter()
            .find_map(Result::err)
            .map_or(Ok(()), |e| Err(e.into()));
    };
    // Larger bounds than the machine has are planned for, not tried.
    let here = moeflux::memory::System::default().default_limit();
    let tried = args.options(Some(smallest.min(here)));
    let hits = match &args.trace {
        None => HitModel::Uniform,
        Some(file) => HitModel::of_trace(file, &info, args.policy)?,
    };
    if let Some(device) = device {
        let plans = memory_args.into_iter().zip(plans).collect();
        let measured = (hits, context, smallest.min(here));
        return tiers::run(args, device, &path, measured, plans);
    }
    let count = args.threads.unwrap_or_else(cores).clamp(1, 1024);
    let mut machine = machine(count, smallest.min(here))?;
    let engine = output::with_spinner("loading the model", || Engine::open(&path, &tried))?;
    machine.kernels = engine.kernel_rates()?;
    let decode = output::with_spinner("measuring", || predict::measure(&engine))?;
    let disk = measure::disk(&path, args.reader)?;
    let outlook = Outlook {
        info: engine.info(),
        disk: &disk,
        decode,
        hits,
        prefill: PrefillModel {
            engine: &engine,
            machine: &machine,
            disk_rate: disk.bytes_per_second,
        },
        context_seconds: context_seconds(&engine, &machine, context),
    };
    let budgets = plans
        .into_iter()
        .zip(memory_args)
        .map(|(plan, given)| match plan {
            Ok(plan) => Ok(Budget::new(plan, engine.info(), context)),
            Err(problem) => Err(Box::new((given, problem))),
        });
    let report = Report {
        name: model::name(&path),
        context,
        budgets: budgets.collect(),
        machine: &machine,
        outlook: &outlook,
        note: engine.stats().locked.note(),
    };
    match args.json {
        true => output::json(&report.json()),
        false => output::line(&report.text()),
    }
}

impl PlanArgs {
    /// The device, and that no flag is for another.
    fn checked_device(&self) -> Result<Device, Failure> {
        let device = self.device.resolved();
        let is_cpu = device == Device::Cpu;
        let is_f32 = self.activations != Activations::default();
        let wrong = match is_cpu {
            true if self.device == Device::Cpu && self.gpu_memory.is_some() => {
                Some("--gpu-memory needs --device gpu or auto")
            }
            false if self.threads.is_some() => {
                Some("--threads is for the processor; leave it out with --device gpu")
            }
            false if is_f32 => {
                Some("--activations f32 is for the processor; leave it out with --device gpu")
            }
            _ => None,
        };
        match wrong {
            Some(words) => Err(Failure::Usage(words.to_owned())),
            None => Ok(device),
        }
    }

    fn options(&self, memory_bytes: Option<u64>) -> EngineOptions {
        EngineOptions {
            memory_bytes,
            threads: self.threads,
            activations: self.activations,
            kv: self.kv,
            reader: self.reader.into(),
            policy: self.policy,
            max_context: self.context,
            ..EngineOptions::default()
        }
    }
}

impl Budget {
    fn new(memory: MemoryPlan, info: &ModelInfo, context: usize) -> Budget {
        let page = moeflux::kernels::KV_PAGE_TOKENS;
        let pages = context.div_ceil(page).saturating_sub(1);
        let state_bytes = memory.state_bytes + (pages * page) as u64 * info.token_state_bytes;
        Budget {
            slots: memory.arena_beside(state_bytes) / memory.slot_bytes.max(1),
            state_bytes,
            memory,
        }
    }
}

impl Outlook<'_> {
    /// What to expect with `slots` places for experts.
    fn speeds(&self, slots: u64) -> Speeds {
        let hit_rate = self.hits.rate(slots, self.info.expert_records as u64);
        let rate = |miss: f64| 1.0 / (self.decode.seconds(miss) + self.context_seconds);
        Speeds {
            hit_rate,
            cold: self.decode.cold_rate(FIRST_TOKENS, hit_rate),
            warm: rate(1.0 - hit_rate),
            best: rate(0.0),
        }
    }
}

/// What the machine can do, but for its kernels.
fn machine(threads: usize, memory_bytes: u64) -> Result<Machine, Failure> {
    let cpu = Cpu::new(Isa::detect(), threads).map_err(moeflux::Error::from)?;
    Ok(Machine {
        memory: measure::memory(threads, Some(memory_bytes))?,
        float_multiply_adds_per_second: cpu.fused_multiply_adds_per_second(),
        kernels: Vec::new(),
        transfer: None,
    })
}

/// Seconds that the keys and values of half a context take to be read.
fn context_seconds(engine: &Engine, machine: &Machine, context: usize) -> f64 {
    let bytes = engine.info().token_state_bytes as f64 * context as f64 / 2.0;
    bytes / machine.memory.median
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
