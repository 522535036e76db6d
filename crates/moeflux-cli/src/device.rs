//! `--device`: where operations run.

use std::str::FromStr;

use moeflux::{Activations, EngineOptions};

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
    on_gpu(options, device, args.gpu_memory)
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
fn on_gpu(
    options: &mut EngineOptions,
    device: Device,
    expert_bytes: Option<u64>,
) -> Result<(), Failure> {
    use moeflux_gpu::{DeviceChoice, Gpu, GpuBackend, GpuOptions};

    let choice = match device {
        Device::Gpu(Some(number)) => DeviceChoice::Number(number),
        _ => DeviceChoice::Any,
    };
    let gpu = Gpu::open(choice).map_err(moeflux::Error::from)?;
    let limits = GpuOptions { expert_bytes };
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
fn on_gpu(_: &mut EngineOptions, _: Device, _: Option<u64>) -> Result<(), Failure> {
    Err(Failure::Usage(
        "built without the feature `gpu`; build with it, or use --device cpu".to_owned(),
    ))
}
