//! A session's state as plain values, for comparing sessions.

use std::sync::Arc;

use moeflux_kernels::{KV_PAGE_TOKENS, KvPage, KvType};

use super::remote::RemoteState;
use super::state::{KeyValueCache, LayerState};
use super::{Session, SessionShape};
use crate::Error;
use crate::graph::StateDecl;

impl Session {
    /// Each piece of state, in the graph's order: the keys, then the values of all positions that
    /// a next token needs, `[positions, kv_heads, head_dim]` each, or the recurrent state.
    ///
    /// # Errors
    /// [`Error::Device`] if the state was on a device that is lost.
    pub fn state_values(&self) -> Result<Vec<Vec<f32>>, Error> {
        let states = self.states.iter();
        states.map(|state| state.values(self.len())).collect()
    }

    /// Moves state in the host's memory to where the backend keeps it.
    ///
    /// # Errors
    /// [`Error::Device`] if a device has no memory for it.
    pub(super) fn move_out(mut self) -> Result<Session, Error> {
        if let Some(remote) = self.shape.remote.clone() {
            let positions = self.len();
            for (state, decl) in self.states.iter_mut().zip(&self.shape.states) {
                let mut moved = remote.make(decl, self.shape.kv_type);
                moved.set(positions, Some(&state.values(positions)?))?;
                *state = LayerState::Remote(*decl, moved);
            }
            self.recount();
        }
        Ok(self)
    }

    /// State in the host's memory that holds the same as `state`.
    pub(super) fn at_home(&self, state: &LayerState) -> Result<Option<LayerState>, Error> {
        let LayerState::Remote(decl, remote) = state else {
            return Ok(None);
        };
        let home = LayerState::at_home(decl, &self.shape, self.len(), &**remote);
        home.map(Some)
    }
}

impl LayerState {
    /// State in the host's memory that holds what `remote` has of a session of `positions` tokens.
    pub(super) fn at_home(
        decl: &StateDecl,
        shape: &SessionShape,
        positions: usize,
        remote: &dyn RemoteState,
    ) -> Result<LayerState, Error> {
        let mut home = LayerState::new(decl, shape.kv_type, &shape.state_bytes);
        home.take(positions, &remote.values(positions)?)?;
        Ok(home)
    }

    /// Keys and values that a session of `positions` tokens needs, in `pages`.
    pub(super) fn of_pages(
        decl: &StateDecl,
        kv_type: KvType,
        positions: usize,
        pages: Vec<KvPage>,
    ) -> LayerState {
        let mut state = LayerState::new(decl, kv_type, &Arc::default());
        if let LayerState::KeyValue(cache) = &mut state {
            cache.restore(positions, pages);
        }
        state
    }

    /// See [`Session::state_values`].
    pub(super) fn values(&self, positions: usize) -> Result<Vec<f32>, Error> {
        match self {
            LayerState::KeyValue(cache) => Ok(values(cache, positions)),
            LayerState::Recurrent(recurrent) => Ok(recurrent.current().to_vec()),
            LayerState::Remote(_, state) => state.values(positions),
        }
    }

    /// The values of a recurrent state; `None` for keys and values.
    pub(super) fn recurrent_values(&self) -> Option<Result<Vec<f32>, Error>> {
        match self {
            LayerState::KeyValue(_) | LayerState::Remote(StateDecl::KeyValue { .. }, _) => None,
            LayerState::Recurrent(_) | LayerState::Remote(..) => Some(self.values(0)),
        }
    }

    /// Takes what [`LayerState::values`] gave, into the host's memory.
    fn take(&mut self, positions: usize, values: &[f32]) -> Result<(), Error> {
        match self {
            LayerState::Recurrent(recurrent) => recurrent.current_mut().copy_from_slice(values),
            LayerState::KeyValue(cache) => {
                let first = cache.first_needed(positions);
                cache.restore(positions, Vec::new());
                cache.reserve(0, positions);
                let (keys, values) = values.split_at(values.len() / 2);
                let kept = cache.kept(positions);
                let width = keys.len() / (kept - first).max(1);
                for position in first..kept {
                    let page = position / KV_PAGE_TOKENS - cache.dropped();
                    let page = &mut cache.pages_mut()[page];
                    let (kv_heads, dim) = page.shape();
                    for head in 0..kv_heads {
                        let at = (position - first) * width + head * dim;
                        let at = at..at + dim;
                        let (key, value) = (&keys[at.clone()], &values[at]);
                        page.write(position % KV_PAGE_TOKENS, head, key, value)?;
                    }
                }
            }
            LayerState::Remote(_, state) => state.set(positions, Some(values))?,
        }
        Ok(())
    }
}

fn values(cache: &KeyValueCache, positions: usize) -> Vec<f32> {
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for position in cache.first_needed(positions)..cache.kept(positions) {
        let page = &cache.pages()[position / KV_PAGE_TOKENS - cache.dropped()];
        let (kv_heads, head_dim) = page.shape();
        for head in 0..kv_heads {
            let (mut key, mut value) = (vec![0.0; head_dim], vec![0.0; head_dim]);
            // The sizes are the page's own, so it reads.
            if page
                .read(position % KV_PAGE_TOKENS, head, &mut key, &mut value)
                .is_ok()
            {
                keys.extend(key);
                values.extend(value);
            }
        }
    }
    keys.extend(values);
    keys
}
