//! A graph's buffers on the device, slot by slot as the host's pool has them, and what a step
//! brings along.

use std::collections::HashMap;
use std::sync::Arc;

use moeflux::Error;
use moeflux::backend::Step;
use moeflux::graph::{BufferId, BufferPool, Graph};

use crate::{DeviceBuffer, Gpu, GpuError, Recorder, View};

/// Where a bound part of a buffer may begin, on every device.
const VIEW_ALIGN: u64 = 256;

/// The buffers of one graph.
#[derive(Default)]
pub(super) struct DeviceBuffers {
    /// By the pool's slots.
    slots: HashMap<usize, DeviceBuffer>,
    /// Whether a buffer holds what this step put there, by its number.
    held: Vec<bool>,
    /// Where the buffers of steps of few tokens are.
    places: Places,
    /// Whether this step is one.
    is_placed: bool,
}

/// A memory of its own for each set of buffers, so that no dispatch waits for one that it does not
/// read from.
#[derive(Default)]
struct Places {
    /// By buffer: the set, and the first byte in its memory.
    of: Vec<Option<(usize, u64)>>,
    memory: Vec<DeviceBuffer>,
    /// Rows that there is room for.
    rows: usize,
}

impl DeviceBuffers {
    pub fn begin_step(&mut self) {
        self.held.clear();
        self.is_placed = false;
    }

    /// From now on this step's buffers are where `sets` are, for `rows` rows.
    pub fn place(
        &mut self,
        gpu: &Gpu,
        graph: &Graph,
        sets: &[Vec<BufferId>],
        rows: usize,
    ) -> Result<(), GpuError> {
        self.held.clear();
        self.is_placed = true;
        let room = rows.next_power_of_two();
        if self.places.rows >= rows {
            return Ok(());
        }
        let mut places = Places {
            of: vec![None; graph.buffers.len()],
            rows: room,
            ..Places::default()
        };
        self.places = Places::default();
        for set in sets {
            let mut end = 0;
            for id in set {
                places.of[id.index()] = Some((places.memory.len(), end));
                let bytes = (room * graph.buffers[id.index()].width * 4) as u64;
                end += bytes.next_multiple_of(VIEW_ALIGN);
            }
            places.memory.push(gpu.buffer("activations", end)?);
        }
        self.places = places;
        Ok(())
    }

    /// A step before this one has written these buffers for it.
    pub fn take_over(&mut self, ids: impl Iterator<Item = BufferId>) {
        ids.for_each(|id| self.hold(id));
    }

    fn hold(&mut self, id: BufferId) {
        let at = id.index();
        if self.held.len() <= at {
            self.held.resize(at + 1, false);
        }
        self.held[at] = true;
    }

    /// Whether this step wrote a buffer.
    pub fn is_held(&self, id: BufferId) -> bool {
        self.held.get(id.index()).is_some_and(|&held| held)
    }

    /// The whole memory of a buffer's set, and where the buffer begins there, in elements.
    pub fn set_view(&self, id: BufferId) -> Result<(View<'_>, usize), Error> {
        let place = self.places.of.get(id.index()).copied().flatten();
        let (set, start) = place.filter(|_| self.is_placed).ok_or_else(|| absent(id))?;
        Ok(((&self.places.memory[set]).into(), start as usize / 4))
    }

    /// Makes room for a buffer that an operation is about to write.
    pub fn make(&mut self, gpu: &Gpu, pool: &BufferPool, id: BufferId) -> Result<(), GpuError> {
        self.hold(id);
        if self.is_placed {
            return Ok(());
        }
        let bytes = pool.len(id) as u64 * 4;
        let slot = pool.slot(id);
        if self.slots.get(&slot).is_none_or(|s| s.bytes() < bytes) {
            self.slots.remove(&slot);
            let limit = gpu.most_bytes_bound();
            let larger = bytes.next_power_of_two().min(limit.max(bytes));
            self.slots.insert(slot, gpu.buffer("activations", larger)?);
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
        if self.is_held(id) {
            return Ok(());
        }
        self.make(&Arc::clone(recorder.gpu()), pool, id)?;
        let bytes = bytemuck::cast_slice(pool.get(id));
        let place = self.places.of.get(id.index()).copied().flatten();
        match (place, self.slots.get(&pool.slot(id))) {
            (Some((set, start)), _) if self.is_placed => {
                recorder.write(&self.places.memory[set], start, bytes);
                Ok(())
            }
            (_, Some(buffer)) if !self.is_placed => {
                recorder.write(buffer, 0, bytes);
                Ok(())
            }
            _ => Err(GpuError::Refused {
                problem: format!("buffer {id:?} has no memory on the device"),
            }),
        }
    }

    /// A buffer's contents in this step.
    pub fn view<'a>(&'a self, pool: &BufferPool, id: BufferId) -> Result<View<'a>, Error> {
        let bytes = (pool.len(id) as u64 * 4).max(4);
        if self.is_placed {
            let (view, start) = self.set_view(id)?;
            let offset = start as u64 * 4;
            return Ok(View {
                offset,
                bytes,
                ..view
            });
        }
        let buffer = self.slots.get(&pool.slot(id));
        Ok(View::first(buffer.ok_or_else(|| absent(id))?, bytes))
    }

    /// Reads buffers back into the pool.
    pub fn fetch(
        &self,
        recorder: &mut Recorder,
        wanted: &[BufferId],
        pool: &mut BufferPool,
    ) -> Result<(), Error> {
        let here = wanted.iter().filter(|id| self.is_held(**id));
        let here: Vec<BufferId> = here.copied().filter(|id| pool.len(*id) > 0).collect();
        for id in here {
            let view = self.view(pool, id)?;
            pool.write(id, |_, out| {
                Ok(recorder.read_into(&[view], bytemuck::cast_slice_mut(out))?)
            })?;
        }
        Ok(())
    }
}

