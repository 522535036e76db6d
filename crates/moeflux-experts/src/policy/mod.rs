//! Which expert to evict. A policy knows slots and opaque keys; it never sees bytes or states.
//!
//! Uses are reported in the order of the request, not of arrival, so that what is evicted does
//! not depend on the timing of reads as long as a lease fits in the arena.

mod belady;
mod frequency;
mod lru;
mod queue;
mod ranked;
mod victims;

use std::fmt;
use std::str::FromStr;

use crate::error::ExpertError;

use belady::Belady;
use frequency::Frequency;
use lru::Lru;
use ranked::Ranked;

pub use victims::Pass;
pub(crate) use victims::Victims;

/// Uses, as a multiple of the slots, after which a use counts half. Long enough that an expert's
/// rank rests on several uses of it, short enough that a new topic shows within some answers.
const HALF_LIFE_PER_SLOT: f64 = 8.0;

/// Chooses victims. A slot in use is never one: [`Policy::admit`] and [`Policy::touch`] put a slot
/// in use, [`Policy::release`] ends it. No call allocates; victims take O(log slots).
pub(crate) trait Policy: Send + Sync {
    /// The slot is about to hold `key`, and in use.
    fn admit(&mut self, slot: u32, key: u32);
    /// What the slot holds is used again, and in use.
    fn touch(&mut self, slot: u32);
    /// The slot is no longer in use, and may be a victim.
    fn release(&mut self, slot: u32);
    /// The slot to evict, forgotten at once; none if all are in use or empty.
    fn victim(&mut self) -> Option<u32>;
    /// The slot holds nothing any more.
    fn forget(&mut self, slot: u32);
    /// How often each expert was used before the start, by key.
    fn seed(&mut self, _uses: &[f32]) {}
}

/// The policies by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PolicyKind {
    /// `lru`: the least recently used expert goes first.
    #[default]
    Lru,
    /// `frequency`: the expert least used goes first, where older uses count less.
    Frequency,
}

impl PolicyKind {
    /// All of them.
    pub const ALL: [PolicyKind; 2] = [PolicyKind::Lru, PolicyKind::Frequency];

    /// For layers of so many `experts`, whose keys go through them in order.
    pub(crate) fn create(self, slots: usize, experts: &[u32]) -> Box<dyn Policy> {
        let keys = experts.iter().map(|&n| n as usize).sum();
        match self {
            PolicyKind::Lru => Box::new(Ranked::new(Lru::new(keys), slots)),
            PolicyKind::Frequency => {
                let half_life = HALF_LIFE_PER_SLOT * slots as f64;
                Box::new(Ranked::new(Frequency::new(keys, half_life), slots))
            }
        }
    }
}

/// Belady's rule over `uses`: (time, key) in order of time.
pub(crate) fn belady(slots: usize, keys: usize, uses: &[(u32, u32)]) -> Box<dyn Policy> {
    Box::new(Ranked::new(Belady::new(keys, uses), slots))
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            PolicyKind::Lru => "lru",
            PolicyKind::Frequency => "frequency",
        })
    }
}

impl FromStr for PolicyKind {
    type Err = ExpertError;

    fn from_str(name: &str) -> Result<PolicyKind, ExpertError> {
        match name {
            "lru" => Ok(PolicyKind::Lru),
            "frequency" => Ok(PolicyKind::Frequency),
            _ => Err(ExpertError::UnknownName {
                what: "policy",
                given: name.into(),
                known: "lru, frequency",
            }),
        }
    }
}
