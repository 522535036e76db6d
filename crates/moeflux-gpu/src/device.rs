//! A device: which one, what it can do, its memory, and what went wrong with it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use wgpu::{Features, Limits};

use crate::adapter::{self, AdapterLine, DeviceChoice};
use crate::faults::{Fault, Faults, listen};
use crate::profile::DispatchTime;
use crate::tier::TierCounts;
use crate::{GpuError, Param};

/// Bytes of immediates that every kernel may use.
pub const IMMEDIATE_BYTES: u32 = 128;

/// An open device. Shared by the backend and by the state that sessions keep on it.
pub struct Gpu {
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    limits: Limits,
    features: Features,
    line: AdapterLine,
    subgroup: (u32, u32),
    matrix_unit: Option<u32>,
    faults: Arc<Faults>,
    next_id: AtomicU64,
    bytes: Arc<AtomicU64>,
    /// The most bytes that buffers may take.
    most_bytes: AtomicU64,
    /// What its memory for experts has done.
    pub(crate) tier: TierCounts,
    /// Kernels that were compiled once.
    pub(crate) pipelines: Mutex<Pipelines>,
    /// Steps that had begun before their token was known to the host.
    pub(crate) steps_ahead: AtomicU64,
    /// Nanoseconds of waiting for results.
    pub(crate) waited: AtomicU64,
    /// Whether its multiply-add is rounded once, when that has been found out.
    pub(crate) fma: OnceLock<bool>,
    pub(crate) is_timing: AtomicBool,
    pub(crate) times: Mutex<Vec<DispatchTime>>,
}

/// Compiled kernels, by name and parameters.
pub(crate) type Pipelines = HashMap<(&'static str, Vec<Param>), wgpu::ComputePipeline>;

/// Memory on the device.
pub struct DeviceBuffer {
    pub(crate) raw: wgpu::Buffer,
    pub(crate) id: u64,
    bytes: u64,
    total: Arc<AtomicU64>,
}

impl std::fmt::Debug for DeviceBuffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceBuffer({} bytes)", self.bytes)
    }
}

