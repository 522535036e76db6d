//! The routed experts on the device: each layer has slots of its own and a table of which expert
//! has which slot, so that where all experts have one, no choice needs to come to the host.

mod costs;
mod single_op;
mod slots;
mod together;
mod waiting;

use std::collections::BTreeMap;

use moeflux::Error;
use moeflux::backend::ExpertStage;

use super::budget;
use super::upload::Uploads;
use crate::{DeviceBuffer, Gpu, Recorder, View};
pub(super) use single_op::choices;
pub(super) use slots::Layer;
use slots::NONE;
pub(super) use together::Together;
pub(super) use waiting::Waiting;

/// The experts of all layers.
#[derive(Default)]
pub(super) struct DeviceExperts {
    bytes: Option<u64>,
    layers: BTreeMap<usize, Layer>,
    uploads: Option<Uploads>,
    /// What the tokens chose, brought to the host before it was needed.
    chosen: Option<Chosen>,
    uses: u64,
    /// For each layer whether a choice of a hopeful step was missing.
    notes: Option<DeviceBuffer>,
    /// Careful steps in a row that found all that they chose.
    found_all: u32,
    /// Whether this step has missed one.
    has_missed: bool,
}

/// The choices of a step's tokens in a layer.
pub(super) struct Chosen {
    pub layer: usize,
    pub ids: Vec<u32>,
    pub weights: Vec<f32>,
    /// The experts among them, ascending, and how many tokens use each.
    pub experts: Vec<u32>,
    counts: Vec<u32>,
}

impl DeviceExperts {
    pub fn new(bytes: Option<u64>) -> DeviceExperts {
        DeviceExperts {
            bytes,
            ..DeviceExperts::default()
        }
    }

