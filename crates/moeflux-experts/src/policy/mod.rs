//! Which expert to evict. A policy knows keys and layers; it never sees bytes or states.
//!
//! [`Eviction`] is what residency talks to: it knows which slots may be evicted, what was read
//! ahead of use, and whether the present step is a scan; the [`Policy`] inside it only ranks
//! experts. Uses are reported in the order of the request, not of arrival, so that what is evicted
//! does not depend on the timing of reads as long as a lease fits in the arena.

mod belady;
mod frequency;
mod lru;
mod shelves;

use std::fmt;
use std::str::FromStr;

use crate::error::ExpertError;
pub(crate) use belady::Belady;
use shelves::{Rank, Shelves};

/// Ranks experts by how little they would be missed. No call allocates.
pub(crate) trait Policy: Send + Sync {
    /// A lease on the `layer`-th layer begins.
    fn begin(&mut self, _layer: u32) {}
    /// An expert is used.
    fn used(&mut self, key: u32);
    /// An expert's rank: the lower, the sooner it goes. Within a layer the order of two experts
    /// must not change unless one of them is used.
    fn rank(&self, key: u32) -> Rank;
    /// The rank as it is compared with those of other layers at present.
    fn across(&self, _layer: u32, rank: Rank) -> Rank {
        rank
    }
    /// How often each expert was used before the start, by key.
    fn seed(&mut self, _counts: &[f32]) {}
}

/// Counts passes over the layers.
#[derive(Default)]
struct Pass {
    count: u64,
    /// Layers visited in this pass.
    visited: u32,
}

impl Pass {
    fn begin(&mut self, layer: u32) {
        self.count += u64::from(layer < self.visited);
        self.visited = layer + 1;
    }
}

/// What a step's use of experts looks like, so far as it is known before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Scan {
    /// A few experts of each layer: the policy decides.
    #[default]
    Off,
    /// Most experts of each layer, in a step that another such step follows: an expert is needed
    /// again when its layer's turn comes, so the one goes whose layer is farthest.
    More,
    /// Most experts of each layer, for the last time: what lies ahead stays, and of what lies
    /// behind the policy chooses.
    Last,
}

/// The slots that may be evicted, and the choice among them.
pub(crate) struct Eviction {
    policy: Box<dyn Policy>,
    /// By key: the number of its layer among those with experts.
    layer_of: Vec<u32>,
    layers: u32,
    /// By slot.
    key: Vec<u32>,
    /// By slot: for what was read ahead of use, the turns that its layer had had before.
    ahead: Vec<Option<u32>>,
    /// By layer: leases begun.
    turns: Vec<u32>,
    victims: Shelves,
    /// Slots read ahead whose layer has yet to ask.
    waiting: Shelves,
    scan: Scan,
    /// Layers visited in this step.
    visited: u32,
}

impl Eviction {
    /// Nothing is in any slot yet. `experts` has the number of experts of each layer; keys go
    /// through them in order.
    pub fn new(policy: Box<dyn Policy>, slots: usize, experts: &[u32]) -> Eviction {
        let layer = |(layer, &experts): (usize, &u32)| (0..experts).map(move |_| layer as u32);
        Eviction {
            policy,
            layer_of: experts.iter().enumerate().flat_map(layer).collect(),
            layers: experts.len() as u32,
            key: vec![0; slots],
            ahead: vec![None; slots],
            turns: vec![0; experts.len()],
            victims: Shelves::new(slots, experts),
            waiting: Shelves::new(slots, experts),
            scan: Scan::Off,
            visited: 0,
        }
    }

    /// A step begins.
    pub fn scan(&mut self, scan: Scan) {
        self.scan = scan;
        self.visited = 0;
    }

    /// What was said of the present step.
    pub fn scanning(&self) -> Scan {
        self.scan
    }

    /// How often each expert was used before the start, by key.
    pub fn seed(&mut self, counts: &[f32]) {
        self.policy.seed(counts);
    }

