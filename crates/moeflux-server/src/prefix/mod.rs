//! What was computed before is not computed again: state of earlier prompts and answers by their
//! tokens, in memory and in a folder.
//!
//! A request goes on from the longest prefix of its prompt that is here. Keys and values serve any
//! part of themselves; where the model has recurrent state too, that is kept at the few places
//! where requests are likely to part (`stops.rs`), and a request goes on from the last of them.
//! State is never changed, pages of keys and values are shared with the sessions that made or use
//! them, and an answer is bit for bit the same as without all this.
//!
//! Memory is bounded and counts as state within the engine's memory bound; what has been of no use
//! for the longest time goes first. With a folder, what is new is written behind the back of the
//! answers, and found again after a restart.

mod filing;
mod folder;
mod format;
mod item;
mod stops;
mod tree;
mod writer;

pub use folder::FolderError;

use std::path::PathBuf;
use std::sync::Arc;

use moeflux::{Engine, Error, KeyValues, RecurrentState, Session};

use crate::metrics::Metrics;
use filing::Filing;
use item::{Item, Tier};
use stops::{LEAST_TOKENS, STRIDE_TOKENS};
use tree::{NodeId, Path, Stale};

type Tree = tree::Tree<KeyValues, RecurrentState>;

/// How much is kept, and where.
#[derive(Clone, Debug)]
pub struct PrefixOptions {
    /// The most bytes of state in memory.
    pub memory_bytes: u64,
    /// The folder that state is written to.
    pub folder: Option<PathBuf>,
    /// The most bytes in the folder.
    pub folder_bytes: u64,
    /// Told what an operator may want to know.
    pub report: fn(&str),
}

/// State of earlier requests. It belongs to the engine's thread.
pub struct PrefixCache {
    engine: Arc<Engine>,
    options: PrefixOptions,
    /// The tokens that begin a message.
    openings: Vec<u32>,
    metrics: Arc<Metrics>,
    tree: Tree,
    filing: Option<Filing>,
}

/// What is known of a prompt.
struct Known {
    path: Path,
    /// The recurrent state to go on with: its node and position.
    state: Option<(NodeId, usize)>,
    /// How many of the prompt's tokens.
    end: usize,
}

/// Why state that is in the tree cannot be used.
enum Unusable {
    /// A file was damaged; it is out of the tree now.
    Lost,
    /// Memory does not hold it.
    NoRoom,
}

impl PrefixCache {
    /// Opens the folder, if there is one, and finds what is in it. `openings` are the tokens that
    /// begin a message.
    ///
    /// # Errors
    /// The folder cannot be used.
    pub fn open(
        engine: Arc<Engine>,
        options: PrefixOptions,
        openings: Vec<u32>,
        metrics: Arc<Metrics>,
    ) -> Result<PrefixCache, FolderError> {
        let identity = engine.state_identity();
        let mut tree = Tree::new(identity);
        let filing = match &options.folder {
            None => None,
            Some(path) => Some(Filing::open(path, identity, &options, &mut tree)?),
        };
        let cache = PrefixCache {
            engine,
            options,
            openings,
            metrics,
            tree,
            filing,
        };
        cache.publish();
        Ok(cache)
    }

    /// Whether requests have to stop within a prompt for its state to be kept there.
    fn has_recurrent_state(&self) -> bool {
        self.engine.recurrent_bytes() > 0
    }

    /// Where to stop in `prompt`, of which `done` tokens are computed, and call
    /// [`PrefixCache::keep`].
    pub fn stops(&self, prompt: &[u32], done: usize) -> Vec<usize> {
        match self.has_recurrent_state() {
            true => stops::stops(prompt, &self.openings, done),
            false => vec![prompt.len()],
        }
    }

    /// Whether a prompt of which `done` tokens are computed, and `kept` were when its state was
    /// kept last, has gone so far that it should be kept again.
    pub fn is_stride(&self, done: usize, kept: usize) -> bool {
        self.has_recurrent_state() && done >= kept + STRIDE_TOKENS
    }

    /// A session that holds as much of `prompt` as is known, but for its last token; `None` where
    /// that is not worth it.
    pub fn resume(&mut self, prompt: &[u32]) -> Option<Session> {
        let session = self.find(prompt);
        match &session {
            Some(session) => {
                self.metrics.prefix.hits.add(1);
                self.metrics.prefix.tokens.add(session.len() as u64);
            }
            None => self.metrics.prefix.misses.add(1),
        }
        self.bound();
        session
    }