    /// A layer with at least `least` slots, which are made when it is first used.
    pub fn open(
        &mut self,
        gpu: &Gpu,
        stage: &ExpertStage,
        (layer, least): (usize, usize),
    ) -> Result<&mut Layer, Error> {
        use std::collections::btree_map::Entry;
        let open = self.layers.get(&layer);
        let has_room = open.is_some_and(|open| open.slots() >= least);
        if let Some(bytes) = self.bytes.filter(|_| !has_room) {
            budget::check(stage, bytes, least)?;
        }
        Ok(match self.layers.entry(layer) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => {
                let experts = stage.residency.experts(layer) as usize;
                let share = self.bytes.map(|b| b / stage.layers().count().max(1) as u64);
                let layout = stage.layout(layer)?;
                place.insert(Layer::new(gpu, layout, (experts, least), share)?)
            }
        })
    }

    /// A layer that is open.
    pub fn layer(&self, layer: usize) -> Result<&Layer, Error> {
        let none = || Error::Internal(format!("layer {layer} has no slots"));
        self.layers.get(&layer).ok_or_else(none)
    }

    /// Takes what [`GpuBackend::request_experts`] brought of a layer's choices.
    pub fn take_chosen(&mut self, layer: usize) -> Option<Chosen> {
        self.chosen.take().filter(|chosen| chosen.layer == layer)
    }

    /// Whether all experts of all layers are on the device.
    pub fn is_complete(&self) -> bool {
        !self.layers.is_empty() && self.layers.values().all(Layer::is_complete)
    }

    /// Whether a step that begins now need not look at what its tokens choose before it has ended.
    pub fn is_hopeful(&mut self, r: &mut Recorder) -> Result<bool, Error> {
        /// Careful steps that must have found all that they chose.
        const TRIALS: u32 = 3;
        self.found_all = match self.has_missed {
            true => 0,
            false => self.found_all.saturating_add(1),
        };
        self.has_missed = false;
        if self.is_complete() {
            return Ok(true);
        }
        if self.layers.is_empty() || self.found_all <= TRIALS {
            return Ok(false);
        }
        let count = self.layers.keys().last().map_or(0, |last| last + 1);
        let zeros = vec![0u8; count * 4];
        match &self.notes {
            Some(notes) if notes.bytes() >= zeros.len() as u64 => r.write(notes, 0, &zeros),
            _ => self.notes = Some(r.gpu().buffer_with("missing experts", &zeros)?),
        }
        Ok(true)
    }

    /// The first layer of which a choice of the hopeful step that was just recorded was missing.
    pub fn first_missed(&mut self, r: &mut Recorder) -> Result<Option<usize>, Error> {
        let Some(notes) = self.notes.as_ref().filter(|_| !self.is_complete()) else {
            return Ok(None);
        };
        let notes: Vec<u32> = bytemuck::pod_collect_to_vec(&r.read(&[notes.into()])?);
        let missed = notes.iter().position(|&note| note != 0);
        self.has_missed |= missed.is_some();
        Ok(missed)
    }

    /// Where hopeful steps note a missing choice of an incomplete layer.
    pub fn notes(&self, layer: usize) -> Option<(View<'_>, usize)> {
        Some((self.notes.as_ref()?.into(), layer))
    }

    /// Fills free slots with experts, as many as there are.
    pub fn warm(&mut self, r: &mut Recorder, stage: &mut ExpertStage) -> Result<(), Error> {
        /// Experts that are asked for together.
        const TOGETHER: usize = 16;
        let gpu = r.gpu().clone();
        let layers: Vec<usize> = stage.layers().collect();
        for layer in layers {
            let open = self.open(&gpu, stage, (layer, 1))?;
            let absent = (0..).zip(&open.slot_of).filter(|(_, slot)| **slot == NONE);
            let free = open.owners.iter().filter(|(owner, _)| owner.is_none());
            let absent: Vec<u32> = absent.map(|(id, _)| id).take(free.count()).collect();
            for part in absent.chunks(TOGETHER) {
                self.ensure(r, stage, layer, part)?;
            }
            r.submit();
            gpu.check()?;
        }
        self.has_missed = false;
        Ok(())
    }

    /// Forgets what all slots hold.
    pub fn cool(&mut self) {
        self.chosen = None;
        self.has_missed = true;
        for layer in self.layers.values_mut() {
            (0..layer.slots()).for_each(|slot| layer.empty(slot));
            layer.is_told = false;
        }
    }

    /// Brings the experts `wanted` (ascending, no more than the layer has slots) to the device; all
    /// of them keep their slots at least until the next call. Gives how many were not there.
    pub fn ensure(
        &mut self,
        r: &mut Recorder,
        stage: &mut ExpertStage,
        layer: usize,
        wanted: &[u32],
    ) -> Result<usize, Error> {
        self.uses += 1;
        let now = self.uses;
        let none = || Error::Internal(format!("layer {layer} has no slots"));
        let slots = self.layers.get_mut(&layer).ok_or_else(none)?;
        slots.note_uses(wanted, now);
        let (missing, _) = slots.missing(wanted);
        if missing.is_empty() {
            return Ok(0);
        }
        self.has_missed = true;
        slots.is_told = false;
        let layout = stage.layout(layer)?.clone();
        let form = slots.form();
        let uploads = self.uploads.get_or_insert_with(Uploads::new);
        stage.hand_out(layer, &missing, &mut |experts| {
            let mut placed = Vec::with_capacity(experts.len());
            for &(id, bytes) in experts {
                placed.push((slots.take_slot(id, now)?, bytes));
            }
            let result = uploads.experts(r, (&slots.slots, &form), &layout, &placed);
            for &(slot, _) in &placed {
                match result {
                    Ok(()) => r.gpu().tier.brought(form.bytes as u64),
                    // What the slot holds now is nobody's.
                    Err(_) => slots.empty(slot),
                }
            }
            result
        })?;
        uploads.bytes(r, &slots.table, bytemuck::cast_slice(&slots.slot_of))?;
        slots.is_told = true;
        Ok(missing.len())
    }

    /// Has the device know which experts have slots: all of them, or those of `only`.
    pub fn tell(&mut self, r: &mut Recorder, layer: usize, only: Option<&[u32]>) {
        if let Some(slots) = self.layers.get_mut(&layer) {
            slots.tell(r, only);
        }
    }
}

impl Chosen {
    fn new(layer: usize, ids: Vec<u32>, weights: Vec<f32>) -> Chosen {
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        let tally = sorted.chunk_by(|a, b| a == b);
        let (experts, counts) = tally.map(|same| (same[0], same.len() as u32)).unzip();
        Chosen {
            layer,
            ids,
            weights,
            experts,
            counts,
        }
    }

    /// Those of the experts that have no slot, and how many tokens use each.
    fn missing(&self, slots: &Layer) -> (Vec<u32>, Vec<u32>) {
        let counts = self.experts.iter().copied();
        let counts = counts.zip(self.counts.iter().copied());
        let missing = counts.filter(|(id, _)| slots.slot_of[*id as usize] == NONE);
        missing.unzip()
    }
}
