//! Slots that may be evicted, as a binary heap that can also remove from the middle.

/// The lower goes first: score, then time of last use.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rank {
    pub score: f64,
    pub last_use: u64,
}

impl Rank {
    fn before(&self, other: &Rank) -> bool {
        self.score
            .total_cmp(&other.score)
            .then(self.last_use.cmp(&other.last_use))
            .is_lt()
    }
}

const ABSENT: u32 = u32::MAX;

/// A heap of slots with the lowest rank on top, all memory allocated at the start.
pub(super) struct VictimQueue {
    heap: Vec<u32>,
    /// Where each slot is in `heap`, or `ABSENT`.
    place: Vec<u32>,
    rank: Vec<Rank>,
}

impl VictimQueue {
    pub fn new(slots: usize) -> VictimQueue {
        VictimQueue {
            heap: Vec::with_capacity(slots),
            place: vec![ABSENT; slots],
            rank: vec![Rank::default(); slots],
        }
    }

    /// Adds a slot, or moves it if it is there already.
    pub fn insert(&mut self, slot: u32, rank: Rank) {
        self.remove(slot);
        self.rank[slot as usize] = rank;
        self.place[slot as usize] = self.heap.len() as u32;
        self.heap.push(slot);
        self.rise(self.heap.len() - 1);
    }

    /// Takes a slot out, if it is there.
    pub fn remove(&mut self, slot: u32) {
        let at = self.place[slot as usize];
        if at == ABSENT {
            return;
        }
        let at = at as usize;
        self.heap.swap_remove(at);
        self.place[slot as usize] = ABSENT;
        if let Some(&moved) = self.heap.get(at) {
            self.place[moved as usize] = at as u32;
            self.rise(at);
            self.sink(self.place[moved as usize] as usize);
        }
    }

    /// Takes out the slot of lowest rank.
    pub fn pop(&mut self) -> Option<u32> {
        let slot = self.heap.first().copied()?;
        self.remove(slot);
        Some(slot)
    }

    fn rise(&mut self, mut at: usize) {
        while at > 0 && self.ordered(at, (at - 1) / 2) {
            self.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let mut lowest = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < self.heap.len() && self.ordered(child, lowest) {
                    lowest = child;
                }
            }
            if lowest == at {
                return;
            }
            self.swap(at, lowest);
            at = lowest;
        }
    }

    fn ordered(&self, a: usize, b: usize) -> bool {
        self.rank[self.heap[a] as usize].before(&self.rank[self.heap[b] as usize])
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        self.place[self.heap[a] as usize] = a as u32;
        self.place[self.heap[b] as usize] = b as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pops_the_lowest_rank_whatever_came_before(
            steps in prop::collection::vec((0u8..4, 0u32..12, 0u8..5), 1..200),
        ) {
            let mut queue = VictimQueue::new(12);
            let mut model: Vec<(u32, Rank)> = Vec::new();
            for (time, (step, slot, score)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => {
                        let rank = Rank { score: f64::from(score), last_use: time as u64 };
                        queue.insert(slot, rank);
                        model.retain(|(other, _)| *other != slot);
                        model.push((slot, rank));
                    }
                    2 => {
                        queue.remove(slot);
                        model.retain(|(other, _)| *other != slot);
                    }
                    _ => {
                        let lowest = model.iter().copied().reduce(|a, b| {
                            if b.1.before(&a.1) { b } else { a }
                        });
                        prop_assert_eq!(queue.pop(), lowest.map(|(slot, _)| slot));
                        model.retain(|(other, _)| Some(*other) != lowest.map(|(slot, _)| slot));
                    }
                }
            }
        }
    }
}
