//! A graph's buffers on the device, slot by slot as the host's pool has them, and what a step
//! brings along.

use std::collections::HashMap;
use std::sync::Arc;

use moeflux::Error;
use moeflux::backend::Step;
use moeflux::graph::{BufferId, BufferPool};

use crate::{DeviceBuffer, Gpu, GpuError, Recorder, View};

/// The buffers of one graph.
#[derive(Default)]
pub(super) struct DeviceBuffers {
    /// By the pool's slots.
    slots: HashMap<usize, DeviceBuffer>,
    /// Buffers that hold what this step put there.
    held: Vec<BufferId>,
}

impl DeviceBuffers {
    pub fn begin_step(&mut self) {
        self.held.clear();
    }

    /// Makes room for a buffer that an operation is about to write.
    pub fn make(&mut self, gpu: &Gpu, pool: &BufferPool, id: BufferId) -> Result<(), GpuError> {
        let bytes = pool.len(id) as u64 * 4;
        let slot = pool.slot(id);
        if self.slots.get(&slot).is_none_or(|s| s.bytes() < bytes) {
            self.slots.remove(&slot);
            let limit = gpu.most_bytes_bound();
            let larger = bytes.next_power_of_two().min(limit.max(bytes));
            self.slots.insert(slot, gpu.buffer("activations", larger)?);
        }
        if !self.held.contains(&id) {
            self.held.push(id);
        }
        Ok(())
    }

    /// Brings a buffer that no operation of this step has written from the pool.
    pub fn bring(
        &mut self,
        recorder: &mut Recorder,
        pool: &BufferPool,
        id: BufferId,
    ) -> Result<(), GpuError> {
        if self.held.contains(&id) {
            return Ok(());
        }
        self.make(&Arc::clone(recorder.gpu()), pool, id)?;
        if let Some(buffer) = self.slots.get(&pool.slot(id)) {
            recorder.write(buffer, 0, bytemuck::cast_slice(pool.get(id)));
        }
        Ok(())
    }

    /// A buffer's contents in this step.
    pub fn view<'a>(&'a self, pool: &BufferPool, id: BufferId) -> Result<View<'a>, Error> {
        let buffer = self.slots.get(&pool.slot(id));
        let none = || Error::Internal(format!("buffer {id:?} is not on the device"));
        Ok(View {
            buffer: buffer.ok_or_else(none)?,
            offset: 0,
            bytes: (pool.len(id) as u64 * 4).max(4),
        })
    }

    /// Reads buffers back into the pool.
    pub fn fetch(
        &self,
        recorder: &mut Recorder,
        wanted: &[BufferId],
        pool: &mut BufferPool,
    ) -> Result<(), Error> {
        let here = wanted.iter().filter(|id| self.held.contains(id));
        let here: Vec<BufferId> = here.copied().filter(|id| pool.len(*id) > 0).collect();
        let mut views = Vec::with_capacity(here.len());
        for id in &here {
            views.push(self.view(pool, *id)?);
        }
        if views.is_empty() {
            return Ok(());
        }
        let bytes = recorder.read(&views)?;
        let values: Vec<f32> = bytemuck::pod_collect_to_vec(&bytes);
        let mut rest = &values[..];
        for id in here {
            let (own, behind) = rest.split_at(pool.len(id));
            pool.upload(id, own)?;
            rest = behind;
        }
        Ok(())
    }
}

/// Lists that operations of a step share, uploaded when first asked for.
#[derive(Default)]
pub(super) struct StepInputs {
    tokens: List,
    positions: List,
    outputs: List,
    /// Rotary frequencies, with what keeps their address theirs.
    freqs: Vec<(Arc<[f32]>, DeviceBuffer)>,
}

#[derive(Default)]
struct List {
    buffer: Option<DeviceBuffer>,
    is_there: bool,
}

impl List {
    fn get(&mut self, recorder: &mut Recorder, values: &[u32]) -> Result<View<'_>, GpuError> {
        let bytes = (values.len() as u64 * 4).max(4);
        let fits = self.buffer.take().filter(|b| b.bytes() >= bytes);
        let buffer = match fits {
            Some(buffer) => buffer,
            None => {
                let room = bytes.next_power_of_two();
                recorder.gpu().buffer("lists of a step", room)?
            }
        };
        if !self.is_there {
            recorder.write(&buffer, 0, bytemuck::cast_slice(values));
            self.is_there = true;
        }
        Ok(View {
            buffer: self.buffer.insert(buffer),
            offset: 0,
            bytes,
        })
    }
}

impl StepInputs {
    pub fn begin_step(&mut self) {
        for list in [&mut self.tokens, &mut self.positions, &mut self.outputs] {
            list.is_there = false;
        }
    }

    /// Token of each row.
    pub fn tokens(&mut self, r: &mut Recorder, step: &Step<'_>) -> Result<View<'_>, GpuError> {
        self.tokens.get(r, step.tokens)
    }

    /// Rows whose logits are wanted.
    pub fn outputs(&mut self, r: &mut Recorder, step: &Step<'_>) -> Result<View<'_>, GpuError> {
        self.outputs.get(r, step.outputs)
    }

    /// Position of each row, and the frequencies.
    pub fn rope(
        &mut self,
        r: &mut Recorder,
        step: &Step<'_>,
        inv_freq: &Arc<[f32]>,
    ) -> Result<(View<'_>, View<'_>), GpuError> {
        let same = |(known, _): &(Arc<[f32]>, _)| Arc::ptr_eq(known, inv_freq);
        let at = match self.freqs.iter().position(same) {
            Some(at) => at,
            None => {
                let bytes = bytemuck::cast_slice(inv_freq);
                let buffer = r.gpu().buffer_with("rotary frequencies", bytes)?;
                self.freqs.push((Arc::clone(inv_freq), buffer));
                self.freqs.len() - 1
            }
        };
        let positions = self.positions.get(r, step.positions)?;
        Ok((positions, View::from(&self.freqs[at].1)))
    }
}
