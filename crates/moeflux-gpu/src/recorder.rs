//! Records many dispatches into one submission. Pipelines and bind groups are made once.

mod held;
mod reading;

use std::collections::HashMap;
use std::hash::Hasher;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::GpuError;
use crate::device::{DeviceBuffer, Gpu, IMMEDIATE_BYTES};
use crate::pipeline::{bind, compile};
use crate::profile::Timing;
use crate::quick_hash::{Quick, QuickHash};
use crate::shader::{Param, Shader};
use crate::submitter::{Job, Submitter};
pub(crate) use reading::Reading;

/// A part of a buffer, bound to a kernel.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The buffer.
    pub buffer: &'a DeviceBuffer,
    /// First byte, a multiple of the device's storage alignment (256 suits all).
    pub offset: u64,
    /// Bytes, a multiple of four.
    pub bytes: u64,
}

impl<'a> View<'a> {
    /// The first bytes of a buffer.
    pub fn first(buffer: &'a DeviceBuffer, bytes: u64) -> View<'a> {
        View {
            buffer,
            offset: 0,
            bytes,
        }
    }
}

impl<'a> From<&'a DeviceBuffer> for View<'a> {
    fn from(buffer: &'a DeviceBuffer) -> View<'a> {
        View {
            buffer,
            offset: 0,
            bytes: buffer.bytes(),
        }
    }
}

impl<'a> From<&'a Arc<DeviceBuffer>> for View<'a> {
    fn from(buffer: &'a Arc<DeviceBuffer>) -> View<'a> {
        View::from(&**buffer)
    }
}

/// One run of a kernel.
pub struct Dispatch<'a> {
    /// The kernel.
    pub shader: &'static Shader,
    /// Its parameters.
    pub params: &'a [Param],
    /// What is bound to `@group(0) @binding(0)` and on.
    pub views: &'a [View<'a>],
    /// What `var<immediate>` holds: whole words, at most 32.
    pub immediates: &'a [u32],
    /// Workgroups.
    pub groups: [u32; 3],
}

/// A kernel with its parameters filled in.
struct Kernel {
    name: &'static str,
    params: Vec<Param>,
    pipeline: wgpu::ComputePipeline,
    /// By the bound views: buffer, offset, bytes.
    bindings: HashMap<Vec<(u64, u64, u64)>, wgpu::BindGroup, Quick>,
}

/// Records commands for a device, and submits them together.
pub struct Recorder {
    gpu: Arc<Gpu>,
    /// By a hash of their names and parameters; the next number where two have the same.
    kernels: HashMap<u64, Kernel, Quick>,
    encoder: Option<wgpu::CommandEncoder>,
    pass: Option<wgpu::ComputePass<'static>>,
    /// What results can be read to.
    staging: Vec<wgpu::Buffer>,
    scratch: HashMap<&'static str, Arc<DeviceBuffer>>,
    dispatches: u64,
    /// Dispatches that are submitted together.
    together: u32,
    /// Dispatches since the last submission, and multiply-adds of the long ones among them.
    waiting: u32,
    work: u64,
    timing: Option<Timing>,
    /// Whether what is recorded now waits for what comes between; and whether some of it has not.
    is_held: bool,
    has_slipped: bool,
    /// What has waited, where nobody else keeps it.
    prepared: Option<wgpu::CommandBuffer>,
    /// A thread that submits; none where there are few.
    submitter: Option<Submitter>,
}

/// Multiply-adds after which the device is given what was recorded: some devices are reset when one
/// submission takes them seconds.
pub(crate) const MOST_WORK: u64 = 50_000_000_000;
/// Dispatches of a submission: the device begins with them while the next ones are recorded.
const TOGETHER: u32 = 160;
/// Those of a first submission that the device waits for.
const FIRST: u32 = 8;

impl Recorder {
    /// A recorder for `gpu`.
    pub fn new(gpu: Arc<Gpu>) -> Recorder {
        let submitter = Submitter::new(&gpu);
        Recorder {
            gpu,
            kernels: HashMap::default(),
            encoder: None,
            pass: None,
            staging: Vec::new(),
            is_held: false,
            has_slipped: false,
            prepared: None,
            scratch: HashMap::new(),
            dispatches: 0,
            together: TOGETHER,
            waiting: 0,
            work: 0,
            timing: None,
            submitter,
        }
    }

