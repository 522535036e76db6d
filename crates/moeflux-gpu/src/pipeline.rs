//! Kernels compiled for a device, and what is bound to them.

use crate::recorder::View;
use crate::shader::{Param, Shader};
use crate::{Gpu, GpuError};

/// Compiles a kernel with its parameters filled in.
///
/// # Errors
/// What the driver says.
pub(crate) fn compile(
    gpu: &Gpu,
    shader: &Shader,
    params: &[Param],
) -> Result<wgpu::ComputePipeline, GpuError> {
    let text = shader.text(params)?;
    let descriptor = wgpu::ShaderModuleDescriptor {
        label: Some(shader.name),
        source: wgpu::ShaderSource::Wgsl(text.into()),
    };
    // SAFETY: the kernels' loops end and their accesses stay inside the buffers bound to them,
    // whose sizes each op checks before it dispatches.
    let module = unsafe {
        gpu.device
            .create_shader_module_trusted(descriptor, wgpu::ShaderRuntimeChecks::unchecked())
    };
    let pipeline = gpu
        .device
        .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(shader.name),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: false,
                ..Default::default()
            },
            cache: None,
        });
    gpu.check()?;
    Ok(pipeline)
}

/// Binds views to a kernel.
pub(crate) fn bind(
    device: &wgpu::Device,
    pipeline: &wgpu::ComputePipeline,
    views: &[View<'_>],
) -> wgpu::BindGroup {
    let entries: Vec<_> = views
        .iter()
        .enumerate()
        .map(|(binding, view)| wgpu::BindGroupEntry {
            binding: binding as u32,
            resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                buffer: &view.buffer.raw,
                offset: view.offset,
                size: std::num::NonZeroU64::new(view.bytes),
            }),
        })
        .collect();
    device.create_bind_group(&wgpu::BindGroupDescriptor {
        label: None,
        layout: &pipeline.get_bind_group_layout(0),
        entries: &entries,
    })
}
