//! Slots that may be evicted: a binary heap for each layer, from which slots can also be taken
//! out of the middle.

/// The lower goes first: score, then time of last use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Rank {
    pub score: f64,
    pub last_use: u64,
}

impl Rank {
    pub fn before(&self, other: &Rank) -> bool {
        self.score
            .total_cmp(&other.score)
            .then(self.last_use.cmp(&other.last_use))
            .is_lt()
    }
}

const ABSENT: u32 = u32::MAX;

/// Heaps of slots with the lowest rank on top, all memory allocated at the start.
pub(super) struct Shelves {
    heaps: Vec<Vec<u32>>,
    /// Where each slot is in its heap, or `ABSENT`.
    place: Vec<u32>,
    /// The layer of each slot that is present.
    layer: Vec<u32>,
    rank: Vec<Rank>,
    len: usize,
}

impl Shelves {
    /// Room for `slots` slots; `experts` has the most that each layer can have of them.
    pub fn new(slots: usize, experts: &[u32]) -> Shelves {
        let heap = |&experts: &u32| Vec::with_capacity(slots.min(experts as usize));
        Shelves {
            heaps: experts.iter().map(heap).collect(),
            place: vec![ABSENT; slots],
            layer: vec![0; slots],
            rank: vec![Rank::default(); slots],
            len: 0,
        }
    }

    /// Adds a slot, or moves it if it is there already.
    pub fn insert(&mut self, slot: u32, layer: u32, rank: Rank) {
        self.remove(slot);
        let at = self.heaps[layer as usize].len();
        self.rank[slot as usize] = rank;
        self.layer[slot as usize] = layer;
        self.place[slot as usize] = at as u32;
        self.heaps[layer as usize].push(slot);
        self.len += 1;
        self.rise(layer as usize, at);
    }

    /// Takes a slot out; says whether it was there.
    pub fn remove(&mut self, slot: u32) -> bool {
        let at = self.place[slot as usize];
        if at == ABSENT {
            return false;
        }
        let (at, layer) = (at as usize, self.layer[slot as usize] as usize);
        self.heaps[layer].swap_remove(at);
        self.place[slot as usize] = ABSENT;
        self.len -= 1;
        if let Some(&moved) = self.heaps[layer].get(at) {
            self.place[moved as usize] = at as u32;
            self.rise(layer, at);
            self.sink(layer, self.place[moved as usize] as usize);
        }
        true
    }

    /// Whether no slot is there.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// A layer's slot of lowest rank.
    pub fn lowest(&self, layer: u32) -> Option<(u32, Rank)> {
        let slot = self.heaps[layer as usize].first().copied()?;
        Some((slot, self.rank[slot as usize]))
    }

    fn rise(&mut self, layer: usize, mut at: usize) {
        while at > 0 && self.ordered(layer, at, (at - 1) / 2) {
            self.swap(layer, at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn sink(&mut self, layer: usize, mut at: usize) {
        loop {
            let mut lowest = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.heaps[layer].len() && self.ordered(layer, child, lowest) {
                    lowest = child;
                }
            }
            if lowest == at {
                return;
            }
            self.swap(layer, at, lowest);
            at = lowest;
        }
    }

    fn ordered(&self, layer: usize, a: usize, b: usize) -> bool {
        let heap = &self.heaps[layer];
        self.rank[heap[a] as usize].before(&self.rank[heap[b] as usize])
    }

    fn swap(&mut self, layer: usize, a: usize, b: usize) {
        let heap = &mut self.heaps[layer];
        heap.swap(a, b);
        self.place[heap[a] as usize] = a as u32;
        self.place[heap[b] as usize] = b as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_lowest_rank_of_a_layer_whatever_came_before(
            steps in prop::collection::vec((0u8..4, 0u32..12, 0u32..3, 0u8..5), 1..200),
        ) {
            let mut shelves = Shelves::new(12, &[12, 12, 12]);
            let mut model: Vec<(u32, u32, Rank)> = Vec::new();
            for (time, (step, slot, layer, score)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => {
                        let rank = Rank { score: f64::from(score), last_use: time as u64 };
                        shelves.insert(slot, layer, rank);
                        model.retain(|(other, ..)| *other != slot);
                        model.push((slot, layer, rank));
                    }
                    2 => {
                        let known = model.iter().any(|(other, ..)| *other == slot);
                        prop_assert_eq!(shelves.remove(slot), known);
                        model.retain(|(other, ..)| *other != slot);
                    }
                    _ => {
                        let here = model.iter().filter(|entry| entry.1 == layer).copied();
                        let lowest = here.reduce(|a, b| if b.2.before(&a.2) { b } else { a });
                        let expected = lowest.map(|(slot, _, rank)| (slot, rank));
                        prop_assert_eq!(shelves.lowest(layer), expected);
                    }
                }
                prop_assert_eq!(shelves.is_empty(), model.is_empty());
            }
        }
    }
}