    /// Begins to time dispatches if the device is told to.
    pub fn begin_times(&mut self) {
        let is_timing = self.gpu.is_timing.load(Ordering::Relaxed);
        self.timing = is_timing.then(|| Timing::new(&self.gpu));
    }

    /// Waits for what was recorded if it is timed.
    ///
    /// # Errors
    /// A lost device.
    pub fn end_times(&mut self) -> Result<(), GpuError> {
        let Some(timing) = self.timing.take() else {
            return Ok(());
        };
        self.submit();
        timing.finish(&self.gpu)
    }

    /// Whether dispatches are timed.
    pub(crate) fn is_timing(&self) -> bool {
        self.timing.is_some()
    }

    /// The device has nothing to do: it is given work soon.
    pub fn hasten(&mut self) {
        self.together = FIRST;
    }

    /// The device.
    pub fn gpu(&self) -> &Arc<Gpu> {
        &self.gpu
    }

    /// Dispatches recorded so far.
    pub fn dispatches(&self) -> u64 {
        self.dispatches
    }

    /// Forgets which buffers were bound, so that those nobody else holds are freed.
    pub fn forget_bindings(&mut self) {
        self.kernels.values_mut().for_each(|k| k.bindings.clear());
    }

    /// Memory of at least `bytes` for what one operation keeps between its kernels.
    ///
    /// # Errors
    /// As [`Gpu::buffer`].
    pub fn scratch(&mut self, op: &'static str, bytes: u64) -> Result<Arc<DeviceBuffer>, GpuError> {
        if let Some(found) = self.scratch.get(op).filter(|s| s.bytes() >= bytes) {
            return Ok(Arc::clone(found));
        }
        // With room to grow, so that it rarely does.
        let larger = bytes + bytes / 2;
        let limit = self.gpu.most_bytes_bound();
        let new = Arc::new(self.gpu.buffer(op, larger.min(limit).max(bytes))?);
        self.scratch.insert(op, Arc::clone(&new));
        Ok(new)
    }

    /// Records a run of a kernel, after all that was recorded before.
    ///
    /// # Errors
    /// A kernel that does not compile, or too large a dispatch.
    pub fn dispatch(&mut self, d: &Dispatch<'_>) -> Result<(), GpuError> {
        let most = self.gpu.limits().max_compute_workgroups_per_dimension;
        if d.groups.contains(&0) {
            return Ok(());
        }
        if d.groups.iter().any(|&g| g > most) || d.immediates.len() * 4 > IMMEDIATE_BYTES as usize {
            let problem = format!("kernel {} over {:?} workgroups", d.shader.name, d.groups);
            return Err(GpuError::Refused { problem });
        }
        let key = self.kernel(d)?;
        self.begin(d);
        let (Some(kernel), Some(pass)) = (self.kernels.get_mut(&key), &mut self.pass) else {
            return Ok(());
        };
        let bound = d.views.iter();
        let bound: Vec<_> = bound.map(|v| (v.buffer.id, v.offset, v.bytes)).collect();
        let device = &self.gpu.device;
        let group = kernel.bindings.entry(bound);
        let group = group.or_insert_with(|| bind(device, &kernel.pipeline, d.views));
        pass.set_pipeline(&kernel.pipeline);
        pass.set_bind_group(0, &*group, &[]);
        if !d.immediates.is_empty() {
            pass.set_immediates(0, bytemuck::cast_slice(d.immediates));
        }
        let [x, y, z] = d.groups;
        pass.dispatch_workgroups(x, y, z);
        self.dispatches += 1;
        self.waiting += 1;
        if self.waiting >= self.together && !self.is_held {
            self.send();
        }
        Ok(())
    }

    /// What was recorded last takes this many multiply-adds: there is a submission after so many.
    pub fn note_work(&mut self, multiply_adds: u64) {
        self.work = self.work.saturating_add(multiply_adds);
        if self.work >= MOST_WORK {
            self.submit();
        }
    }

