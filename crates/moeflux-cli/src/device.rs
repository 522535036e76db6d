//! `--device`: where operations run.

use std::str::FromStr;
use std::sync::OnceLock;

use moeflux::{Activations, EngineOptions, Lookahead};

use crate::args::ModelArgs;
use crate::failure::Failure;
use crate::floor::DeviceRates;
use crate::output;

/// Where operations run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Device {
    /// On the processor.
    #[default]
    Cpu,
    /// On a graphics processor where there is one.
    Auto,
    /// On the best adapter, or on that of this number in `moeflux devices`.
    Gpu(Option<usize>),
}

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Device, String> {
        let unknown = || format!("there is no device `{name}`; known: cpu, auto, gpu, gpu:N");
        match name {
            "cpu" => Ok(Device::Cpu),
            "auto" => Ok(Device::Auto),
            "gpu" => Ok(Device::Gpu(None)),
            _ => {
                let number = name.strip_prefix("gpu:").ok_or_else(unknown)?;
                number
                    .parse()
                    .map(|n| Device::Gpu(Some(n)))
                    .map_err(|_| unknown())
            }
        }
    }
}

/// Whether the processor computes experts beside a graphics processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum CpuExperts {
    /// No.
    Off,
    /// Where the device has the processor's bits.
    Auto,
    /// Yes.
    On,
}

/// How a graphics processor is used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// Its memory for experts.
    pub memory: Option<u64>,
    /// Whether the processor computes experts beside it.
    pub cpu_experts: Option<CpuExperts>,
}

/// What `auto` is, when that has been found out and told.
static AUTOMATIC: OnceLock<Device> = OnceLock::new();

impl Device {
    /// The device itself: never `auto`.
    pub fn resolved(self) -> Device {
        match self {
            Device::Auto => *AUTOMATIC.get_or_init(automatic),
            device => device,
        }
    }
}

/// Has the engine run where the flags say.
pub fn place(options: &mut EngineOptions, args: &ModelArgs) -> Result<(), Failure> {
    let device = args.device.resolved();
    if device == Device::Cpu {
        let flags = [
            ("--gpu-memory", args.gpu_memory.is_some()),
            ("--cpu-experts", args.cpu_experts.is_some()),
        ];
        let given = flags.into_iter().find(|(_, is_given)| *is_given);
        return match (args.device, given) {
            (Device::Cpu, Some((flag, _))) => {
                Err(Failure::Usage(format!("{flag} needs --device gpu or auto")))
            }
            _ => Ok(()),
        };
    }
    for (flag, is_given) in [
        ("--threads", args.threads.is_some()),
        ("--isa", args.isa.is_some()),
        // What is chosen among experts that are all on the device does not come to the host.
        ("--trace", args.trace.is_some()),
        ("--lookahead on", args.lookahead == Lookahead::On),
        (
            "--activations f32",
            args.activations != Activations::default(),
        ),
    ] {
        if is_given {
            return Err(Failure::Usage(format!(
                "{flag} is for the processor; leave it out with --device gpu"
            )));
        }
    }
    let limits = Limits {
        memory: args.gpu_memory,
        cpu_experts: args.cpu_experts,
    };
    on_gpu(options, device, limits).map(|_| ())
}

#[cfg(feature = "gpu")]
fn automatic() -> Device {
    let is_real = |adapter: &moeflux_gpu::AdapterLine| !adapter.is_software;
    match moeflux_gpu::adapters().iter().position(is_real) {
        Some(number) => Device::Gpu(Some(number)),
        None => {
            output::note("no graphics processor was found: running on the processor");
            Device::Cpu
        }
    }
}

#[cfg(feature = "gpu")]
fn open(device: Device) -> Result<std::sync::Arc<moeflux_gpu::Gpu>, Failure> {
    use moeflux_gpu::{DeviceChoice, Gpu};

    let choice = match device {
        Device::Gpu(Some(number)) => DeviceChoice::Number(number),
        _ => DeviceChoice::Any,
    };
    Ok(Gpu::open(choice).map_err(moeflux::Error::from)?)
}

/// Measures a graphics processor for about a second.
#[cfg(feature = "gpu")]
pub fn rates(device: Device) -> Result<DeviceRates, Failure> {
    let rates = moeflux_gpu::rates(&open(device)?).map_err(moeflux::Error::from)?;
    Ok(DeviceRates {
        memory_bytes_per_second: rates.memory_bytes_per_second,
        multiply_adds_per_second: rates.multiply_adds_per_second,
        transfer_bytes_per_second: rates.transfer_bytes_per_second,
    })
}

