//! A device: which one, what it can do, its memory, and what went wrong with it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use wgpu::{Features, Limits};

use crate::adapter::{self, AdapterLine, DeviceChoice};
use crate::profile::DispatchTime;
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
    /// Kernels that were compiled once.
    pub(crate) pipelines: Mutex<Pipelines>,
    /// Nanoseconds of waiting for results.
    waited: AtomicU64,
    pub(crate) is_timing: AtomicBool,
    pub(crate) times: Mutex<Vec<DispatchTime>>,
}

/// Compiled kernels, by name and parameters.
pub(crate) type Pipelines = HashMap<(&'static str, Vec<Param>), wgpu::ComputePipeline>;

/// What the driver reported and nobody has heard of yet.
#[derive(Default)]
struct Faults {
    first: Mutex<Option<Fault>>,
}

enum Fault {
    Memory,
    Lost(String),
    Refused(String),
}

impl Faults {
    fn put(&self, fault: Fault) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        // A lost device is the reason of whatever else is reported.
        if first.is_none() || matches!(fault, Fault::Lost(_)) {
            *first = Some(fault);
        }
    }

    fn take(&self, what: &'static str, bytes_wanted: u64) -> Result<(), GpuError> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        match first.take() {
            None => Ok(()),
            Some(Fault::Memory) => Err(GpuError::OutOfMemory { what, bytes_wanted }),
            Some(Fault::Refused(problem)) => Err(GpuError::Refused { problem }),
            Some(Fault::Lost(problem)) => {
                // It stays lost.
                *first = Some(Fault::Lost(problem.clone()));
                Err(GpuError::Lost { problem })
            }
        }
    }
}

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
        let matrix_unit = matrix_unit(&adapter, &info);
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
            experimental_features: experimental(matrix_unit.is_some()),
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
            pipelines: Mutex::default(),
            waited: AtomicU64::new(0),
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

    /// What the driver reported since the last call.
    ///
    /// # Errors
    /// That.
    pub fn check(&self) -> Result<(), GpuError> {
        self.faults.take("a command", 0)
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
        let raw = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some(what),
            size: bytes,
            usage: wgpu::BufferUsages::STORAGE
                | wgpu::BufferUsages::COPY_SRC
                | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.faults.take(what, bytes)?;
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

    /// Waits until what was written has arrived, so that the memory for its way is free again.
    ///
    /// # Errors
    /// A lost device.
    pub(crate) fn flush(&self) -> Result<(), GpuError> {
        self.queue.submit([]);
        let polled = self.device.poll(wgpu::PollType::wait_indefinitely());
        self.check()?;
        polled.map(|_| ()).map_err(|problem| GpuError::Lost {
            problem: problem.to_string(),
        })
    }

    /// Copies `bytes` from the start of a buffer to the start of another, before anything that is
    /// submitted from now on.
    pub fn copy(&self, from: &DeviceBuffer, to: &DeviceBuffer, bytes: u64) {
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&from.raw, 0, &to.raw, 0, bytes);
        self.queue.submit([encoder.finish()]);
    }

    /// Reads a part of a buffer, after all that was submitted; multiples of four.
    ///
    /// # Errors
    /// A lost device.
    pub fn read(
        &self,
        buffer: &DeviceBuffer,
        offset: u64,
        bytes: u64,
    ) -> Result<Vec<u8>, GpuError> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let staging = self.staging(bytes)?;
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&buffer.raw, offset, &staging, 0, bytes);
        self.queue.submit([encoder.finish()]);
        let mut out = vec![0; bytes as usize];
        self.wait_for(&staging, &mut out)?;
        Ok(out)
    }

    /// Host memory that the device copies to.
    pub(crate) fn staging(&self, bytes: u64) -> Result<wgpu::Buffer, GpuError> {
        let staging = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read-back"),
            size: bytes,
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        self.faults.take("reading results back", bytes)?;
        Ok(staging)
    }

    /// Waits until what was submitted has been done and copies the start of `staging` to `out`.
    pub(crate) fn wait_for(&self, staging: &wgpu::Buffer, out: &mut [u8]) -> Result<(), GpuError> {
        /// Polls before the thread gives way: waking up takes longer than most waits.
        const SPINS: u32 = 20_000;
        let begin = Instant::now();
        let done = Arc::new(AtomicU64::new(0));
        let tell = Arc::clone(&done);
        let part = staging.slice(..out.len() as u64);
        part.map_async(wgpu::MapMode::Read, move |result| {
            tell.store(1 + u64::from(result.is_err()), Ordering::Release);
        });
        let lost = |problem: String| GpuError::Lost { problem };
        let mut spins = 0;
        while done.load(Ordering::Acquire) == 0 {
            let (poll, busy) = match spins < SPINS && !self.line.is_software {
                true => (wgpu::PollType::Poll, true),
                false => (wgpu::PollType::wait_indefinitely(), false),
            };
            let polled = self.device.poll(poll);
            self.check()?;
            if let Err(problem) = polled
                && !busy
            {
                return Err(lost(problem.to_string()));
            }
            spins += 1;
        }
        if done.load(Ordering::Acquire) != 1 {
            self.check()?;
            return Err(lost("its results cannot be read".to_owned()));
        }
        let range = part
            .get_mapped_range()
            .map_err(|problem| lost(problem.to_string()))?;
        out.copy_from_slice(&range);
        drop(range);
        staging.unmap();
        let nanoseconds = begin.elapsed().as_nanos() as u64;
        self.waited.fetch_add(nanoseconds, Ordering::Relaxed);
        Ok(())
    }
}

/// The largest square that the adapter's matrix unit multiplies, where subgroups are of 32 threads
/// as the kernels for it take them to be.
fn matrix_unit(adapter: &wgpu::Adapter, info: &wgpu::AdapterInfo) -> Option<u32> {
    use wgpu::CooperativeScalarType::{F16, F32};
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

fn experimental(wanted: bool) -> wgpu::ExperimentalFeatures {
    if !wanted {
        return wgpu::ExperimentalFeatures::disabled();
    }
    // SAFETY: what is used of them is products of matrices in workgroup memory, at places that the
    // kernels keep inside their arrays.
    unsafe { wgpu::ExperimentalFeatures::enabled() }
}

fn listen(device: &wgpu::Device, faults: &Arc<Faults>) {
    let heard = Arc::clone(faults);
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        heard.put(match error {
            wgpu::Error::OutOfMemory { .. } => Fault::Memory,
            other => Fault::Refused(other.to_string()),
        });
    }));
    let heard = Arc::clone(faults);
    device.set_device_lost_callback(move |reason, words| {
        if reason != wgpu::DeviceLostReason::Destroyed {
            heard.put(Fault::Lost(words));
        }
    });
}