    /// Reads one of the files that a session of `prompt` has to be read from, so that answers that
    /// run wait for one at a time. False if there is none left, or they do not fit into memory all
    /// at once; then [`PrefixCache::resume`] does the rest.
    pub fn fetch(&mut self, prompt: &[u32]) -> bool {
        let Some(known) = self.known(prompt) else {
            return false;
        };
        let (mut bytes, mut missing) = (0, None);
        for &id in &known.path.nodes {
            let Some(node) = self.tree.node(id).filter(|node| node.start < known.end) else {
                break;
            };
            let is_read = node.keys.is_in(Tier::Memory);
            let tier = if is_read { Tier::Memory } else { Tier::Disk };
            bytes += node.keys.bytes(tier);
            missing = missing.or((!is_read).then_some(id));
        }
        let unread = |&(id, at): &(NodeId, usize)| self.tree.state(id, at).is_none();
        let state = known.state.filter(unread);
        if bytes + self.engine.recurrent_bytes() > self.options.memory_bytes {
            return false;
        }
        let read = match (missing, state) {
            (Some(id), _) => self.load_keys(id).map(|_| ()),
            (None, Some((id, position))) => self.load_state(id, position).map(|_| ()),
            (None, None) => return false,
        };
        self.bound();
        // A file that was damaged is gone; others may do.
        !matches!(read, Err(Unusable::NoRoom))
    }

    /// What of `prompt` a session can go on from, if that is worth it.
    fn known(&self, prompt: &[u32]) -> Option<Known> {
        let usable = &prompt[..prompt.len().checked_sub(1)?];
        let path = self.tree.path(usable);
        let state = self.tree.checkpoint(&path);
        let end = match (self.has_recurrent_state(), state) {
            (false, _) => path.reach,
            (true, Some((_, position))) => position,
            (true, None) => 0,
        };
        (end >= LEAST_TOKENS).then_some(Known { path, state, end })
    }

    fn find(&mut self, prompt: &[u32]) -> Option<Session> {
        loop {
            let Known { path, state, end } = self.known(prompt)?;
            match self.assemble(&prompt[..end], &path, state) {
                Ok(session) => return Some(session),
                Err(Unusable::Lost) => {}
                Err(Unusable::NoRoom) => return None,
            }
        }
    }

    /// A session of `tokens`, which lie on `path`, with the recurrent state `state`.
    fn assemble(
        &mut self,
        tokens: &[u32],
        path: &Path,
        state: Option<(NodeId, usize)>,
    ) -> Result<Session, Unusable> {
        // Sessions have their recurrent state twice.
        self.make_room(2 * self.engine.recurrent_bytes())?;
        let mut parts = Vec::with_capacity(path.nodes.len());
        for &id in &path.nodes {
            if self
                .tree
                .node(id)
                .is_none_or(|node| node.start >= tokens.len())
            {
                break;
            }
            parts.push(self.load_keys(id)?);
        }
        let state = match state {
            None => None,
            Some((id, position)) => Some(self.load_state(id, position)?),
        };
        let borrowed: Vec<&KeyValues> = parts.iter().map(Arc::as_ref).collect();
        self.engine
            .resume(tokens, &borrowed, state.as_deref())
            .map_err(|_| Unusable::NoRoom)
    }

    fn make_room(&self, bytes: u64) -> Result<(), Unusable> {
        let made = self.engine.make_room_for_state(bytes);
        made.map_err(|_| Unusable::NoRoom)
    }

    fn load_keys(&mut self, id: NodeId) -> Result<Arc<KeyValues>, Unusable> {
        let stamp = self.tree.tick();
        let node = self.tree.node_mut(id).ok_or(Unusable::Lost)?;
        node.keys.stamp = stamp;
        let (positions, bytes) = (node.start..node.end(), node.keys.bytes(Tier::Disk));
        let file: Stale = (node.key, None);
        let on_disk = node.keys.is_in(Tier::Disk);
        if let Some(filing) = self.filing.as_ref().filter(|_| on_disk) {
            filing.touch(file);
        }
        if let Some(keys) = self.tree.keys(id) {
            return Ok(keys);
        }
        self.make_room(bytes)?;
        let engine = Arc::clone(&self.engine);
        let read = self
            .filing
            .as_ref()
            .and_then(|filing| filing.read(file, |input| engine.read_key_values(positions, input)));
        let Some(keys) = read.map(Arc::new) else {
            let stale = self.tree.remove(id);
            self.delete(&stale);
            return Err(Unusable::Lost);
        };
        self.metrics.prefix.read_bytes.add(bytes);
        if let Some(node) = self.tree.node_mut(id) {
            node.keys.memory = Some(Arc::clone(&keys));
        }
        Ok(keys)
    }