    /// The key of a kernel, which is made where it is not there yet.
    fn kernel(&mut self, d: &Dispatch<'_>) -> Result<u64, GpuError> {
        let mut hash = QuickHash::default();
        // A name that lies in two places only makes two entries.
        hash.write_usize(d.shader.name.as_ptr() as usize);
        for (name, value) in d.params {
            hash.write_usize(name.as_ptr() as usize);
            hash.write_u32(*value);
        }
        let mut key = hash.finish();
        let same = |a: &Param, b: &Param| a.1 == b.1 && std::ptr::eq(a.0.as_ptr(), b.0.as_ptr());
        while let Some(known) = self.kernels.get(&key) {
            let mut pairs = known.params.iter().zip(d.params);
            if std::ptr::eq(known.name.as_ptr(), d.shader.name.as_ptr())
                && known.params.len() == d.params.len()
                && pairs.all(|(a, b)| same(a, b))
            {
                return Ok(key);
            }
            key = key.wrapping_add(1);
        }
        let known = self.gpu.pipelines.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        let (name, params) = (d.shader.name, d.params.to_vec());
        let whole = (name, params.clone());
        let pipeline = match known.get(&whole) {
            Some(pipeline) => pipeline.clone(),
            None => compile(&self.gpu, d.shader, d.params)?,
        };
        known.insert(whole, pipeline.clone());
        let kernel = Kernel {
            name,
            params,
            pipeline,
            bindings: HashMap::default(),
        };
        self.kernels.insert(key, kernel);
        Ok(key)
    }

    fn begin(&mut self, d: &Dispatch<'_>) {
        if self.timing.is_some() {
            self.pass = None;
        }
        if self.pass.is_some() {
            return;
        }
        let device = &self.gpu.device;
        let encoder = self
            .encoder
            .get_or_insert_with(|| device.create_command_encoder(&Default::default()));
        let timing = self.timing.as_mut();
        let pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
            label: None,
            timestamp_writes: timing.and_then(|t| t.note(d.shader.name, d.groups)),
        });
        self.pass = Some(pass.forget_lifetime());
    }

    /// Copies a part of a buffer to another, after all that was recorded before.
    pub fn copy(&mut self, from: View<'_>, to: &DeviceBuffer, to_offset: u64) {
        self.pass = None;
        let device = &self.gpu.device;
        let encoder = self
            .encoder
            .get_or_insert_with(|| device.create_command_encoder(&Default::default()));
        encoder.copy_buffer_to_buffer(
            &from.buffer.raw,
            from.offset,
            &to.raw,
            to_offset,
            from.bytes,
        );
    }

    /// The same from the host's memory for the way to the device.
    pub(crate) fn copy_host(
        &mut self,
        from: &wgpu::Buffer,
        bytes: u64,
        to: &DeviceBuffer,
        to_offset: u64,
    ) {
        self.pass = None;
        let device = &self.gpu.device;
        let encoder = self
            .encoder
            .get_or_insert_with(|| device.create_command_encoder(&Default::default()));
        encoder.copy_buffer_to_buffer(from, 0, &to.raw, to_offset, bytes);
    }

    /// Has the device begin soon with what was recorded.
    pub(crate) fn send(&mut self) {
        self.pass = None;
        self.work = 0;
        if self.waiting > 0 {
            // By half more each time: the device should not run out of work while the next are recorded.
            let more = self.together + self.together / 2;
            (self.waiting, self.together) = (0, more.min(TOGETHER));
        }
        let Some(encoder) = self.encoder.take() else {
            return;
        };
        self.has_slipped |= self.is_held;
        match &mut self.submitter {
            Some(submitter) => submitter.send(Job::Submit(encoder)),
            None => {
                self.gpu.queue.submit([encoder.finish()]);
            }
        }
    }

    /// Has the device begin with what was recorded.
    pub fn submit(&mut self) {
        self.send();
        if let Some(submitter) = &self.submitter {
            submitter.wait();
        }
    }

    /// Writes bytes into a buffer, after all that was recorded before.
    pub fn write(&mut self, buffer: &DeviceBuffer, offset: u64, bytes: &[u8]) {
        self.submit();
        self.gpu.write(buffer, offset, bytes);
    }
}
