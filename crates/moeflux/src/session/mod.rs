//! One timeline of tokens with its state: keys and values in pages, recurrent state in pairs.
//!
//! A step writes keys and values behind the session's end and recurrent state beside the current
//! one; [`Session::commit`] makes both count. A step that fails therefore leaves the session as
//! it was.

mod checkpoint;
mod memory;
mod remote;
mod share;
mod snapshot;
mod state;
mod trial;
mod values;

use checkpoint::Checkpoint;
pub use remote::{RemoteState, RemoteStates};
pub use share::{KeyValues, RecurrentState};
pub use state::{KeyValueCache, LayerState, Recurrent};

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moeflux_kernels::KvType;

use crate::Error;
use crate::graph::{StateDecl, StateId};
use trial::Trial;

/// The most checkpoints that a session keeps; the oldest goes first.
const MAX_CHECKPOINTS: usize = 8;

/// What all sessions of an engine have in common.
#[derive(Debug)]
pub(crate) struct SessionShape {
    /// Tells the model from others.
    pub identity: u64,
    /// The state, in the graph's order.
    pub states: Vec<StateDecl>,
    /// What keys and values are kept as.
    pub kv_type: KvType,
    /// The most tokens in a session.
    pub context_tokens: usize,
    /// Bytes of state in all sessions of the engine.
    pub state_bytes: Arc<AtomicU64>,
    /// Makes the state where the backend keeps it; `None`: in the host's memory.
    pub remote: Option<Arc<dyn RemoteStates>>,
}

impl SessionShape {
    /// Whether there is state that does not keep all positions, so that it only exists behind the
    /// last token.
    pub(crate) fn forgets(&self) -> bool {
        self.states.iter().any(forgets)
    }
}

/// One timeline of tokens. Made by [`Engine::session`](crate::Engine::session).
pub struct Session {
    shape: Arc<SessionShape>,
    tokens: Vec<u32>,
    states: Vec<LayerState>,
    checkpoints: Vec<Checkpoint>,
    /// What the last step kept so that its last tokens can be taken back.
    trial: Option<Trial>,
    /// Bytes that this session has added to the engine's count.
    counted_bytes: u64,
}

impl Session {
    pub(crate) fn new(shape: Arc<SessionShape>) -> Session {
        let new = |decl: &StateDecl| match &shape.remote {
            Some(remote) => LayerState::Remote(*decl, remote.make(decl, shape.kv_type)),
            None => LayerState::new(decl, shape.kv_type, &shape.state_bytes),
        };
        let states = shape.states.iter().map(new).collect();
        Session::with(shape, states)
    }

    /// A session whose state is in the host's memory wherever the backend wants it.
    fn at_host(shape: Arc<SessionShape>) -> Session {
        let new = |decl| LayerState::new(decl, shape.kv_type, &shape.state_bytes);
        let states = shape.states.iter().map(new).collect();
        Session::with(shape, states)
    }

    fn with(shape: Arc<SessionShape>, states: Vec<LayerState>) -> Session {
        let mut session = Session {
            shape,
            tokens: Vec::new(),
            states,
            checkpoints: Vec::new(),
            trial: None,
            counted_bytes: 0,
        };
        session.recount();
        session
    }

    /// The tokens so far.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Number of tokens so far.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether there are no tokens yet.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// The most tokens that the session may hold.
    pub fn context_tokens(&self) -> usize {
        self.shape.context_tokens
    }

    /// Remembers the recurrent state here, and what windows show, so that [`Session::rewind`] can
    /// come back. A session keeps the last eight; where all positions are kept this does nothing.
    pub fn checkpoint(&mut self) {
        let position = self.len();
        if !self.forgets() || position == 0 {
            return;
        }
        // A device that is lost has nothing to come back to.
        let Ok(checkpoint) = Checkpoint::of(&self.states, position, &self.shape) else {
            return;
        };
        self.checkpoints.retain(|c| c.position != position);
        if self.checkpoints.len() == MAX_CHECKPOINTS {
            self.checkpoints.remove(0);
        }
        self.checkpoints.push(checkpoint);
        self.recount();
    }

