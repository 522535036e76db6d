//! A tree of token sequences with state attached: keys and values of each piece, and recurrent
//! states at single positions of it.
//!
//! A node holds a piece of a sequence and is never cut; a child begins at any position within its
//! parent's piece or at its end, with another token than follows there. So a sequence is a path,
//! found by one look-up a node, and pieces can be files.
//!
//! **What may go.** A piece is of use only while all before it is there. In memory a piece may go
//! if it is on disk too or nothing hangs on it; from disk, if no piece behind it is there.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::item::{Disk, Item, Payload, Tier};

/// Names a node for as long as the tree lives.
pub type NodeId = u64;

/// The node that all others hang on; it holds nothing.
pub const ROOT: NodeId = 0;

/// A piece of a sequence.
#[derive(Debug)]
pub struct Node<K, R> {
    pub parent: NodeId,
    /// Names the sequence up to the piece's end, also from process to process.
    pub key: u128,
    /// Position of the piece's first token.
    pub start: usize,
    pub tokens: Vec<u32>,
    /// By the child's first position and token.
    children: BTreeMap<(usize, u32), NodeId>,
    pub keys: Item<K>,
    /// Recurrent states by the number of tokens before them.
    pub checkpoints: BTreeMap<usize, Item<R>>,
}

impl<K, R> Node<K, R> {
    /// The position behind the piece.
    pub fn end(&self) -> usize {
        self.start + self.tokens.len()
    }
}

/// Where a sequence lies in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path {
    /// The nodes, without the root; each counts up to where the next begins.
    pub nodes: Vec<NodeId>,
    /// How many of the sequence's tokens are there.
    pub reach: usize,
}

impl Path {
    /// The last node, or the root.
    pub fn last(&self) -> NodeId {
        self.nodes.last().copied().unwrap_or(ROOT)
    }
}

/// One piece of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Keys and values of a node.
    Keys(NodeId),
    /// The recurrent state of a node at a position.
    Checkpoint(NodeId, usize),
}

/// A file that nothing needs any more: the key of its node, and its position if it is a checkpoint.
pub type Stale = (u128, Option<usize>);

/// The tree.
#[derive(Debug)]
pub struct Tree<K, R> {
    nodes: BTreeMap<NodeId, Node<K, R>>,
    next: NodeId,
    clock: u64,
}

impl<K: Payload, R: Payload> Tree<K, R> {
    /// An empty tree; `seed` makes its keys differ from those of other models.
    pub fn new(seed: u64) -> Tree<K, R> {
        let root = Node {
            parent: ROOT,
            key: u128::from(seed),
            start: 0,
            tokens: Vec::new(),
            children: BTreeMap::new(),
            keys: Item::empty(0),
            checkpoints: BTreeMap::new(),
        };
        Tree {
            nodes: BTreeMap::from([(ROOT, root)]),
            next: ROOT + 1,
            clock: 0,
        }
    }

    /// The key of the root.
    pub fn root_key(&self) -> u128 {
        self.nodes.get(&ROOT).map_or(0, |root| root.key)
    }

    /// A node, if it is still there.
    pub fn node(&self, id: NodeId) -> Option<&Node<K, R>> {
        self.nodes.get(&id)
    }

    /// A node, to change its items.
    pub fn node_mut(&mut self, id: NodeId) -> Option<&mut Node<K, R>> {
        self.nodes.get_mut(&id)
    }

    /// All nodes but the root.
    pub fn iter(&self) -> impl Iterator<Item = (NodeId, &Node<K, R>)> {
        let from = (Bound::Excluded(ROOT), Bound::Unbounded);
        self.nodes.range(from).map(|(id, node)| (*id, node))
    }

    /// A number larger than all before.
    pub fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// Finds as much of `tokens` as there is.
    pub fn path(&self, tokens: &[u32]) -> Path {
        let mut path = Path {
            nodes: Vec::new(),
            reach: 0,
        };
        let mut next = Some(&ROOT);
        while let Some((id, node)) = next.and_then(|id| Some((id, self.nodes.get(id)?))) {
            if *id != ROOT {
                path.nodes.push(*id);
            }
            let ahead = node.tokens.iter().zip(&tokens[path.reach..]);
            path.reach += ahead.take_while(|(a, b)| a == b).count();
            let token = tokens.get(path.reach);
            next = token.and_then(|token| node.children.get(&(path.reach, *token)));
        }
        path
    }

    /// The last recurrent state of `path`: its node and position.
    pub fn checkpoint(&self, path: &Path) -> Option<(NodeId, usize)> {
        let mut limit = path.reach;
        for &id in path.nodes.iter().rev() {
            let node = self.nodes.get(&id)?;
            let found = node.checkpoints.range(..=limit).next_back();
            if let Some((position, _)) = found {
                return Some((id, *position));
            }
            limit = node.start;
        }
        None
    }

    /// Adds a piece that goes on from `parent` at position `start`, and that nothing of which is
    /// there yet. `None` where the parent is gone or has another child there.
    pub fn add(&mut self, parent: NodeId, start: usize, tokens: &[u32]) -> Option<NodeId> {
        let stamp = self.tick();
        let id = self.next;
        let above = self.nodes.get_mut(&parent)?;
        let first = *tokens.first()?;
        let within = (above.start..=above.end()).contains(&start);
        let goes_on = above.tokens.get(start.wrapping_sub(above.start)) == Some(&first);
        if !within || goes_on || above.children.contains_key(&(start, first)) {
            return None;
        }
        above.children.insert((start, first), id);
        let key = super::format::key(above.key, start, tokens);
        let node = Node {
            parent,
            key,
            start,
            tokens: tokens.to_vec(),
            children: BTreeMap::new(),
            keys: Item::empty(stamp),
            checkpoints: BTreeMap::new(),
        };
        self.nodes.insert(id, node);
        self.next += 1;
        Some(id)
    }

