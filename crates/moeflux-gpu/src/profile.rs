//! Times of single dispatches, by the device's own clock.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;

use wgpu::{BufferUsages, ComputePassTimestampWrites, QuerySetDescriptor, QueryType};

use crate::{Gpu, GpuError};

/// Dispatches of a step that are timed; a set of queries has at most twice as many.
const MOST: usize = 2048;

/// How long a dispatch took.
#[derive(Clone, Debug)]
pub struct DispatchTime {
    /// The kernel.
    pub kernel: &'static str,
    /// Its workgroups.
    pub groups: [u32; 3],
    /// Microseconds from its begin to its end.
    pub microseconds: f64,
    /// Microseconds from the end of the dispatch before it to its end, in one submission.
    pub with_gap: f64,
}

/// Dispatches that are being timed.
pub(crate) struct Timing {
    set: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    kernels: Vec<(&'static str, [u32; 3])>,
}

impl Gpu {
    /// Times every dispatch from the next step on, or no longer. Steps take longer then.
    ///
    /// # Errors
    /// [`GpuError::Lacks`] where the device has no clock that can be read.
    pub fn time_dispatches(&self, wanted: bool) -> Result<(), GpuError> {
        if wanted
            && !self
                .device
                .features()
                .contains(wgpu::Features::TIMESTAMP_QUERY)
        {
            return Err(GpuError::Lacks {
                adapter: self.line().name.clone(),
                feature: "timestamps".to_owned(),
            });
        }
        self.is_timing.store(wanted, Ordering::Relaxed);
        Ok(())
    }

    /// The times of all steps since the last call.
    pub fn take_times(&self) -> Vec<DispatchTime> {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut times)
    }
}

impl Timing {
    pub fn new(gpu: &Gpu) -> Timing {
        let count = 2 * MOST as u32;
        let set = gpu.device.create_query_set(&QuerySetDescriptor {
            label: None,
            ty: QueryType::Timestamp,
            count,
        });
        let resolved = gpu.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("times"),
            size: u64::from(count) * 8,
            usage: BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC,
            mapped_at_creation: false,
        });
        Timing {
            set,
            resolved,
            kernels: Vec::new(),
        }
    }

    /// What a pass of this dispatch alone is to be told; `None` where there is no room.
    pub fn note(
        &mut self,
        kernel: &'static str,
        groups: [u32; 3],
    ) -> Option<ComputePassTimestampWrites<'_>> {
        if self.kernels.len() >= MOST {
            return None;
        }
        let first = 2 * self.kernels.len() as u32;
        self.kernels.push((kernel, groups));
        Some(ComputePassTimestampWrites {
            query_set: &self.set,
            beginning_of_pass_write_index: Some(first),
            end_of_pass_write_index: Some(first + 1),
        })
    }

    /// Waits for the dispatches and adds their times to the device's.
    ///
    /// # Errors
    /// A lost device.
    pub fn finish(self, gpu: &Gpu) -> Result<(), GpuError> {
        let count = 2 * self.kernels.len();
        if count == 0 {
            return Ok(());
        }
        let bytes = count as u64 * 8;
        let staging = gpu.staging(bytes)?;
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        encoder.resolve_query_set(&self.set, 0..count as u32, &self.resolved, 0);
        encoder.copy_buffer_to_buffer(&self.resolved, 0, &staging, 0, bytes);
        gpu.queue.submit([encoder.finish()]);
        let mut out = vec![0; bytes as usize];
        gpu.wait_for(&staging, &mut out)?;
        let ticks: Vec<u64> = bytemuck::pod_collect_to_vec(&out);
        let period = f64::from(gpu.queue.get_timestamp_period()) / 1e3;
        let mut before = ticks[0];
        let mut times = gpu.times.lock().unwrap_or_else(PoisonError::into_inner);
        for ((kernel, groups), pair) in self.kernels.into_iter().zip(ticks.chunks_exact(2)) {
            let (begin, end) = (pair[0], pair[1]);
            times.push(DispatchTime {
                kernel,
                groups,
                microseconds: end.saturating_sub(begin) as f64 * period,
                with_gap: end.saturating_sub(before) as f64 * period,
            });
            before = end;
        }
        Ok(())
    }
}
