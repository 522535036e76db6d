//! Where each expert is now, for people who watch.

use crate::residency::{NO_SLOT, Residency, SlotState};

/// Where an expert is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// On disk only.
    Absent,
    /// On its way to memory.
    Reading,
    /// In memory by a guess that nobody has asked for yet.
    Guess,
    /// In memory.
    Present,
}

/// The experts of a layer.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerPresence {
    /// The layer.
    pub layer: usize,
    /// By expert: where it is.
    pub experts: Vec<Presence>,
    /// By expert: how often it was used since the start, as [`Residency::uses`] counts.
    pub uses: Vec<f32>,
}

impl Residency {
    /// Where the experts of all layers are.
    pub fn presence(&self) -> Vec<LayerPresence> {
        let mut first = 0;
        let of_layer = |(layer, experts): (usize, u32)| {
            let keys = first..first + experts as usize;
            first = keys.end;
            LayerPresence {
                layer,
                experts: keys.clone().map(|key| self.whereabouts(key)).collect(),
                uses: self.uses()[keys].to_vec(),
            }
        };
        self.index.layers().map(of_layer).collect()
    }

    fn whereabouts(&self, key: usize) -> Presence {
        match self.slot_of[key] {
            NO_SLOT => Presence::Absent,
            slot => match self.slots[slot as usize].state {
                SlotState::Filling | SlotState::FillingAhead => Presence::Reading,
                SlotState::Guess => Presence::Guess,
                SlotState::Ready | SlotState::Pinned => Presence::Present,
                SlotState::Free | SlotState::Retired => Presence::Absent,
            },
        }
    }
}
