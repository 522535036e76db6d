//! Brings experts to the device: each into memory of the driver's that is copied to its slot, by as
//! many threads as there are experts.

use std::num::NonZeroU64;
use std::thread;

use moeflux::Error;
use moeflux::weights::ExpertLayout;
use moeflux_kernels::Matrix;
use wgpu::QueueWriteBufferView;

use crate::matrix::Form;
use crate::{DeviceBuffer, Gpu, GpuError};

/// Where an expert's matrices lie in its slot: form and first byte.
pub(super) struct SlotForm {
    pub matrices: [(Form, usize); 3],
    pub bytes: usize,
}

/// An expert on its way.
struct Job<'a> {
    view: QueueWriteBufferView,
    matrices: [Matrix<'a>; 3],
}

/// Writes experts into slots, before anything that is submitted from now on.
pub(super) fn upload(
    gpu: &Gpu,
    (slots, form): (&DeviceBuffer, &SlotForm),
    layout: &ExpertLayout,
    experts: &[(usize, &[u8])],
) -> Result<(), Error> {
    let mut jobs = Vec::with_capacity(experts.len());
    for &(slot, bytes) in experts {
        let matrices = [
            layout.gate.view(bytes)?,
            layout.up.view(bytes)?,
            layout.down.view(bytes)?,
        ];
        let size = NonZeroU64::new(form.bytes as u64);
        let start = (slot * form.bytes) as u64;
        let view = size.and_then(|size| gpu.queue.write_buffer_with(&slots.raw, start, size));
        let Some(view) = view else {
            gpu.check()?;
            let problem = format!("an expert of {} bytes cannot be written", form.bytes);
            return Err(GpuError::Refused { problem }.into());
        };
        jobs.push(Job { view, matrices });
    }
    let most = thread::available_parallelism().map_or(1, usize::from);
    let each = jobs.len().div_ceil(most).max(1);
    let mut parts = jobs.chunks_mut(each);
    let own = parts.next();
    thread::scope(|scope| {
        for part in parts {
            scope.spawn(move || part.iter_mut().for_each(|job| job.run(form)));
        }
        own.into_iter().flatten().for_each(|job| job.run(form));
    });
    Ok(())
}

impl Job<'_> {
    fn run(&mut self, form: &SlotForm) {
        for ((form, start), matrix) in form.matrices.iter().zip(&self.matrices) {
            form.put(matrix, &mut |at, bytes| {
                let range = start + at..start + at + bytes.len();
                self.view.slice(range).copy_from_slice(bytes);
            });
        }
    }
}
