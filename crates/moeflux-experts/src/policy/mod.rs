//! Which expert to evict. A policy knows slots and opaque keys; it never sees bytes or states.
//!
//! Uses are reported in the order of the request, not of arrival, so that what is evicted does
//! not depend on the timing of reads as long as a lease fits in the arena.

mod belady;
mod frequency;
mod least_stale;
mod lru;
mod pinned;
mod queue;
mod ranked;
mod victims;

use std::fmt;
use std::str::FromStr;

use crate::error::ExpertError;

use belady::Belady;
use frequency::Frequency;
use least_stale::LeastStale;
use lru::Lru;
use pinned::Pinned;
use ranked::Ranked;

pub use victims::Pass;
pub(crate) use victims::Victims;

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
    Lru,
    /// `frequency`: the expert least used goes first, where older uses count less.
    #[default]
    Frequency,
    /// `least-stale`: what its layer did not use in its last turn goes first, and of that what is
    /// farthest from its next turn.
    LeastStale,
    /// `pinned`: the experts that were most popular before the start stay, of the others the least
    /// recently used goes.
    Pinned,
}

impl PolicyKind {
    /// All of them.
    pub const ALL: [PolicyKind; 4] = [
        PolicyKind::Lru,
        PolicyKind::Frequency,
        PolicyKind::LeastStale,
        PolicyKind::Pinned,
    ];

    /// For layers of so many `experts`, whose keys go through them in order.
    pub(crate) fn create(self, slots: usize, experts: &[u32]) -> Box<dyn Policy> {
        let keys = experts.iter().map(|&n| n as usize).sum();
        match self {
            PolicyKind::Lru => Box::new(Ranked::new(Lru::new(keys), slots)),
            PolicyKind::Frequency => Box::new(Ranked::new(Frequency::new(keys), slots)),
            PolicyKind::LeastStale => Box::new(LeastStale::new(slots, experts)),
            PolicyKind::Pinned => Box::new(Ranked::new(Pinned::new(slots, keys), slots)),
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
            PolicyKind::LeastStale => "least-stale",
            PolicyKind::Pinned => "pinned",
        })
    }
}

impl FromStr for PolicyKind {
    type Err = ExpertError;

    fn from_str(name: &str) -> Result<PolicyKind, ExpertError> {
        let found = PolicyKind::ALL
            .into_iter()
            .find(|kind| kind.to_string() == name);
        found.ok_or_else(|| ExpertError::UnknownName {
            what: "policy",
            given: name.into(),
            known: "lru, frequency, least-stale, pinned",
        })
    }
}
