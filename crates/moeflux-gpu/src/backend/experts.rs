//! The routed experts on the device: each layer has slots of its own and a table of which expert
//! has which slot, so that where all experts have one, no choice needs to come to the host.

use std::collections::BTreeMap;

use moeflux::Error;
use moeflux::backend::ExpertStage;
use moeflux::graph::{BufferPool, Op};
use moeflux::weights::ExpertLayout;

use super::{GpuBackend, wrong_op};
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
    packed: Vec<u8>,
    uses: u64,
}

/// The choices of a step's tokens in a layer.
struct Chosen {
    layer: usize,
    ids: Vec<u32>,
    weights: Vec<f32>,
    /// The experts among them, ascending, and how many tokens use each.
    experts: Vec<u32>,
    counts: Vec<u32>,
}

/// One layer's slots.
struct Layer {
    gate: (Form, Place),
    up: (Form, Place),
    down: (Form, Place),
    slot_bytes: usize,
    slots: DeviceBuffer,
    table: DeviceBuffer,
    /// Slot of each expert.
    slot_of: Vec<u32>,
    /// Expert of each slot, and when it was last used.
    owners: Vec<(Option<u32>, u64)>,
}

impl DeviceExperts {
    pub fn new(bytes: Option<u64>) -> DeviceExperts {
        DeviceExperts {
            bytes,
            ..DeviceExperts::default()
        }
    }

    /// Makes the layer's slots when it is first used.
    fn open(&mut self, gpu: &Gpu, stage: &ExpertStage, layer: usize) -> Result<(), Error> {
        if self.layers.contains_key(&layer) {
            return Ok(());
        }
        let experts = stage.residency.experts(layer) as usize;
        let share = self.bytes.map(|b| b / stage.layers().count().max(1) as u64);
        let new = Layer::new(gpu, stage.layout(layer)?, experts, share)?;
        self.layers.insert(layer, new);
        Ok(())
    }
}

impl Chosen {
    fn new(layer: usize, ids: Vec<u32>, weights: Vec<f32>) -> Chosen {
        let mut tally: BTreeMap<u32, u32> = BTreeMap::new();
        for &id in &ids {
            *tally.entry(id).or_default() += 1;
        }
        Chosen {
            layer,
            ids,
            weights,
            experts: tally.keys().copied().collect(),
            counts: tally.values().copied().collect(),
        }
    }
}

impl Layer {
    fn new(
        gpu: &Gpu,
        layout: &ExpertLayout,
        experts: usize,
        bytes: Option<u64>,
    ) -> Result<Layer, Error> {
        let end = [&layout.gate, &layout.up, &layout.down].map(|m| m.end());
        let empty = vec![0; end.into_iter().max().unwrap_or(0)];
        let form = |m: &moeflux::weights::MatrixLayout| {
            let form = Form::of(&m.view(&empty)?);
            form.check()?;
            Ok::<_, Error>(form)
        };
        let (gate, up, down) = (form(&layout.gate)?, form(&layout.up)?, form(&layout.down)?);
        let starts = [0, gate.bytes(), gate.bytes() + up.bytes()];
        let slot_bytes = starts[2] + down.bytes();
        let limit = gpu.most_bytes_bound().min(bytes.unwrap_or(u64::MAX));
        let mut count = experts.min((limit / slot_bytes as u64) as usize).max(1);
        let slots = loop {
            match gpu.buffer("experts", (count * slot_bytes) as u64) {
                Err(GpuError::OutOfMemory { .. }) if count > 1 && bytes.is_none() => count /= 2,
                made => break made?,
            }
        };
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
        })
    }

    fn is_complete(&self) -> bool {
        self.slot_of.iter().all(|&slot| slot != NONE)
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

    /// Computes what the experts of `only` (all that have slots where it is `None`) give.
    fn compute(
        &self,
        r: &mut Recorder,
        v: &ExpertViews<'_>,
        only: Option<&[u32]>,
    ) -> Result<(), GpuError> {
        if let Some(only) = only {
            let mut table = vec![NONE; self.slot_of.len()];
            for &expert in only {
                table[expert as usize] = self.slot_of[expert as usize];
            }
            r.write(&self.table, 0, bytemuck::cast_slice(&table));
        }
        let n = v.n * v.top_k;
        let experts = ExpertSlots {
            slots: (&self.slots).into(),
            slot_bytes: self.slot_bytes,
            table: (&self.table).into(),
            ids: v.ids,
            n,
        };
        let ((gate, gate_place), (up, up_place)) = (self.gate, self.up);
        let act_bytes = (n * gate.rows * 4) as u64;
        let act = r.scratch("experts: activations", act_bytes)?;
        if gate == up {
            let places = (&gate, gate_place, up_place);
            ops::expert_swiglu(
                r,
                &experts,
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
                &experts,
                (&gate, gate_place),
                x,
                View::first(&gated, act_bytes),
            )?;
            ops::expert_matvec(
                r,
                &experts,
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
            &experts,
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
            layer,
            ..
        } = op
        else {
            return Err(wrong_op(op));
        };
        self.experts.open(&self.gpu, stage, layer)?;
        let Some(slots) = self.experts.layers.get(&layer) else {
            return Ok(());
        };
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
        pool: &BufferPool,
        stage: &mut ExpertStage,
    ) -> Result<(), Error> {
        let &Op::Experts {
            x,
            ids,
            weights,
            top_k,
            layer,
            out,
        } = op
        else {
            return Err(wrong_op(op));
        };
        self.experts.open(&self.gpu, stage, layer)?;
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
        let none = || Error::Internal(format!("layer {layer} has no slots"));
        let slots = self.layers.get_mut(&layer).ok_or_else(none)?;
        if slots.is_complete() {
            return Ok(slots.compute(r, views, None)?);
        }
        let chosen = match self.chosen.take().filter(|c| c.layer == layer) {
            Some(chosen) => chosen,
            None => choices(r, layer, views.ids, weights)?,
        };
        r.submit();
        stage.residency.note(layer, &chosen.ids, &chosen.weights)?;
        // More experts than slots take turns.
        for turn in chosen.experts.chunks(slots.owners.len()) {
            self.uses += 1;
            let now = self.uses;
            for &id in turn {
                if let Some(owner) = slots.owners.get_mut(slots.slot_of[id as usize] as usize) {
                    owner.1 = now;
                }
            }
            let missing = turn.iter().copied();
            let missing = missing.filter(|&id| slots.slot_of[id as usize] == NONE);
            let missing: Vec<u32> = missing.collect();
            let layout = stage.layout(layer)?.clone();
            let packed = &mut self.packed;
            stage.hand_out(layer, &missing, &mut |id, bytes| {
                packed.clear();
                slots.gate.0.pack(&layout.gate.view(bytes)?, packed);
                slots.up.0.pack(&layout.up.view(bytes)?, packed);
                slots.down.0.pack(&layout.down.view(bytes)?, packed);
                let slot = slots.take_slot(id, now)?;
                r.write(&slots.slots, (slot * slots.slot_bytes) as u64, packed);
                Ok(())
            })?;
            slots.compute(r, views, Some(turn))?;
        }
        if slots.is_complete() {
            r.write(&slots.table, 0, bytemuck::cast_slice(&slots.slot_of));
        }
        Ok(())
    }
}

/// Brings the tokens' choices to the host.
fn choices(
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
