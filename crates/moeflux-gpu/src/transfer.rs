//! What passes between the host's memory and a device's.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::GpuError;
use crate::device::{DeviceBuffer, Gpu};

impl Gpu {
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
        self.report("reading results back", bytes)?;
        Ok(staging)
    }

    /// Host memory that the device copies from, mapped.
    pub(crate) fn mapped(&self, bytes: u64) -> Result<wgpu::Buffer, GpuError> {
        let made = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("on the way to the device"),
            size: bytes,
            usage: wgpu::BufferUsages::MAP_WRITE | wgpu::BufferUsages::COPY_SRC,
            mapped_at_creation: true,
        });
        self.report("what is on the way to the device", bytes)?;
        Ok(made)
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
            let (poll, busy) = match spins < SPINS && !self.line().is_software {
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
