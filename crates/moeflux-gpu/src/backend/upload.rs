//! Brings experts to the device: through memory that is used again and again, filled by several
//! threads and copied to its place by the device.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use moeflux::Error;
use moeflux::weights::ExpertLayout;
use moeflux_kernels::{Matrix, ThreadPool};
use wgpu::BufferViewMut;

use crate::matrix::Form;
use crate::pinned::Pinned;
use crate::{DeviceBuffer, Gpu, GpuError, Recorder};

/// Threads that fill memory.
const THREADS: usize = 12;
/// Parts that a matrix is written in by as many threads.
const PARTS: usize = 4;
/// Memory for the way, at most, unless a single call needs more.
const MOST_BYTES: u64 = 64 << 20;

/// Where an expert's matrices lie in its slot: form and first byte.
pub(super) struct SlotForm {
    pub matrices: [(Form, usize); 3],
    pub bytes: usize,
}

/// Memory on its way to the device.
pub(super) struct Uploads {
    pool: ThreadPool,
    /// To be filled.
    free: Vec<Carrier>,
    /// With copies of them recorded.
    recorded: Vec<Carrier>,
    /// To be filled again when the device has copied them.
    away: Vec<(Carrier, Arc<AtomicU8>)>,
    bytes: u64,
}

/// A piece of memory that the device copies from.
enum Carrier {
    /// The host's.
    Pinned(Pinned),
    /// As wgpu maps it: mapped while it is free.
    Mapped(wgpu::Buffer),
}

/// States of a carrier that is away.
const WAITING: u8 = 0;
const BACK: u8 = 1;

/// A matrix on its way, or a part of one.
enum Job<'a> {
    Mapped(Mutex<BufferViewMut>, Form, Matrix<'a>),
    Pinned(&'a Pinned, usize, usize, Form, Matrix<'a>),
}

impl Carrier {
    fn new(gpu: &Gpu, bytes: u64) -> Result<Carrier, GpuError> {
        Ok(match Pinned::new(&gpu.device, bytes) {
            Some(pinned) => Carrier::Pinned(pinned),
            None => Carrier::Mapped(gpu.mapped(bytes)?),
        })
    }

    fn buffer(&self) -> &wgpu::Buffer {
        match self {
            Carrier::Pinned(pinned) => pinned.buffer(),
            Carrier::Mapped(buffer) => buffer,
        }
    }
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
        for &(slot, bytes) in experts {
            let carrier = self.carrier(r, form.bytes as u64)?;
            self.fill(&carrier, form, layout, bytes)?;
            let place = (slot * form.bytes) as u64;
            self.send(r, carrier, (slots, place), form.bytes as u64);
            // The device copies this one while the next is filled.
            r.send();
        }
        Ok(())
    }

    fn fill(
        &self,
        carrier: &Carrier,
        form: &SlotForm,
        layout: &ExpertLayout,
        bytes: &[u8],
    ) -> Result<(), Error> {
        let mut jobs = Vec::new();
        let matrices = [&layout.gate, &layout.up, &layout.down];
        for (&(form, start), matrix) in form.matrices.iter().zip(matrices) {
            let matrix = matrix.view(bytes)?;
            match carrier {
                Carrier::Pinned(pinned) => jobs
                    .extend((0..PARTS).map(|part| Job::Pinned(pinned, start, part, form, matrix))),
                Carrier::Mapped(buffer) => {
                    let start = start as u64;
                    let part = buffer.slice(start..start + form.bytes() as u64);
                    let view = part.get_mapped_range_mut().map_err(refused)?;
                    jobs.push(Job::Mapped(Mutex::new(view), form, matrix));
                }
            }
        }
        self.pool.run(jobs.len(), &|at| {
            if let Some(job) = jobs.get(at) {
                job.run();
            }
        });
        Ok(())
    }

    /// Writes bytes into a buffer, after all that was recorded before.
    pub fn bytes(
        &mut self,
        r: &mut Recorder,
        to: &DeviceBuffer,
        bytes: &[u8],
    ) -> Result<(), GpuError> {
        let carrier = self.carrier(r, bytes.len() as u64)?;
        match &carrier {
            // SAFETY: the carrier was free, and this is the only call for it.
            Carrier::Pinned(pinned) => unsafe { pinned.put(0, bytes) },
            Carrier::Mapped(buffer) => {
                let part = buffer.slice(..bytes.len() as u64);
                let mut view = part.get_mapped_range_mut().map_err(refused)?;
                view.copy_from_slice(bytes);
            }
        }
        self.send(r, carrier, (to, 0), bytes.len() as u64);
        Ok(())
    }

    fn send(
        &mut self,
        r: &mut Recorder,
        carrier: Carrier,
        (to, place): (&DeviceBuffer, u64),
        bytes: u64,
    ) {
        if let Carrier::Mapped(buffer) = &carrier {
            buffer.unmap();
        }
        r.copy_host(carrier.buffer(), bytes, to, place);
        self.recorded.push(carrier);
    }

    /// Has what was sent come back when the device is done with it.
    fn reclaim(&mut self, r: &mut Recorder) {
        if self.recorded.is_empty() {
            return;
        }
        r.submit();
        let done = Arc::new(AtomicU8::new(WAITING));
        let tell = Arc::clone(&done);
        let queue = &r.gpu().queue;
        queue.on_submitted_work_done(move || tell.store(BACK, Ordering::Release));
        for carrier in self.recorded.drain(..) {
            let Carrier::Mapped(buffer) = &carrier else {
                self.away.push((carrier, Arc::clone(&done)));
                continue;
            };
            let state = Arc::new(AtomicU8::new(WAITING));
            let tell = Arc::clone(&state);
            buffer
                .slice(..)
                .map_async(wgpu::MapMode::Write, move |result| {
                    tell.store(BACK + u8::from(result.is_err()), Ordering::Release);
                });
            self.away.push((carrier, state));
        }
    }

    /// Takes back what the device is done with.
    fn collect(&mut self) {
        let mut at = 0;
        while let Some((_, state)) = self.away.get(at) {
            match state.load(Ordering::Acquire) {
                WAITING => at += 1,
                state => {
                    let (carrier, _) = self.away.swap_remove(at);
                    match state {
                        BACK => self.free.push(carrier),
                        _ => self.bytes -= carrier.buffer().size(),
                    }
                }
            }
        }
    }

    /// A carrier of at least `bytes`.
    fn carrier(&mut self, r: &mut Recorder, bytes: u64) -> Result<Carrier, GpuError> {
        self.collect();
        let size = bytes.max(16).next_multiple_of(16);
        let is_wanted = |c: &Carrier| (size..=2 * size).contains(&c.buffer().size());
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
        let made = Carrier::new(r.gpu(), size)?;
        self.bytes += size;
        Ok(made)
    }
}

impl Job<'_> {
    fn run(&self) {
        match self {
            Job::Mapped(view, form, matrix) => {
                let mut view = view.lock().unwrap_or_else(PoisonError::into_inner);
                form.put(matrix, (0, 1), &mut |at, bytes| {
                    view.slice(at..at + bytes.len()).copy_from_slice(bytes);
                });
            }
            Job::Pinned(pinned, start, part, form, matrix) => {
                form.put(matrix, (*part, PARTS), &mut |at, bytes| {
                    // SAFETY: the carrier was free, and no two jobs have the same part of a matrix.
                    unsafe { pinned.put(start + at, bytes) };
                });
            }
        }
    }
}

fn refused(problem: wgpu::MapRangeError) -> GpuError {
    GpuError::Refused {
        problem: format!("memory for the way to the device: {problem}"),
    }
}
