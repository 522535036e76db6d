//! The routed experts on the device: each layer has slots of its own and a table of which expert
//! has which slot, so that where all experts have one, no choice needs to come to the host.

use std::collections::BTreeMap;

use moeflux::Error;
use moeflux::backend::{ExpertStage, Step};
use moeflux::graph::{BufferPool, ExpertForm, Op};
use moeflux::weights::ExpertLayout;

use super::prompt::{self, ExpertForms, Run};
use super::upload::{SlotForm, upload};
use super::{GpuBackend, budget, wrong_op};
use crate::matrix::{Form, Place};
use crate::ops::{self, CombineViews, ExpertSlots};
use crate::{DeviceBuffer, Gpu, GpuError, Recorder, View};

/// An expert without a slot.
const NONE: u32 = u32::MAX;

/// The experts of all layers.
#[derive(Default)]
pub(super) struct DeviceExperts {
    bytes: Option<u64>,
    layers: BTreeMap<usize, Layer>,
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

/// One layer's slots.
pub(super) struct Layer {
    pub gate: (Form, Place),
    pub up: (Form, Place),
    pub down: (Form, Place),
    pub slot_bytes: usize,
    pub slots: DeviceBuffer,
    pub table: DeviceBuffer,
    /// Slot of each expert.
    slot_of: Vec<u32>,
    /// Expert of each slot, and when it was last used.
    owners: Vec<(Option<u32>, u64)>,
    /// Whether the table on the device is `slot_of`.
    is_told: bool,
}

impl DeviceExperts {
    pub fn new(bytes: Option<u64>) -> DeviceExperts {
        DeviceExperts {
            bytes,
            ..DeviceExperts::default()
        }
    }

