//! `--device`: where operations run.

use std::str::FromStr;

use moeflux::{Activations, EngineOptions, Lookahead};

use crate::args::ModelArgs;
use crate::failure::Failure;
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

/// Has the engine run where the flags say.
pub fn place(options: &mut EngineOptions, args: &ModelArgs) -> Result<(), Failure> {
    let device = match args.device {
        Device::Auto => automatic(),
        device => device,
    };
    if device == Device::Cpu {
        return match (args.device, args.gpu_memory) {
            (Device::Cpu, Some(_)) => Err(Failure::Usage(
                "--gpu-memory needs --device gpu or auto".to_owned(),
            )),
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
    on_gpu(options, device, args)
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
fn on_gpu(options: &mut EngineOptions, device: Device, args: &ModelArgs) -> Result<(), Failure> {
    use moeflux_gpu::{DeviceChoice, Gpu, GpuBackend, GpuOptions};

    let choice = match device {
        Device::Gpu(Some(number)) => DeviceChoice::Number(number),
        _ => DeviceChoice::Any,
    };
    let gpu = Gpu::open(choice).map_err(moeflux::Error::from)?;
    let limits = GpuOptions {
        expert_bytes: args.gpu_memory,
    };
    // What devices compute with, and so what is printed and what kept state is known by.
    options.activations = Activations::F32;
    options.backend = Some(std::sync::Arc::new(move || {
        Ok(Box::new(GpuBackend::new(gpu.clone(), limits)))
    }));
    Ok(())
}

#[cfg(not(feature = "gpu"))]
fn automatic() -> Device {
    output::note("built without the feature `gpu`: running on the processor");
    Device::Cpu
}

#[cfg(not(feature = "gpu"))]
fn on_gpu(_: &mut EngineOptions, _: Device, _: &ModelArgs) -> Result<(), Failure> {
    Err(Failure::Usage(
        "built without the feature `gpu`; build with it, or use --device cpu".to_owned(),
    ))
}

/// The exit code of what a device reported, as `moeflux --help` lists it; `None` of another's error.
#[cfg(feature = "gpu")]
pub fn fault_class(error: &(dyn std::error::Error + 'static)) -> Option<FaultClass> {
    use moeflux_gpu::GpuError;
    Some(match error.downcast_ref()? {
        GpuError::NoAdapter { .. }
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