    fn load_state(&mut self, id: NodeId, at: usize) -> Result<Arc<RecurrentState>, Unusable> {
        let stamp = self.tree.tick();
        let node = self.tree.node_mut(id).ok_or(Unusable::Lost)?;
        let file: Stale = (node.key, Some(at));
        let item = node.checkpoints.get_mut(&at).ok_or(Unusable::Lost)?;
        item.stamp = stamp;
        let (bytes, on_disk) = (item.bytes(Tier::Disk), item.is_in(Tier::Disk));
        if let Some(filing) = self.filing.as_ref().filter(|_| on_disk) {
            filing.touch(file);
        }
        if let Some(state) = self.tree.state(id, at) {
            return Ok(state);
        }
        self.make_room(bytes)?;
        let engine = Arc::clone(&self.engine);
        let read = self
            .filing
            .as_ref()
            .and_then(|filing| filing.read(file, |input| engine.read_recurrent_state(input)));
        let node = self.tree.node_mut(id).ok_or(Unusable::Lost)?;
        let Some(state) = read.map(Arc::new) else {
            node.checkpoints.remove(&at);
            return Err(Unusable::Lost);
        };
        self.metrics.prefix.read_bytes.add(bytes);
        if let Some(item) = node.checkpoints.get_mut(&at) {
            item.memory = Some(Arc::clone(&state));
        }
        Ok(state)
    }

    /// Keeps the state of a session, as far as it is not known yet.
    pub fn keep(&mut self, session: &Session) {
        if session.len() < LEAST_TOKENS {
            return;
        }
        // A device that is lost, or too little memory: then it is computed again.
        let _ = self.insert(session);
        self.bound();
        self.file();
    }

    fn insert(&mut self, session: &Session) -> Result<(), Error> {
        let tokens = session.tokens();
        let path = self.tree.path(tokens);
        let (mut last, mut at) = (path.last(), path.reach);
        let ends = stops::pieces(tokens, &self.openings, at);
        // Once for all pieces: a device gives what it has as a whole.
        let keys = match ends.is_empty() {
            true => None,
            false => Some(session.key_values(at..tokens.len())?),
        };
        for end in ends {
            let keys = keys.as_ref().map(|keys| Arc::new(keys.part(at..end)));
            let Some(id) = self.tree.add(last, at, &tokens[at..end]) else {
                return Ok(());
            };
            if let Some(node) = self.tree.node_mut(id) {
                node.keys.memory = keys;
            }
            (last, at) = (id, end);
        }
        let stamp = self.tree.tick();
        for &id in path.nodes.iter().chain([&last]) {
            if let Some(node) = self.tree.node_mut(id) {
                node.keys.stamp = stamp;
            }
        }
        let bytes = self.engine.recurrent_bytes();
        let known = |node: &tree::Node<_, _>| node.checkpoints.contains_key(&session.len());
        if bytes == 0 || self.tree.node(last).is_none_or(known) {
            return Ok(());
        }
        self.engine.make_room_for_state(bytes)?;
        if let (Some(state), Some(node)) = (session.recurrent_state()?, self.tree.node_mut(last)) {
            let mut item = Item::empty(stamp);
            item.memory = Some(Arc::new(state));
            node.checkpoints.insert(session.len(), item);
        }
        Ok(())
    }

    /// Lets go of what memory holds beyond its bound.
    fn bound(&mut self) {
        while self.tree.bytes(Tier::Memory) > self.options.memory_bytes && self.shrink() {}
        self.publish();
    }

    /// Lets go of what memory holds without use for the longest time; false if there is nothing.
    pub fn shrink(&mut self) -> bool {
        let Some(part) = self.tree.oldest(Tier::Memory) else {
            return false;
        };
        self.metrics.prefix.evictions.add(1);
        let stale = self.tree.let_go(part, Tier::Memory);
        self.delete(&stale);
        true
    }

    fn delete(&self, stale: &[Stale]) {
        if let Some(filing) = &self.filing {
            stale.iter().for_each(|file| filing.remove(*file));
        }
    }

    fn publish(&self) {
        let metrics = &self.metrics.prefix;
        metrics.bytes.set(self.tree.bytes(Tier::Memory));
        metrics.folder_bytes.set(self.tree.bytes(Tier::Disk));
    }
}