    /// The positions that [`Session::rewind`] can reach besides the start and the end; empty also
    /// where every position can be reached because all are kept.
    pub fn checkpoint_positions(&self) -> impl Iterator<Item = usize> + '_ {
        self.checkpoints.iter().map(|c| c.position)
    }

    /// Forgets everything from `position` on.
    ///
    /// # Errors
    /// [`Error::Rewind`] if `position` lies beyond the end, or if there is no checkpoint at
    /// `position` and there is recurrent state, or a window needs what it has passed; the session
    /// is then unchanged.
    pub fn rewind(&mut self, position: usize) -> Result<(), Error> {
        if position == self.len() {
            return Ok(());
        }
        let saved = self.checkpoints.iter().find(|c| c.position == position);
        let reachable = position < self.len()
            && (position == 0
                || saved.is_some()
                || self.states.iter().all(|state| state.reaches(position)));
        if !reachable {
            return Err(Error::Rewind {
                position,
                len: self.len(),
                nearest: self.checkpoint_positions().filter(|&p| p < position).max(),
            });
        }
        let mut saved = saved.into_iter().flat_map(|c| &c.saved);
        for state in &mut self.states {
            state.go_back(position, &mut saved)?;
        }
        self.tokens.truncate(position);
        self.checkpoints.retain(|c| c.position <= position);
        self.trial = None;
        self.recount();
        Ok(())
    }

    /// Writes the session to `path`, so that [`Engine::load_session`](crate::Engine::load_session)
    /// can go on from it, also in another process. The file appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::File`] if it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        snapshot::save(self, path)
    }

    /// The session as bytes, for [`Engine::restore`](crate::Engine::restore).
    ///
    /// # Errors
    /// [`Error::Device`] if the state was on a device that is lost.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Error> {
        snapshot::to_bytes(self)
    }

    pub(crate) fn from_bytes(shape: Arc<SessionShape>, bytes: &[u8]) -> Result<Session, Error> {
        snapshot::from_bytes(shape, bytes)
    }

    pub(crate) fn belongs_to(&self, shape: &Arc<SessionShape>) -> bool {
        Arc::ptr_eq(&self.shape, shape)
    }

    pub(crate) fn states(&self) -> &[LayerState] {
        &self.states
    }

    pub(crate) fn states_mut(&mut self) -> &mut [LayerState] {
        &mut self.states
    }

    /// The state `id` where a backend keeps it, for that backend.
    pub fn remote_state(&mut self, id: StateId) -> Option<&mut dyn RemoteState> {
        match self.states.get_mut(id.index()) {
            Some(LayerState::Remote(_, state)) => Some(&mut **state),
            _ => None,
        }
    }

    /// Two different states at once.
    pub fn remote_states(&mut self, ids: [StateId; 2]) -> Option<[&mut dyn RemoteState; 2]> {
        match self.states.get_disjoint_mut(ids.map(StateId::index)) {
            Ok([LayerState::Remote(_, one), LayerState::Remote(_, other)]) => {
                Some([&mut **one, &mut **other])
            }
            _ => None,
        }
    }

    /// Bytes that room for `tokens` more would add.
    pub(crate) fn growth_bytes(&self, tokens: usize) -> u64 {
        let (start, end) = (self.len(), self.len() + tokens);
        let states = self.states.iter();
        states.map(|s| s.growth_bytes(start, end)).sum()
    }

    /// Makes room for `tokens` more.
    ///
    /// # Errors
    /// [`Error::Device`] if a device has no memory for it.
    pub(crate) fn reserve(&mut self, tokens: usize) -> Result<(), Error> {
        let (start, end) = (self.len(), self.len() + tokens);
        let mut states = self.states.iter_mut();
        let made = states.try_for_each(|s| s.reserve(start, end));
        self.recount();
        made
    }

    /// Makes the step that was just run with `tokens` part of the session.
    pub(crate) fn commit(&mut self, tokens: &[u32]) {
        self.tokens.extend_from_slice(tokens);
        self.states.iter_mut().for_each(LayerState::commit);
        self.end_trial();
    }

    /// Whether there is state that does not keep all positions.
    fn forgets(&self) -> bool {
        self.shape.forgets()
    }

    /// Brings the engine's count of state bytes up to date.
    fn recount(&mut self) {
        let states: u64 = self.states.iter().map(LayerState::bytes).sum();
        let checkpoints: u64 = self.checkpoints.iter().map(Checkpoint::bytes).sum();
        let trial = self.trial.as_ref().map_or(0, Trial::bytes);
        let now = states + trial + checkpoints;
        self.shape.state_bytes.fetch_add(now, Ordering::Relaxed);
        self.shape
            .state_bytes
            .fetch_sub(self.counted_bytes, Ordering::Relaxed);
        self.counted_bytes = now;
    }
}

/// Whether a state does not keep all positions.
fn forgets(decl: &StateDecl) -> bool {
    match decl {
        StateDecl::Recurrent { .. } => true,
        StateDecl::KeyValue { .. } => decl.has_window(),
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.shape
            .state_bytes
            .fetch_sub(self.counted_bytes, Ordering::Relaxed);
    }
}