/// Has the engine run on a graphics processor; gives its name.
#[cfg(feature = "gpu")]
pub fn on_gpu(
    options: &mut EngineOptions,
    device: Device,
    given: Limits,
) -> Result<String, Failure> {
    use moeflux_gpu::{GpuBackend, GpuOptions};

    let gpu = open(device)?;
    let cpu_experts = match given.cpu_experts.unwrap_or(CpuExperts::Off) {
        CpuExperts::Off => moeflux_gpu::CpuExperts::Off,
        CpuExperts::Auto => moeflux_gpu::CpuExperts::Auto,
        CpuExperts::On => moeflux_gpu::CpuExperts::On,
    };
    let limits = GpuOptions {
        expert_bytes: given.memory,
        cpu_experts,
    };
    if cpu_experts != moeflux_gpu::CpuExperts::Off {
        let agree = moeflux_gpu::exactness::usual_experts_agree(&gpu);
        if let Some(words) = what_differs(cpu_experts, agree.map_err(moeflux::Error::from)?) {
            output::note(words);
        }
    }
    let name = gpu.line().name.clone();
    // What devices compute with, and so what is printed and what kept state is known by.
    options.activations = Activations::F32;
    options.backend = Some(std::sync::Arc::new(move || {
        Ok(Box::new(GpuBackend::new(gpu.clone(), limits)))
    }));
    Ok(name)
}

/// What a user should know of a device whose experts agree with the processor's to the bit, or not.
#[cfg(feature = "gpu")]
fn what_differs(when: moeflux_gpu::CpuExperts, agree: bool) -> Option<&'static str> {
    match (when, agree) {
        (moeflux_gpu::CpuExperts::On, false) => Some(
            "this device does not have the processor's bits: answers may differ by where experts \
             are computed",
        ),
        (moeflux_gpu::CpuExperts::Auto, false) => Some(
            "this device does not have the processor's bits: the processor computes no experts \
             (--cpu-experts on has it do so)",
        ),
        _ => None,
    }
}

#[cfg(not(feature = "gpu"))]
fn automatic() -> Device {
    output::note("built without the feature `gpu`: running on the processor");
    Device::Cpu
}

/// The same without devices.
#[cfg(not(feature = "gpu"))]
pub fn on_gpu(_: &mut EngineOptions, _: Device, _: Limits) -> Result<String, Failure> {
    Err(no_devices())
}

/// The same without devices.
#[cfg(not(feature = "gpu"))]
pub fn rates(_: Device) -> Result<DeviceRates, Failure> {
    Err(no_devices())
}

#[cfg(not(feature = "gpu"))]
fn no_devices() -> Failure {
    Failure::Usage("built without the feature `gpu`; build with it, or use --device cpu".to_owned())
}

/// The exit code of what a device reported, as `moeflux --help` lists it; `None` of another's error.
#[cfg(feature = "gpu")]
pub fn fault_class(error: &(dyn std::error::Error + 'static)) -> Option<FaultClass> {
    use moeflux_gpu::GpuError;
    Some(match error.downcast_ref()? {
        GpuError::NoAdapter { .. }
        | GpuError::CpuExperts { .. }
        | GpuError::Lacks { .. }
        | GpuError::Open { .. }
        | GpuError::TooLarge { .. }
        | GpuError::Unsupported { .. } => FaultClass::Unusable,
        GpuError::OutOfMemory { .. } | GpuError::Budget { .. } => FaultClass::Memory,
        GpuError::Lost { .. } | GpuError::Wrong { .. } => FaultClass::Machine,
        _ => return None,
    })
}

/// The same without devices.
#[cfg(not(feature = "gpu"))]
pub fn fault_class(_: &(dyn std::error::Error + 'static)) -> Option<FaultClass> {
    None
}

/// What a device's error is about.
pub enum FaultClass {
    /// A device that cannot be used so.
    #[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "there is no device"))]
    Unusable,
    /// Memory that is not there.
    #[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "there is no device"))]
    Memory,
    /// A device that failed.
    #[cfg_attr(not(feature = "gpu"), allow(dead_code, reason = "there is no device"))]
    Machine,
}

#[cfg(all(test, feature = "gpu"))]
mod tests {
    use super::*;
    use moeflux_gpu::CpuExperts::{Auto, Off, On};

    #[test]
    fn a_device_without_the_processors_bits_is_spoken_of() {
        let words = |when| what_differs(when, false).unwrap_or_default();
        assert!(words(On).contains("may differ"));
        assert!(words(Auto).contains("--cpu-experts on"));
        for (when, agree) in [(Off, false), (Off, true), (On, true), (Auto, true)] {
            assert_eq!(what_differs(when, agree), None);
        }
    }
}
