//! The adapters of this machine, and which one to use.

use wgpu::{Adapter, Backends, DeviceType, Instance, InstanceDescriptor};

use crate::GpuError;

/// Which device to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best graphics processor; software does not count as one.
    Auto,
    /// The best there is, software included.
    Any,
    /// The one of that number in [`adapters`].
    Number(usize),
}

/// An adapter, for people.
#[derive(Clone, Debug)]
pub struct AdapterLine {
    /// Its name.
    pub name: String,
    /// Vulkan, Metal or DX12.
    pub api: String,
    /// The driver and its version.
    pub driver: String,
    /// Whether it is the processor in disguise.
    pub is_software: bool,
}

pub(crate) fn line(adapter: &Adapter) -> AdapterLine {
    let info = adapter.get_info();
    AdapterLine {
        name: info.name,
        api: info.backend.to_string(),
        driver: format!("{} {}", info.driver, info.driver_info)
            .trim()
            .to_owned(),
        is_software: info.device_type == DeviceType::Cpu,
    }
}

/// The adapters of this machine, the best first.
fn found() -> Vec<Adapter> {
    let instance = Instance::new(InstanceDescriptor {
        backends: Backends::PRIMARY,
        ..InstanceDescriptor::new_without_display_handle()
    });
    let mut all = pollster::block_on(instance.enumerate_adapters(Backends::PRIMARY));
    all.sort_by_key(|adapter| match adapter.get_info().device_type {
        DeviceType::DiscreteGpu => 0,
        DeviceType::IntegratedGpu => 1,
        DeviceType::VirtualGpu => 2,
        DeviceType::Other => 3,
        DeviceType::Cpu => 4,
    });
    all
}

/// The adapters of this machine, the best first.
pub fn adapters() -> Vec<AdapterLine> {
    found().iter().map(line).collect()
}

pub(crate) fn choose(choice: DeviceChoice) -> Result<Adapter, GpuError> {
    let mut all = found().into_iter();
    let adapter = match choice {
        DeviceChoice::Auto => all.find(|a| !line(a).is_software),
        DeviceChoice::Any => all.next(),
        DeviceChoice::Number(n) => all.nth(n),
    };
    adapter.ok_or_else(|| GpuError::NoAdapter {
        looked_for: match choice {
            DeviceChoice::Number(n) => format!("number {n}"),
            _ => "of Vulkan, Metal or DX12".to_owned(),
        },
    })
}