fn absent(id: BufferId) -> Error {
    Error::Internal(format!("buffer {id:?} is not on the device"))
}

/// Lists that operations of a step share, uploaded when first asked for.
#[derive(Default)]
pub(super) struct StepInputs {
    tokens: List,
    positions: List,
    outputs: List,
    /// The tokens of a step that has begun before they are known here.
    chosen: Option<Arc<DeviceBuffer>>,
    /// Rotary frequencies, with what keeps their address theirs.
    freqs: Vec<(Arc<[f32]>, DeviceBuffer)>,
}

#[derive(Default)]
struct List {
    buffer: Option<DeviceBuffer>,
    /// What it holds.
    values: Vec<u32>,
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
                self.is_there = false;
                self.values.clear();
                recorder.gpu().buffer("lists of a step", room)?
            }
        };
        // Writing waits for all that was recorded to be submitted.
        if !self.is_there && self.values != values {
            recorder.write(&buffer, 0, bytemuck::cast_slice(values));
            self.values = values.to_vec();
        }
        self.is_there = true;
        Ok(View::first(self.buffer.insert(buffer), bytes))
    }

    /// What [`List::get`] has put there.
    fn known(&self) -> Result<View<'_>, GpuError> {
        let none = || GpuError::Refused {
            problem: "a step's list is not on the device".to_owned(),
        };
        Ok(self.buffer.as_ref().ok_or_else(none)?.into())
    }
}

impl StepInputs {
    pub fn begin_step(&mut self) {
        self.chosen = None;
        for list in [&mut self.tokens, &mut self.positions, &mut self.outputs] {
            list.is_there = false;
        }
    }

    /// From now on tokens are found in a buffer, and positions are other ones; or no longer.
    pub fn go_ahead(&mut self, chosen: Option<Arc<DeviceBuffer>>) {
        self.chosen = chosen;
        self.positions.is_there = false;
    }

    /// Token of each row.
    pub fn tokens(&mut self, r: &mut Recorder, step: &Step<'_>) -> Result<View<'_>, GpuError> {
        match &self.chosen {
            Some(chosen) => Ok(View::first(chosen, (step.tokens.len() as u64 * 4).max(4))),
            None => self.tokens.get(r, step.tokens),
        }
    }

    /// Rows whose logits are wanted.
    pub fn outputs(&mut self, r: &mut Recorder, step: &Step<'_>) -> Result<View<'_>, GpuError> {
        self.outputs.get(r, step.outputs)
    }

    /// Puts frequencies on the device.
    pub fn freqs(&mut self, gpu: &Gpu, inv_freq: &Arc<[f32]>) -> Result<(), GpuError> {
        let same = |(known, _): &(Arc<[f32]>, _)| Arc::ptr_eq(known, inv_freq);
        if !self.freqs.iter().any(same) {
            let buffer = gpu.buffer_with("rotary frequencies", bytemuck::cast_slice(inv_freq))?;
            self.freqs.push((Arc::clone(inv_freq), buffer));
        }
        Ok(())
    }

    /// Frequencies that [`StepInputs::freqs`] has put there.
    pub fn known_freqs(&self, inv_freq: &Arc<[f32]>) -> Result<View<'_>, GpuError> {
        let mut known = self.freqs.iter();
        let found = known.find(|(known, _)| Arc::ptr_eq(known, inv_freq));
        let none = || GpuError::Refused {
            problem: "frequencies are not on the device".to_owned(),
        };
        Ok(View::from(&found.ok_or_else(none)?.1))
    }

    /// Position of each row, and the frequencies.
    pub fn rope(
        &mut self,
        r: &mut Recorder,
        step: &Step<'_>,
        inv_freq: &Arc<[f32]>,
    ) -> Result<(View<'_>, View<'_>), GpuError> {
        self.freqs(r.gpu(), inv_freq)?;
        self.positions.get(r, step.positions)?;
        let positions = self.positions.known()?;
        Ok((positions, self.known_freqs(inv_freq)?))
    }
}
