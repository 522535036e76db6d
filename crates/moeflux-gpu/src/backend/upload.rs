//! Brings experts to the device: through mapped memory that is used again and again, filled by
//! several threads and copied to its place by the device.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use moeflux::Error;
use moeflux::weights::ExpertLayout;
use moeflux_kernels::{Matrix, ThreadPool};
use wgpu::BufferViewMut;

use crate::matrix::Form;
use crate::{DeviceBuffer, GpuError, Recorder};

/// Threads that fill mapped memory: more do not make it faster.
const THREADS: usize = 8;
/// Mapped memory, at most, unless a single call needs more.
const MOST_BYTES: u64 = 64 << 20;

/// Where an expert's matrices lie in its slot: form and first byte.
pub(super) struct SlotForm {
    pub matrices: [(Form, usize); 3],
    pub bytes: usize,
}

/// Memory on its way to the device.
pub(super) struct Uploads {
    pool: ThreadPool,
    /// Mapped: to be filled.
    free: Vec<wgpu::Buffer>,
    /// Unmapped, with copies of them recorded.
    recorded: Vec<wgpu::Buffer>,
    /// To be mapped again when the device has copied them.
    away: Vec<(wgpu::Buffer, Arc<AtomicU8>)>,
    bytes: u64,
}

/// States of a buffer that is away.
const WAITING: u8 = 0;
const MAPPED: u8 = 1;

/// A matrix on its way.
struct Job<'a> {
    view: BufferViewMut,
    form: Form,
    matrix: Matrix<'a>,
}

impl Uploads {
    pub fn new() -> Uploads {
        let most = thread::available_parallelism().map_or(1, usize::from);
        Uploads {
            pool: ThreadPool::new(most.min(THREADS)),
            free: Vec::new(),
            recorded: Vec::new(),
            away: Vec::new(),
            bytes: 0,
        }
    }

    /// Writes experts into slots, after all that was recorded before.
    pub fn experts(
        &mut self,
        r: &mut Recorder,
        (slots, form): (&DeviceBuffer, &SlotForm),
        layout: &ExpertLayout,
        experts: &[(usize, &[u8])],
    ) -> Result<(), Error> {
        self.reclaim(r);
        let (mut jobs, mut buffers) = (Vec::new(), Vec::new());
        for &(_, bytes) in experts {
            let buffer = self.mapped(r, form.bytes as u64)?;
            let matrices = [&layout.gate, &layout.up, &layout.down];
            for ((form, start), matrix) in form.matrices.iter().zip(matrices) {
                let (start, matrix) = (*start as u64, matrix.view(bytes)?);
                let part = buffer.slice(start..start + form.bytes() as u64);
                let view = part.get_mapped_range_mut().map_err(refused)?;
                let form = *form;
                jobs.push(Mutex::new(Job { view, form, matrix }));
            }
            buffers.push(buffer);
        }
        self.pool.run(jobs.len(), &|at| {
            if let Some(job) = jobs.get(at) {
                job.lock().unwrap_or_else(PoisonError::into_inner).run();
            }
        });
        drop(jobs);
        for (buffer, &(slot, _)) in buffers.into_iter().zip(experts) {
            let place = (slot * form.bytes) as u64;
            self.send(r, buffer, (slots, place), form.bytes as u64);
        }
        Ok(())
    }

    /// Writes bytes into a buffer, after all that was recorded before.
    pub fn bytes(
        &mut self,
        r: &mut Recorder,
        to: &DeviceBuffer,
        bytes: &[u8],
    ) -> Result<(), GpuError> {
        let buffer = self.mapped(r, bytes.len() as u64)?;
        let part = buffer.slice(..bytes.len() as u64);
        part.get_mapped_range_mut()
            .map_err(refused)?
            .copy_from_slice(bytes);
        self.send(r, buffer, (to, 0), bytes.len() as u64);
        Ok(())
    }

    fn send(
        &mut self,
        r: &mut Recorder,
        buffer: wgpu::Buffer,
        (to, place): (&DeviceBuffer, u64),
        bytes: u64,
    ) {
        buffer.unmap();
        r.copy_host(&buffer, bytes, to, place);
        self.recorded.push(buffer);
    }

    /// Has what was sent mapped again when the device is done with it.
    fn reclaim(&mut self, r: &mut Recorder) {
        if self.recorded.is_empty() {
            return;
        }
        r.submit();
        for buffer in self.recorded.drain(..) {
            let state = Arc::new(AtomicU8::new(WAITING));
            let tell = Arc::clone(&state);
            buffer
                .slice(..)
                .map_async(wgpu::MapMode::Write, move |result| {
                    tell.store(MAPPED + u8::from(result.is_err()), Ordering::Release);
                });
            self.away.push((buffer, state));
        }
    }

    /// Takes back what has been mapped.
    fn collect(&mut self) {
        let mut at = 0;
        while let Some((_, state)) = self.away.get(at) {
            match state.load(Ordering::Acquire) {
                WAITING => at += 1,
                state => {
                    let (buffer, _) = self.away.swap_remove(at);
                    match state {
                        MAPPED => self.free.push(buffer),
                        _ => self.bytes -= buffer.size(),
                    }
                }
            }
        }
    }

    /// Mapped memory of at least `bytes`.
    fn mapped(&mut self, r: &mut Recorder, bytes: u64) -> Result<wgpu::Buffer, GpuError> {
        self.collect();
        let size = bytes.max(16).next_multiple_of(16);
        let is_wanted = |b: &wgpu::Buffer| (size..=2 * size).contains(&b.size());
        let mut found = self.free.iter().position(is_wanted);
        if found.is_none() && self.bytes + size > MOST_BYTES && !self.away.is_empty() {
            // Whatever was submitted before is done then, and told so.
            r.gpu().flush()?;
            self.collect();
            found = self.free.iter().position(is_wanted);
        }
        if let Some(at) = found {
            return Ok(self.free.swap_remove(at));
        }
        let made = r.gpu().mapped(size)?;
        self.bytes += size;
        Ok(made)
    }
}

impl Job<'_> {
    fn run(&mut self) {
        let view = &mut self.view;
        self.form.put(&self.matrix, &mut |at, bytes| {
            view.slice(at..at + bytes.len()).copy_from_slice(bytes);
        });
    }
}

fn refused(problem: wgpu::MapRangeError) -> GpuError {
    GpuError::Refused {
        problem: format!("memory for the way to the device: {problem}"),
    }
}
