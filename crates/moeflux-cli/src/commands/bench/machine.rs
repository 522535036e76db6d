//! What the machine can do at best, where a test runs.

use moeflux::kernels::Cpu;
use moeflux::{Engine, Isa, KernelRate};

use crate::args::ModelArgs;
use crate::device::{self, Device};
use crate::failure::Failure;
use crate::floor::Machine;

/// Measures the processor with `args.threads` threads (default: one a core) but for its matrix
/// kernels, which need an engine, or the device.
pub fn measure(args: &ModelArgs) -> Result<Machine, Failure> {
    let device = args.device.resolved();
    if device != Device::Cpu {
        return Ok(Machine::of_device(device::rates(device)?));
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.unwrap_or(cores).clamp(1, 1024);
    let isa = args.isa.unwrap_or_else(Isa::detect);
    let memory = crate::measure::memory(threads, args.memory)?;
    let cpu = Cpu::new(isa, threads).map_err(moeflux::Error::from)?;
    Ok(Machine {
        memory,
        float_multiply_adds_per_second: cpu.fused_multiply_adds_per_second(),
        kernels: Vec::new(),
        transfer: None,
    })
}

/// Rates of the processor's kernels; a device's products were measured with its memory.
pub fn kernel_rates(engine: &Engine) -> Result<Vec<KernelRate>, Failure> {
    match engine.stats().tier {
        Some(_) => Ok(Vec::new()),
        None => Ok(engine.kernel_rates()?),
    }
}