    /// A lease on the `layer`-th layer begins.
    pub fn begin(&mut self, layer: u32) {
        self.visited = layer + 1;
        let turns = &mut self.turns[layer as usize];
        *turns = turns.wrapping_add(1);
        self.policy.begin(layer);
        while let Some((slot, rank)) = self.waiting.lowest(layer) {
            self.waiting.remove(slot);
            self.victims.insert(slot, layer, rank);
        }
    }

    /// The slot is about to hold `key`, and in use.
    pub fn admit(&mut self, slot: u32, key: u32) {
        self.key[slot as usize] = key;
        self.touch(slot);
    }

    /// What the slot holds is used again, and in use.
    pub fn touch(&mut self, slot: u32) {
        self.policy.used(self.key[slot as usize]);
        self.forget(slot);
    }

    /// The slot is about to hold `key`, read ahead of use. It is in use until released, and then
    /// no victim before its layer's turn, unless there is no other.
    pub fn admit_ahead(&mut self, slot: u32, key: u32) {
        self.forget(slot);
        let layer = self.layer_of[key as usize];
        self.key[slot as usize] = key;
        self.ahead[slot as usize] = Some(self.turns[layer as usize]);
    }

    /// The slot is no longer in use, and may be a victim.
    pub fn release(&mut self, slot: u32) {
        let key = self.key[slot as usize];
        let layer = self.layer_of[key as usize];
        let shelves = match self.ahead[slot as usize] {
            Some(turns) if turns == self.turns[layer as usize] => &mut self.waiting,
            _ => &mut self.victims,
        };
        shelves.insert(slot, layer, self.policy.rank(key));
    }

    /// The slot to evict, forgotten at once; none if all are in use or empty.
    pub fn victim(&mut self) -> Option<u32> {
        let visited = self.visited;
        let slot = match self.scan {
            Scan::Off => self.lowest(0..self.layers),
            Scan::More => self.farthest(&self.victims),
            Scan::Last => self
                .lowest(0..visited)
                .or_else(|| self.farthest(&self.victims)),
        };
        let slot = slot.or_else(|| self.farthest(&self.waiting))?;
        self.forget(slot);
        Some(slot)
    }

    /// The slot is in use, or holds nothing any more.
    pub fn forget(&mut self, slot: u32) {
        self.ahead[slot as usize] = None;
        self.victims.remove(slot);
        self.waiting.remove(slot);
    }

    /// The lowest in the policy's order.
    fn lowest(&self, layers: std::ops::Range<u32>) -> Option<u32> {
        let mut lowest: Option<(u32, Rank)> = None;
        for layer in layers {
            let Some((slot, rank)) = self.victims.lowest(layer) else {
                continue;
            };
            let rank = self.policy.across(layer, rank);
            if lowest.is_none_or(|(_, other)| rank.before(&other)) {
                lowest = Some((slot, rank));
            }
        }
        lowest.map(|(slot, _)| slot)
    }

    /// The lowest of the layer whose turn is farthest: the last one visited, then those before it.
    fn farthest(&self, shelves: &Shelves) -> Option<u32> {
        if shelves.is_empty() {
            return None;
        }
        let behind = (0..self.visited).rev();
        let mut layers = behind.chain((self.visited..self.layers).rev());
        layers.find_map(|layer| shelves.lowest(layer).map(|(slot, _)| slot))
    }
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

    /// For `slots` slots and layers of so many `experts`.
    pub(crate) fn create(self, slots: usize, experts: &[u32]) -> Eviction {
        let keys = experts.iter().map(|&n| n as usize).sum();
        let policy: Box<dyn Policy> = match self {
            PolicyKind::Lru => Box::new(lru::Lru::new(keys)),
            PolicyKind::Frequency => Box::new(frequency::Frequency::new(keys, 64.0)),
        };
        Eviction::new(policy, slots, experts)
    }
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
        let find = |kind: &PolicyKind| kind.to_string() == name;
        let found = PolicyKind::ALL.into_iter().find(find);
        found.ok_or_else(|| ExpertError::UnknownName {
            what: "policy",
            given: name.into(),
            known: "lru, frequency",
        })
    }
}
