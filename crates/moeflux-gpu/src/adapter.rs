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

/// The largest square that the adapter's matrix unit multiplies, where subgroups are of 32 threads
/// as the kernels for it take them to be.
pub(crate) fn matrix_unit(adapter: &Adapter, info: &wgpu::AdapterInfo) -> Option<u32> {
    use wgpu::CooperativeScalarType::{F16, F32};
    use wgpu::Features;
    let needed =
        Features::EXPERIMENTAL_COOPERATIVE_MATRIX | Features::SHADER_F16 | Features::SUBGROUP;
    let of_32 = (info.subgroup_min_size, info.subgroup_max_size) == (32, 32);
    let is_metal = info.backend == wgpu::Backend::Metal;
    if !adapter.features().contains(needed) || !(of_32 || is_metal) {
        return None;
    }
    let known = adapter.cooperative_matrix_properties();
    let has = |size: u32| {
        known.iter().any(|p| {
            (p.m_size, p.n_size, p.k_size) == (size, size, size)
                && (p.ab_type, p.cr_type) == (F16, F32)
        })
    };
    // Metal's language has squares of 8 only.
    let sizes: &[u32] = if is_metal { &[8] } else { &[16, 8] };
    sizes.iter().copied().find(|&size| has(size))
}

/// Leave for experimental features, if they are wanted.
pub(crate) fn experimental(wanted: bool) -> wgpu::ExperimentalFeatures {
    if !wanted {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: what is used of them is products of matrices in workgroup memory, at places that the
    // kernels keep inside their arrays.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}