    /// Removes a node and all that hangs on it; gives the files that are stale now.
    pub fn remove(&mut self, id: NodeId) -> Vec<Stale> {
        let mut stale = Vec::new();
        if let Some(node) = self.nodes.get(&id) {
            let place = (node.start, node.tokens.first().copied().unwrap_or(0));
            let parent = node.parent;
            if let Some(parent) = self.nodes.get_mut(&parent) {
                parent.children.remove(&place);
            }
        }
        let mut left = vec![id];
        while let Some(id) = left.pop().filter(|id| *id != ROOT) {
            if let Some(node) = self.nodes.remove(&id) {
                left.extend(node.children.values());
                stale.extend(files(&node));
            }
        }
        stale
    }

    /// Bytes that are held in `tier`.
    pub fn bytes(&self, tier: Tier) -> u64 {
        let all = self.nodes.values().map(|node| {
            let states = node.checkpoints.values().map(|c| c.bytes(tier));
            node.keys.bytes(tier) + states.sum::<u64>()
        });
        all.sum()
    }

    /// What has been of no use in `tier` for the longest time, of what may go.
    pub fn oldest(&self, tier: Tier) -> Option<Part> {
        let mut oldest = None;
        let mut offer = |stamp: u64, part: Part| {
            if oldest.is_none_or(|(least, _)| stamp < least) {
                oldest = Some((stamp, part));
            }
        };
        for (id, node) in self.iter() {
            let children = || node.children.values().filter_map(|c| self.nodes.get(c));
            let held = node.keys.is_in(tier);
            let is_end = !children().any(|child| child.keys.is_in(tier));
            let may_go =
                tier == Tier::Disk || node.keys.is_in(Tier::Disk) || children().count() == 0;
            let states = node.checkpoints.iter().filter(|(_, c)| c.is_in(tier));
            if held && is_end && may_go {
                // What lies at the end goes as a whole: keys without the state behind them are
                // of little use.
                let newest = states.map(|(_, c)| c.stamp).max().unwrap_or(0);
                offer(node.keys.stamp.max(newest), Part::Keys(id));
            } else {
                states.for_each(|(at, c)| offer(c.stamp, Part::Checkpoint(id, *at)));
            }
        }
        oldest.map(|(_, part)| part)
    }

    /// Lets go of `part` in `tier`; gives the files that are stale now.
    pub fn let_go(&mut self, part: Part, tier: Tier) -> Vec<Stale> {
        match part {
            Part::Keys(id) => {
                let Some(node) = self.nodes.get_mut(&id) else {
                    return Vec::new();
                };
                let stale: Vec<Stale> = match tier {
                    Tier::Memory => Vec::new(),
                    Tier::Disk => files(node).collect(),
                };
                node.keys.let_go(tier);
                node.checkpoints.values_mut().for_each(|c| c.let_go(tier));
                node.checkpoints.retain(|_, c| c.is_somewhere());
                match node.keys.is_somewhere() {
                    true => stale,
                    false => [stale, self.remove(id)].concat(),
                }
            }
            Part::Checkpoint(id, position) => {
                let Some(node) = self.nodes.get_mut(&id) else {
                    return Vec::new();
                };
                let key = node.key;
                let Some(state) = node.checkpoints.get_mut(&position) else {
                    return Vec::new();
                };
                let was_filed = tier == Tier::Disk && state.is_in(Tier::Disk);
                state.let_go(tier);
                if !state.is_somewhere() {
                    node.checkpoints.remove(&position);
                }
                was_filed
                    .then_some((key, Some(position)))
                    .into_iter()
                    .collect()
            }
        }
    }

    /// The next part that is in memory, was never on disk, and can be put there: what it goes on
    /// from is there.
    pub fn unfiled(&self) -> Option<Part> {
        let is_new = |disk: &Disk| matches!(disk, Disk::Never);
        self.iter().find_map(|(id, node)| {
            let parent = self.nodes.get(&node.parent);
            let above = node.parent == ROOT || parent.is_some_and(|p| p.keys.is_in(Tier::Disk));
            if above && is_new(&node.keys.disk) && node.keys.memory.is_some() {
                return Some(Part::Keys(id));
            }
            let mut states = node.checkpoints.iter();
            let state = states.find(|(_, c)| is_new(&c.disk) && c.memory.is_some());
            let (at, _) = state.filter(|_| node.keys.is_in(Tier::Disk))?;
            Some(Part::Checkpoint(id, *at))
        })
    }

    /// The payload of keys in memory.
    pub fn keys(&self, id: NodeId) -> Option<Arc<K>> {
        self.nodes.get(&id)?.keys.memory.clone()
    }

    /// The payload of a checkpoint in memory.
    pub fn state(&self, id: NodeId, position: usize) -> Option<Arc<R>> {
        let node = self.nodes.get(&id)?;
        node.checkpoints.get(&position)?.memory.clone()
    }
}

/// The files of a node.
fn files<K: Payload, R: Payload>(node: &Node<K, R>) -> impl Iterator<Item = Stale> {
    let keys = node.keys.is_in(Tier::Disk).then_some((node.key, None));
    let states = node.checkpoints.iter().filter(|(_, c)| c.is_in(Tier::Disk));
    let states: Vec<Stale> = states.map(|(at, _)| (node.key, Some(*at))).collect();
    keys.into_iter().chain(states)
}

#[cfg(test)]
mod tests;
