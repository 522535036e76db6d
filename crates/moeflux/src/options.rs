//! What a caller may choose when a model is opened. No choice here changes the answer except
//! [`Activations`] and [`KvType`], which are named in every report.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use moeflux_experts::{PolicyKind, ReaderChoice, ReaderKind};
use moeflux_kernels::{Cpu, Isa, KvType};

use crate::Error;
use crate::backend::{Backend, HostBackend, Reference};
use crate::info::ModelInfo;
use crate::memory::System;

/// How activations meet integer-coded weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Activations {
    /// Rounded to 8 bits per token and group, so that dot products are exact integers.
    #[default]
    Int8,
    /// Kept in f32; slower, and the yardstick for [`Activations::Int8`].
    F32,
}

impl fmt::Display for Activations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Activations::Int8 => "int8",
            Activations::F32 => "f32",
        })
    }
}

impl FromStr for Activations {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "int8" => Ok(Activations::Int8),
            "f32" => Ok(Activations::F32),
            _ => Err(format!("`{s}` is not one of int8, f32")),
        }
    }
}

/// Whether the next layer's experts are guessed and read while the disk has nothing else to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lookahead {
    /// While the clock says that it helps.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never.
    Off,
}

impl fmt::Display for Lookahead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lookahead::Auto => "auto",
            Lookahead::On => "on",
            Lookahead::Off => "off",
        })
    }
}

impl FromStr for Lookahead {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "auto" => Ok(Lookahead::Auto),
            "on" => Ok(Lookahead::On),
            "off" => Ok(Lookahead::Off),
            _ => Err(format!("`{s}` is not one of auto, on, off")),
        }
    }
}

/// Options of [`Engine::open`](crate::Engine::open). The defaults suit a machine of one's own.
#[derive(Clone)]
pub struct EngineOptions {
    /// Bound of the process's resident memory; default 80 % of what is available.
    pub memory_bytes: Option<u64>,
    /// Size of the expert arena, instead of what the memory bound leaves for it.
    pub expert_cache_bytes: Option<u64>,
    /// Compute threads; default one per core available to the process.
    pub threads: Option<usize>,
    /// Instruction set; default the best that the processor has.
    pub isa: Option<Isa>,
    /// How activations meet integer-coded weights.
    pub activations: Activations,
    /// What keys and values are kept as.
    pub kv: KvType,
    /// How expert bytes are read.
    pub reader: ReaderChoice,
    /// Measure at the first use of a disk how it reads best, about a second, and remember it.
    pub measure_disk: bool,
    /// Which expert makes room for another.
    pub policy: PolicyKind,
    /// Whether experts are guessed a layer ahead.
    pub lookahead: Lookahead,
    /// The most tokens in one step; default up to 4,096, as many as an eighth of the memory bound
    /// can hold.
    pub chunk_tokens: Option<usize>,
    /// The most tokens in a session; default what the model was made for.
    pub max_context: Option<usize>,
    /// Check each expert record against its checksum when it is first read.
    pub verify: bool,
    /// Keep the system from swapping resident weights out, where it allows that.
    pub lock_weights: bool,
    /// Where the system tells how much memory there is.
    pub system: System,
    /// Read the experts that were used most by earlier processes before anybody asks, and write
    /// down what this one used; off unless asked for, since it leaves a file beside the model.
    pub warm_start: bool,
    /// Record which experts are used in this file.
    pub trace: Option<PathBuf>,
    /// Run on the plain reference kernels instead of the optimized ones.
    pub reference: bool,
    /// Makes what runs the operations, instead of the processor.
    pub backend: Option<MakeBackend>,
}

/// Makes a backend when a model is opened.
pub type MakeBackend = Arc<dyn Fn() -> Result<Box<dyn Backend>, Error> + Send + Sync>;

impl Default for EngineOptions {
    fn default() -> Self {
        EngineOptions {
            memory_bytes: None,
            expert_cache_bytes: None,
            threads: None,
            isa: None,
            activations: Activations::default(),
            kv: KvType::default(),
            reader: ReaderChoice::Kind(ReaderKind::Auto),
            measure_disk: true,
            policy: PolicyKind::default(),
            lookahead: Lookahead::default(),
            chunk_tokens: None,
            max_context: None,
            verify: true,
            lock_weights: true,
            system: System::default(),
            warm_start: false,
            trace: None,
            reference: false,
            backend: None,
        }
    }
}

impl EngineOptions {
    /// What runs the operations.
    pub(crate) fn backend(&self, isa: Isa, threads: usize) -> Result<Box<dyn Backend>, Error> {
        if let Some(make) = &self.backend {
            return make();
        }
        if self.reference {
            return Ok(Box::new(HostBackend::new(Reference, self.activations)));
        }
        let cpu = Cpu::new(isa, threads).map_err(|e| Error::Option {
            flag: "--isa",
            problem: e.to_string(),
        })?;
        Ok(Box::new(HostBackend::new(cpu, self.activations)))
    }

    /// The most tokens in a session.
    pub(crate) fn context_tokens(&self, info: &ModelInfo) -> Result<usize, Error> {
        let most = info.context_tokens;
        match self.max_context {
            None => Ok(most),
            Some(n) if (1..=most).contains(&n) => Ok(n),
            Some(n) => Err(Error::Option {
                flag: "--context",
                problem: format!("{n} is not between 1 and the model's {most}"),
            }),
        }
    }

    /// Compute threads.
    pub(crate) fn thread_count(&self) -> Result<usize, Error> {
        const MOST: usize = 1024;
        match self.threads {
            None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
            Some(n) if (1..=MOST).contains(&n) => Ok(n),
            Some(n) => Err(Error::Option {
                flag: "--threads",
                problem: format!("{n} is not between 1 and {MOST}"),
            }),
        }
    }
}