impl DeviceBuffer {
    /// Its size, a multiple of four.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Gpu {
    /// Opens a device with all that it offers of what the kernels can use.
    ///
    /// # Errors
    /// No such adapter, one that lacks what the kernels need, or a driver that refuses.
    pub fn open(choice: DeviceChoice) -> Result<Arc<Gpu>, GpuError> {
        let adapter = adapter::choose(choice)?;
        let line = adapter::line(&adapter);
        let info = adapter.get_info();
        let matrix_unit = adapter::matrix_unit(&adapter, &info);
        let mut wanted = Features::IMMEDIATES
            | Features::SUBGROUP
            | Features::TIMESTAMP_QUERY
            | Features::SHADER_F16;
        if matrix_unit.is_some() {
            wanted |= Features::EXPERIMENTAL_COOPERATIVE_MATRIX;
        }
        let features = adapter.features() & wanted;
        if !features.contains(Features::IMMEDIATES) {
            return Err(GpuError::Lacks {
                adapter: line.name,
                feature: "immediates (push constants)".to_owned(),
            });
        }
        let limits = Limits {
            max_immediate_size: IMMEDIATE_BYTES,
            ..adapter.limits()
        };
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("moeflux"),
            required_features: features,
            required_limits: limits.clone(),
            experimental_features: adapter::experimental(matrix_unit.is_some()),
            ..Default::default()
        };
        let (device, queue) =
            pollster::block_on(adapter.request_device(&descriptor)).map_err(|e| {
                GpuError::Open {
                    adapter: line.name.clone(),
                    problem: e.to_string(),
                }
            })?;
        let faults = Arc::new(Faults::default());
        listen(&device, &faults);
        Ok(Arc::new(Gpu {
            device,
            queue,
            limits,
            features,
            line,
            subgroup: (info.subgroup_min_size, info.subgroup_max_size),
            matrix_unit,
            faults,
            next_id: AtomicU64::new(0),
            bytes: Arc::new(AtomicU64::new(0)),
            most_bytes: AtomicU64::new(u64::MAX),
            tier: TierCounts::default(),
            pipelines: Mutex::default(),
            steps_ahead: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            fma: OnceLock::new(),
            is_timing: AtomicBool::new(false),
            times: Mutex::default(),
        }))
    }

    /// The adapter.
    pub fn line(&self) -> &AdapterLine {
        &self.line
    }

    /// The smallest and the largest subgroup; `None` where kernels cannot use subgroups.
    pub fn subgroup_sizes(&self) -> Option<(u32, u32)> {
        self.features
            .contains(Features::SUBGROUP)
            .then_some(self.subgroup)
    }

    /// Whether so many neighbouring threads of a workgroup (a power of two) are of one subgroup, so
    /// that they can exchange values without memory.
    pub fn shares_lanes(&self, threads: u32) -> bool {
        // Metal says what a subgroup could be at least, and has 32 everywhere.
        let is_metal = self.line.api == wgpu::Backend::Metal.to_string();
        let least = if is_metal { 32 } else { self.subgroup.0 };
        self.subgroup_sizes().is_some() && least >= threads
    }

    /// Size of the squares that the device's matrix unit multiplies, binary16 with sums in f32;
    /// `None` where kernels cannot use one.
    pub fn matrix_unit(&self) -> Option<u32> {
        self.matrix_unit
    }

    /// Whether kernels can compute in binary16.
    pub fn has_halves(&self) -> bool {
        self.features.contains(Features::SHADER_F16)
    }

    /// The device's limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The largest buffer that a kernel can have.
    pub fn most_bytes_bound(&self) -> u64 {
        let limits = &self.limits;
        limits
            .max_storage_buffer_binding_size
            .min(limits.max_buffer_size)
    }

    /// Buffers made so far.
    pub(crate) fn buffers_made(&self) -> u64 {
        self.next_id.load(Ordering::Relaxed)
    }

    /// Bytes of memory in use on the device.
    pub fn bytes_in_use(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// How long the host has waited for results so far.
    pub fn waited(&self) -> Duration {
        Duration::from_nanos(self.waited.load(Ordering::Relaxed))
    }

    /// Steps of answers so far that had begun before the host knew their token.
    pub fn steps_ahead(&self) -> u64 {
        self.steps_ahead.load(Ordering::Relaxed)
    }

    /// Whether the device's multiply-add is known to be rounded once.
    pub(crate) fn has_fma(&self) -> bool {
        self.fma.get().copied().unwrap_or(false)
    }

    /// What the driver reported since the last call.
    ///
    /// # Errors
    /// That.
    pub fn check(&self) -> Result<(), GpuError> {
        self.report("a command", 0)
    }

    pub(crate) fn report(&self, what: &'static str, bytes_wanted: u64) -> Result<(), GpuError> {
        match self.faults.take() {
            None => Ok(()),
            Some(Fault::Memory) => Err(self.no_memory(what, bytes_wanted)),
            Some(Fault::Refused(problem)) => Err(GpuError::Refused { problem }),
            Some(Fault::Lost(problem)) => Err(GpuError::Lost { problem }),
        }
    }

    fn no_memory(&self, what: &'static str, bytes_wanted: u64) -> GpuError {
        GpuError::OutOfMemory {
            what,
            bytes_wanted,
            in_use: self.bytes_in_use(),
            experts: self.tier.bytes(),
        }
    }

    /// Takes no more than this many bytes of the device's memory from now on.
    pub fn limit_memory(&self, bytes: u64) {
        self.most_bytes.store(bytes, Ordering::Relaxed);
    }

    /// Gives the device up as if it had been taken out: whatever needs it fails from now on.
    pub fn give_up(&self) {
        self.faults.put(Fault::Lost("it was given up".to_owned()));
        self.device.destroy();
    }

    /// Memory of at least `bytes`, all zeros.
    ///
    /// # Errors
    /// [`GpuError::TooLarge`], [`GpuError::OutOfMemory`].
    pub fn buffer(&self, what: &'static str, bytes: u64) -> Result<DeviceBuffer, GpuError> {
        let bytes = bytes.max(16).next_multiple_of(16);
        let limit = self.most_bytes_bound();
        if bytes > limit {
            return Err(GpuError::TooLarge { what, bytes, limit });
        }
        let most = self.most_bytes.load(Ordering::Relaxed);
        if self.bytes_in_use().saturating_add(bytes) > most {
            return Err(self.no_memory(what, bytes));
        }
        let raw = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.report(what, bytes)?;
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Ok(DeviceBuffer {
            raw,
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            bytes,
            total: Arc::clone(&self.bytes),
        })
    }

    /// Memory with `contents`.
    ///
    /// # Errors
    /// As [`Gpu::buffer`].
    pub fn buffer_with(
        &self,
        what: &'static str,
        contents: &[u8],
    ) -> Result<DeviceBuffer, GpuError> {
        let buffer = self.buffer(what, contents.len() as u64)?;
        self.write(&buffer, 0, contents);
        Ok(buffer)
    }

    /// Writes `bytes` into a buffer before anything that is submitted from now on. What does not
    /// fill four bytes at the end is filled up with zeros.
    pub fn write(&self, buffer: &DeviceBuffer, offset: u64, bytes: &[u8]) {
        let (whole, rest) = bytes.as_chunks::<4>();
        self.queue
            .write_buffer(&buffer.raw, offset, whole.as_flattened());
        if !rest.is_empty() {
            let mut last = [0; 4];
            last[..rest.len()].copy_from_slice(rest);
            let at = offset + (bytes.len() - rest.len()) as u64;
            self.queue.write_buffer(&buffer.raw, at, &last);
        }
    }

    /// Copies `bytes` from the start of a buffer to the start of another, before anything that is
    /// submitted from now on.
    pub fn copy(&self, from: &DeviceBuffer, to: &DeviceBuffer, bytes: u64) {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&from.raw, 0, &to.raw, 0, bytes);
        self.queue.submit([encoder.finish()]);
    }
}