    /// A layer, whose slots are made when it is first used: at least `least`.
    pub fn open(
        &mut self,
        gpu: &Gpu,
        stage: &ExpertStage,
        (layer, least): (usize, usize),
    ) -> Result<&mut Layer, Error> {
        use std::collections::btree_map::Entry;
        Ok(match self.layers.entry(layer) {
            Entry::Occupied(open) => open.into_mut(),
            Entry::Vacant(place) => {
                let experts = stage.residency.experts(layer) as usize;
                let share = self.bytes.map(|b| b / stage.layers().count().max(1) as u64);
                if let Some(bytes) = self.bytes {
                    budget::check(stage, bytes, least)?;
                }
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
    fn is_complete(&self) -> bool {
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

    /// Whether a choice of the hopeful step that was just recorded was missing.
    pub fn is_disappointed(&mut self, r: &mut Recorder) -> Result<bool, Error> {
        let Some(notes) = self.notes.as_ref().filter(|_| !self.is_complete()) else {
            return Ok(false);
        };
        let notes = r.read(&[notes.into()])?;
        self.has_missed = notes.iter().any(|&byte| byte != 0);
        Ok(self.has_missed)
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
                gpu.flush()?;
            }
            if let Some(open) = self.layers.get_mut(&layer) {
                open.tell(r, None);
            }
        }
        self.has_missed = false;
        Ok(())
    }

    /// Brings the experts `wanted` (ascending, no more than the layer has slots) to the device; all
    /// of them keep their slots at least until the next call.
    pub fn ensure(
        &mut self,
        r: &mut Recorder,
        stage: &mut ExpertStage,
        layer: usize,
        wanted: &[u32],
    ) -> Result<(), Error> {
        self.uses += 1;
        let now = self.uses;
        let none = || Error::Internal(format!("layer {layer} has no slots"));
        let slots = self.layers.get_mut(&layer).ok_or_else(none)?;
        for &id in wanted {
            if let Some(owner) = slots.owners.get_mut(slots.slot_of[id as usize] as usize) {
                owner.1 = now;
            }
        }
        let missing = wanted.iter().copied();
        let missing = missing.filter(|&id| slots.slot_of[id as usize] == NONE);
        let missing: Vec<u32> = missing.collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.has_missed = true;
        slots.is_told = false;
        let layout = stage.layout(layer)?.clone();
        let form = slots.form();
        // What was recorded so far is done with what the slots hold now.
        r.submit();
        let gpu = r.gpu();
        stage.hand_out(layer, &missing, &mut |experts| {
            let mut placed = Vec::with_capacity(experts.len());
            for &(id, bytes) in experts {
                placed.push((slots.take_slot(id, now)?, bytes));
            }
            gpu.tier.brought((placed.len() * form.bytes) as u64);
            upload(gpu, (&slots.slots, &form), &layout, &placed)
        })
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
}

impl Layer {
    fn new(
        gpu: &Gpu,
        layout: &ExpertLayout,
        (experts, least): (usize, usize),
        bytes: Option<u64>,
    ) -> Result<Layer, Error> {
        let [gate, up, down] = budget::forms(layout)?;
        let starts = [0, gate.bytes(), gate.bytes() + up.bytes()];
        let slot_bytes = starts[2] + down.bytes();
        let limit = gpu.most_bytes_bound().min(bytes.unwrap_or(u64::MAX));
        let fits = (limit / slot_bytes as u64) as usize;
        let mut count = experts.min(fits.max(least).max(1));
        let slots = loop {
            match gpu.buffer("experts", (count * slot_bytes) as u64) {
                Err(GpuError::OutOfMemory { .. }) if count > 1 && bytes.is_none() => count /= 2,
                made => break made?,
            }
        };
        gpu.tier.opened(count, slots.bytes());
        let slot_of = vec![NONE; experts];
        Ok(Layer {
            gate: (gate, gate.place(starts[0])),
            up: (up, up.place(starts[1])),
            down: (down, down.place(starts[2])),
            slot_bytes,
            slots,
            table: gpu.buffer_with("slots of experts", bytemuck::cast_slice(&slot_of))?,
            slot_of,
            owners: vec![(None, 0); count],
            is_told: true,
        })
    }

    pub fn is_complete(&self) -> bool {
        self.is_told && self.slot_of.iter().all(|&slot| slot != NONE)
    }

    fn form(&self) -> SlotForm {
        let matrices = [self.gate, self.up, self.down];
        SlotForm {
            matrices: matrices.map(|(form, place)| (form, place.weights as usize * 16)),
            bytes: self.slot_bytes,
        }
    }

    /// Slots.
    pub fn slots(&self) -> usize {
        self.owners.len()
    }

    fn tell(&mut self, r: &mut Recorder, only: Option<&[u32]>) {
        if let Some(only) = only {
            let mut table = vec![NONE; self.slot_of.len()];
            for &expert in only {
                table[expert as usize] = self.slot_of[expert as usize];
            }
            r.write(&self.table, 0, bytemuck::cast_slice(&table));
            self.is_told = false;
        } else if !self.is_told {
            r.write(&self.table, 0, bytemuck::cast_slice(&self.slot_of));
            self.is_told = true;
        }
    }

    /// Gives `expert` the slot that was used longest ago, but none that was used at `now`.
    fn take_slot(&mut self, expert: u32, now: u64) -> Result<usize, Error> {
        let free = self.owners.iter().enumerate().filter(|(_, o)| o.1 < now);
        let (slot, _) = free
            .min_by_key(|(_, (owner, used))| (owner.is_some(), *used))
            .ok_or_else(|| Error::Internal("all slots of a layer are in use".to_owned()))?;
        if let (Some(before), _) = self.owners[slot] {
            self.slot_of[before as usize] = NONE;
        }
        self.slot_of[expert as usize] = slot as u32;
        self.owners[slot] = (Some(expert), now);
        Ok(slot)
    }

    /// Computes what the experts give that the table on the device knows.
    fn compute(&self, r: &mut Recorder, v: &ExpertViews<'_>) -> Result<(), GpuError> {
        let n = v.n * v.top_k;
        let experts = ExpertSlots {
            slots: (&self.slots).into(),
            slot_bytes: self.slot_bytes,
            table: (&self.table).into(),
            ids: v.ids,
            n,
        };
        if v.prompts != [(0, v.n)] {
            self.one_by_one(r, &experts, v)?;
        }
        let act_bytes = (n * self.gate.0.rows * 4) as u64;
        let forms = ExpertForms {
            gate: &self.gate,
            up: &self.up,
            down: &self.down,
            count: self.slot_of.len(),
        };
        for &run in &v.prompts {
            let act = r.scratch("experts: activations", act_bytes)?;
            let act = View::first(&act, act_bytes);
            let views = (v.x, act, v.results);
            prompt::experts(r, (&experts, &forms), views, run, v.top_k)?;
        }
        Ok(())
    }

    fn one_by_one(
        &self,
        r: &mut Recorder,
        experts: &ExpertSlots<'_>,
        v: &ExpertViews<'_>,
    ) -> Result<(), GpuError> {
        let ((gate, gate_place), (up, up_place)) = (self.gate, self.up);
        let act_bytes = (experts.n * gate.rows * 4) as u64;
        let act = r.scratch("experts: activations", act_bytes)?;
        if gate == up {
            let places = (&gate, gate_place, up_place);
            ops::expert_swiglu(
                r,
                experts,
                places,
                (v.x, v.top_k),
                View::first(&act, act_bytes),
            )?;
        } else {
            let gated = r.scratch("experts: gates", act_bytes)?;
            let upped = r.scratch("experts: ups", act_bytes)?;
            let x = (v.x, v.top_k);
            ops::expert_matvec(
                r,
                experts,
                (&gate, gate_place),
                x,
                View::first(&gated, act_bytes),
            )?;
            ops::expert_matvec(
                r,
                experts,
                (&up, up_place),
                x,
                View::first(&upped, act_bytes),
            )?;
            ops::swiglu(
                r,
                View::first(&gated, act_bytes),
                View::first(&upped, act_bytes),
                View::first(&act, act_bytes),
            )?;
        }
        let down = (&self.down.0, self.down.1);
        ops::expert_matvec(
            r,
            experts,
            down,
            (View::first(&act, act_bytes), 1),
            v.results,
        )
    }
}

/// What a layer's experts work on.
struct ExpertViews<'a> {
    x: View<'a>,
    ids: View<'a>,
    /// `[n, top_k, hidden]`.
    results: View<'a>,
    n: usize,
    top_k: usize,
    /// Rows that are of prompts.
    prompts: Vec<Run>,
}

impl GpuBackend {
    /// Asks for the experts that are not on the device, so that they are read while other
    /// operations run.
    pub(super) fn request_experts(
        &mut self,
        op: &Op,
        pool: &BufferPool,
        stage: &mut ExpertStage,
    ) -> Result<(), Error> {
        let &Op::RequestExperts {
            ids,
            weights,
            top_k,
            layer,
        } = op
        else {
            return Err(wrong_op(op));
        };
        let slots = self.experts.open(&self.gpu, stage, (layer, top_k))?;
        if slots.is_complete() {
            return Ok(());
        }
        let (ids, weights) = (
            self.buffers.view(pool, ids)?,
            self.buffers.view(pool, weights)?,
        );
        let chosen = choices(&mut self.recorder, layer, ids, weights)?;
        let pairs = chosen
            .experts
            .iter()
            .copied()
            .zip(chosen.counts.iter().copied());
        let missing = pairs.filter(|(id, _)| slots.slot_of[*id as usize] == NONE);
        let (missing, counts): (Vec<u32>, Vec<u32>) = missing.unzip();
        if !missing.is_empty() {
            stage.residency.request(layer, &missing, &counts)?;
        }
        self.experts.chosen = Some(chosen);
        Ok(())
    }

    pub(super) fn routed_experts(
        &mut self,
        op: &Op,
        step: &Step<'_>,
        pool: &BufferPool,
        stage: &mut ExpertStage,
    ) -> Result<(), Error> {
        let &Op::Experts {
            x,
            ids,
            weights,
            top_k,
            layer,
            form,
            out,
        } = op
        else {
            return Err(wrong_op(op));
        };
        if form != ExpertForm::default() {
            return Err(wrong_op(op));
        }
        self.experts.open(&self.gpu, stage, (layer, top_k))?;
        let n = pool.len(ids) / top_k;
        let width = pool.len(x) / n;
        let result_bytes = (n * top_k * width * 4) as u64;
        let results = self.recorder.scratch("experts: results", result_bytes)?;
        let views = ExpertViews {
            x: self.buffers.view(pool, x)?,
            ids: self.buffers.view(pool, ids)?,
            results: View::first(&results, result_bytes),
            n,
            top_k,
            prompts: prompt::prompt_rows(step),
        };
        let (weights, out) = (
            self.buffers.view(pool, weights)?,
            self.buffers.view(pool, out)?,
        );
        self.experts
            .run(&mut self.recorder, layer, &views, weights, stage)?;
        let sums = CombineViews {
            rows: views.results,
            places: None,
            ids: views.ids,
            weights,
            out,
        };
        Ok(ops::combine(&mut self.recorder, &sums, width, top_k, n)?)
    }
}

impl DeviceExperts {
    fn run(
        &mut self,
        r: &mut Recorder,
        layer: usize,
        views: &ExpertViews<'_>,
        weights: View<'_>,
        stage: &mut ExpertStage,
    ) -> Result<(), Error> {
        let slots = self.layer(layer)?;
        if slots.is_complete() {
            return Ok(slots.compute(r, views)?);
        }
        let room = slots.slots();
        let chosen = match self.take_chosen(layer) {
            Some(chosen) => chosen,
            None => choices(r, layer, views.ids, weights)?,
        };
        r.submit();
        stage.residency.note(layer, &chosen.ids, &chosen.weights)?;
        // More experts than slots take turns.
        let takes_turns = chosen.experts.len() > room;
        for turn in chosen.experts.chunks(room) {
            self.ensure(r, stage, layer, turn)?;
            self.tell(r, layer, takes_turns.then_some(turn));
            self.layer(layer)?.compute(r, views)?;
        }
        self.tell(r, layer, None);
        Ok(())
    }
}

/// Brings the tokens' choices to the host.
pub(super) fn choices(
    r: &mut Recorder,
    layer: usize,
    ids: View<'_>,
    weights: View<'_>,
) -> Result<Chosen, Error> {
    let bytes = r.read(&[ids, weights])?;
    let (ids, weights) = bytes.split_at(bytes.len() / 2);
    Ok(Chosen::new(
        layer,
        bytemuck::pod_collect_to_vec(ids),
        bytemuck::pod_collect_to_vec(weights),
    ))
}
