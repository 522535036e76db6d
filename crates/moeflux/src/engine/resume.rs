//! Sessions that go on from state of other sessions.

use std::io::Read;
use std::ops::Range;
use std::sync::Arc;

use moeflux_kernels::KV_PAGE_TOKENS;

use super::Engine;
use crate::Error;
use crate::graph::StateDecl;
use crate::session::{KeyValues, RecurrentState, Session};

impl Engine {
    /// A session of `tokens`, bit for bit as if it had computed them: with keys and values of
    /// `parts`, each of which begins at or before the end of the one before it and counts from
    /// there on, and with the recurrent state behind the last token, where the model has such.
    /// Pages are shared until one who has them writes them.
    ///
    /// # Errors
    /// [`Error::ForeignSession`] if a part is of another engine, [`Error::Snapshot`] if the parts
    /// do not reach as far as `tokens`.
    pub fn resume(
        &self,
        tokens: &[u32],
        parts: &[&KeyValues],
        recurrent: Option<&RecurrentState>,
    ) -> Result<Session, Error> {
        Session::resume(Arc::clone(&self.shape), tokens, parts, recurrent)
    }

    /// Another session with the tokens and the state of `session`.
    ///
    /// # Errors
    /// [`Error::MemoryBudget`] if the memory bound does not hold its recurrent state.
    pub fn fork(&self, session: &Session) -> Result<Session, Error> {
        self.make_room_for_state(3 * self.recurrent_bytes())?;
        let pages = session.key_values(0..session.len())?;
        let recurrent = match session.is_empty() {
            true => None,
            false => session.recurrent_state()?,
        };
        self.resume(session.tokens(), &[&pages], recurrent.as_ref())
    }

    /// Reads what [`KeyValues::write_to`] has written of `positions` of this model.
    ///
    /// # Errors
    /// Those of `input`; too few bytes.
    pub fn read_key_values(
        &self,
        positions: Range<usize>,
        input: &mut dyn Read,
    ) -> std::io::Result<KeyValues> {
        KeyValues::read_from(&self.shape, positions, input)
    }

    /// Reads what [`RecurrentState::write_to`] has written.
    ///
    /// # Errors
    /// Those of `input`; too few bytes.
    pub fn read_recurrent_state(&self, input: &mut dyn Read) -> std::io::Result<RecurrentState> {
        RecurrentState::read_from(&self.shape, input)
    }

    /// Bytes of a [`RecurrentState`] of this model, at most; 0 where there is none, so that a
    /// session can go on from every position.
    pub fn recurrent_bytes(&self) -> u64 {
        let bytes = |decl: &StateDecl| match *decl {
            StateDecl::Recurrent { len } => len as u64 * 4,
            StateDecl::KeyValue { window, .. } => window.map_or(0, |window| {
                // A window begins and ends within a page.
                let pages = window.div_ceil(KV_PAGE_TOKENS) as u64 + 1;
                pages * decl.page_bytes(self.shape.kv_type)
            }),
        };
        self.shape.states.iter().map(bytes).sum()
    }

    /// Whether the tokens of an answer leave the same bits of state as those of a prompt; a
    /// graphics processor has kernels of its own for either.
    pub fn decodes_as_it_prefills(&self) -> bool {
        self.shape.remote.is_none()
    }

    /// A number that is the same only where state of one engine can be used by another: the version,
    /// the model, its files, and all that changes an answer.
    pub fn state_identity(&self) -> u64 {
        let remote = self.shape.remote.as_ref();
        let text = format!(
            "{} {:016x} {} {} {}",
            env!("CARGO_PKG_VERSION"),
            self.shape.identity,
            self.activations,
            self.shape.kv_type,
            remote.map_or_else(|| "cpu".to_owned(), |remote| remote.device())
        );
        xxhash_rust::xxh3::xxh3_64(text.as_bytes())
    }
}
