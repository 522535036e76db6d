//! One layer's slots on the device, and who has them.

use moeflux::Error;
use moeflux::weights::ExpertLayout;

use super::super::budget;
use super::super::upload::SlotForm;
use crate::matrix::{Form, Place};
use crate::{DeviceBuffer, Gpu, GpuError, Recorder};

/// An expert without a slot.
pub(super) const NONE: u32 = u32::MAX;

/// One layer's slots.
pub(in crate::backend) struct Layer {
    pub gate: (Form, Place),
    pub up: (Form, Place),
    pub down: (Form, Place),
    pub slot_bytes: usize,
    pub slots: DeviceBuffer,
    pub table: DeviceBuffer,
    /// Slot of each expert.
    pub(super) slot_of: Vec<u32>,
    /// Expert of each slot, and when it was last used.
    pub(super) owners: Vec<(Option<u32>, u64)>,
    uses: Uses,
    /// Whether the table on the device is `slot_of`.
    pub(super) is_told: bool,
}

impl Layer {
    pub(super) fn new(
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
        let least = least.max(1);
        let mut count = experts.min(fits.max(least));
        let slots = loop {
            match gpu.buffer("experts", (count * slot_bytes) as u64) {
                Err(GpuError::OutOfMemory { .. }) if count > least && bytes.is_none() => {
                    count = (count / 2).max(least);
                }
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
            uses: Uses::new(experts),
            is_told: true,
        })
    }

    pub fn is_complete(&self) -> bool {
        self.is_told && self.slot_of.iter().all(|&slot| slot != NONE)
    }

    pub(super) fn form(&self) -> SlotForm {
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

    /// Those of `wanted` that have no slot, and how many slots hold nothing yet.
    pub(super) fn missing(&self, wanted: &[u32]) -> (Vec<u32>, usize) {
        let missing = wanted.iter().copied();
        let missing = missing.filter(|&id| self.slot_of[id as usize] == NONE);
        let free = self.owners.iter().filter(|(owner, _)| owner.is_none());
        (missing.collect(), free.count())
    }

    pub(super) fn tell(&mut self, r: &mut Recorder, only: Option<&[u32]>) {
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

    /// Experts are used at `now`; those that have slots keep them until later.
    pub(super) fn note_uses(&mut self, experts: &[u32], now: u64) {
        for &expert in experts {
            self.uses.note(expert);
            let slot = self.slot_of[expert as usize] as usize;
            if let Some(owner) = self.owners.get_mut(slot) {
                owner.1 = now;
            }
        }
    }

    /// Gives `expert` an empty slot, or that of the expert used least, but none used at `now`.
    pub(super) fn take_slot(&mut self, expert: u32, now: u64) -> Result<usize, Error> {
        let free = self.owners.iter().enumerate().filter(|(_, o)| o.1 < now);
        let score = |owner: Option<u32>| owner.map_or(f64::NEG_INFINITY, |e| self.uses.score(e));
        let (slot, _) = free
            .min_by(|(_, a), (_, b)| score(a.0).total_cmp(&score(b.0)).then(a.1.cmp(&b.1)))
            .ok_or_else(|| Error::Internal("all slots of a layer are in use".to_owned()))?;
        self.empty(slot);
        self.slot_of[expert as usize] = slot as u32;
        self.owners[slot] = (Some(expert), now);
        Ok(slot)
    }

    /// Takes a slot from its expert, if it has one.
    pub(super) fn empty(&mut self, slot: usize) {
        let (owner, _) = std::mem::take(&mut self.owners[slot]);
        if let Some(expert) = owner {
            self.slot_of[expert as usize] = NONE;
        }
    }
}

/// How often each expert of a layer was used, older uses counting less: the same count as that of
/// the memory's policy `frequency`.
struct Uses {
    clock: f64,
    half_life: f64,
    /// The logarithm, to base 2, of the sum of 2^(clock / half-life) over an expert's uses.
    scores: Vec<f64>,
}

impl Uses {
    fn new(experts: usize) -> Uses {
        /// Uses, for each expert, after which a use counts half.
        const PER_HALF_LIFE: f64 = 8.0;
        Uses {
            clock: 0.0,
            half_life: PER_HALF_LIFE * experts.max(1) as f64,
            scores: vec![-1e9; experts],
        }
    }

    fn note(&mut self, expert: u32) {
        self.clock += 1.0;
        let Some(score) = self.scores.get_mut(expert as usize) else {
            return;
        };
        let now = self.clock / self.half_life;
        let (low, high) = if *score < now {
            (*score, now)
        } else {
            (now, *score)
        };
        *score = high + (low - high).exp2().ln_1p() * std::f64::consts::LOG2_E;
    }

    fn score(&self, expert: u32) -> f64 {
        self.scores.get(expert as usize).copied().unwrap_or(-1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uses_are_counted_and_fade() {
        let mut uses = Uses::new(4);
        [0, 0, 0, 1, 1, 2]
            .into_iter()
            .for_each(|expert| uses.note(expert));
        let order = |uses: &Uses, a, b| uses.score(a) > uses.score(b);
        assert!(order(&uses, 0, 1) && order(&uses, 1, 2) && order(&uses, 2, 3));
        // A half-life is 32 uses: three old ones are less than one after 64 others.
        (0..64).for_each(|_| uses.note(3));
        uses.note(2);
        assert!(order(&uses, 2, 0) && order(&uses, 3, 2));
    }
}
