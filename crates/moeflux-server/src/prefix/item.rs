//! A piece of state in memory, on disk, or both.

use std::sync::Arc;

use moeflux::{KeyValues, RecurrentState};

/// What can be kept.
pub trait Payload {
    /// Its bytes in memory.
    fn bytes(&self) -> u64;
}

impl Payload for KeyValues {
    fn bytes(&self) -> u64 {
        KeyValues::bytes(self)
    }
}

impl Payload for RecurrentState {
    fn bytes(&self) -> u64 {
        RecurrentState::bytes(self)
    }
}

/// Where state can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// In memory.
    Memory,
    /// In the folder.
    Disk,
}

/// Whether a piece of state is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disk {
    /// Not yet.
    Never,
    /// In a file of so many bytes.
    Filed(u64),
    /// It was, and had to go: it is not written again.
    Gone,
}

/// A piece of state.
#[derive(Debug)]
pub struct Item<T> {
    /// The state, if it is in memory.
    pub memory: Option<Arc<T>>,
    pub disk: Disk,
    /// When it was last of use.
    pub stamp: u64,
}

impl<T: Payload> Item<T> {
    /// Nothing yet.
    pub fn empty(stamp: u64) -> Item<T> {
        Item {
            memory: None,
            disk: Disk::Never,
            stamp,
        }
    }

    /// Whether it is in `tier`.
    pub fn is_in(&self, tier: Tier) -> bool {
        match tier {
            Tier::Memory => self.memory.is_some(),
            Tier::Disk => matches!(self.disk, Disk::Filed(_)),
        }
    }

    /// Whether it is anywhere.
    pub fn is_somewhere(&self) -> bool {
        self.is_in(Tier::Memory) || self.is_in(Tier::Disk)
    }

    /// Bytes in `tier`.
    pub fn bytes(&self, tier: Tier) -> u64 {
        match (tier, &self.memory, self.disk) {
            (Tier::Memory, Some(memory), _) => memory.bytes(),
            (Tier::Disk, _, Disk::Filed(bytes)) => bytes,
            _ => 0,
        }
    }

    /// It is not in `tier` any more.
    pub fn let_go(&mut self, tier: Tier) {
        match tier {
            Tier::Memory => self.memory = None,
            Tier::Disk if self.is_in(Tier::Disk) => self.disk = Disk::Gone,
            Tier::Disk => {}
        }
    }
}
