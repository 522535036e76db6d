//! State that outlives the session that computed it, and that other sessions go on from: keys and
//! values of a range of positions, in pages shared until somebody writes them, and, of a position,
//! the recurrent state and what windows show.

use std::io::{Read, Write};
use std::ops::Range;
use std::sync::Arc;

use moeflux_kernels::{Counted, KV_PAGE_TOKENS, KvPage};

use super::checkpoint::{Checkpoint, save_pages, saved_page_bytes};
use super::state::LayerState;
use super::{Session, SessionShape, forgets};
use crate::Error;
use crate::graph::StateDecl;

/// Keys and values of a range of positions in all layers that keep them. Its pages are whole: they
/// also hold what lies before the range in its first page.
#[derive(Debug)]
pub struct KeyValues {
    shape: Arc<SessionShape>,
    positions: Range<usize>,
    /// For each state of that kind, in the graph's order.
    pages: Vec<Vec<KvPage>>,
    /// Bytes of the pages.
    bytes: u64,
}

/// The state behind a position that does not keep all before it: recurrent state, and what windows
/// show.
#[derive(Debug)]
pub struct RecurrentState {
    shape: Arc<SessionShape>,
    state: Checkpoint,
    /// The bytes that pages do not count.
    _counted: Counted,
}

/// The pages that hold what a state keeps of `positions`.
fn pages_of(decl: &StateDecl, positions: &Range<usize>) -> Range<usize> {
    let (start, end) = (decl.kept(positions.start), decl.kept(positions.end));
    start / KV_PAGE_TOKENS..end.div_ceil(KV_PAGE_TOKENS)
}

impl KeyValues {
    fn new(
        shape: &Arc<SessionShape>,
        positions: Range<usize>,
        pages: Vec<Vec<KvPage>>,
    ) -> KeyValues {
        KeyValues {
            shape: Arc::clone(shape),
            positions,
            bytes: pages.iter().flatten().map(KvPage::own_bytes).sum(),
            pages,
        }
    }

    /// The positions.
    pub fn positions(&self) -> Range<usize> {
        self.positions.clone()
    }

    /// Bytes of its pages, shared ones included.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Keys and values of those of `positions` that are here, in the same pages.
    #[must_use]
    pub fn part(&self, positions: Range<usize>) -> KeyValues {
        let end = positions.end.min(self.positions.end);
        let positions = positions.start.max(self.positions.start).min(end)..end;
        let layer = |(decl, pages): (&StateDecl, &Vec<KvPage>)| -> Vec<KvPage> {
            let wanted = pages_of(decl, &positions);
            let first = pages_of(decl, &self.positions).start;
            let before = wanted.start.saturating_sub(first);
            let pages = pages.iter().skip(before).take(wanted.len());
            pages.cloned().collect()
        };
        let pages = self.layers().map(layer).collect();
        KeyValues::new(&self.shape, positions, pages)
    }

    /// The pages with what declares them.
    fn layers(&self) -> impl Iterator<Item = (&StateDecl, &Vec<KvPage>)> {
        let kept = self.shape.states.iter().filter(|decl| !forgets(decl));
        kept.zip(&self.pages)
    }

    /// Bytes that [`KeyValues::write_to`] writes.
    pub fn written_bytes(&self) -> u64 {
        let bytes = |(decl, pages): (&StateDecl, &Vec<KvPage>)| {
            let first = pages_of(decl, &self.positions).start;
            saved_page_bytes(pages, first, decl.kept(self.positions.end))
        };
        self.layers().map(bytes).sum()
    }

    /// Writes it, for [`Engine::read_key_values`](crate::Engine::read_key_values).
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut buffer = Vec::new();
        for (decl, pages) in self.layers() {
            buffer.clear();
            let first = pages_of(decl, &self.positions).start;
            save_pages(pages, first, decl.kept(self.positions.end), &mut buffer);
            out.write_all(&buffer)?;
        }
        Ok(())
    }

    pub(crate) fn read_from(
        shape: &Arc<SessionShape>,
        positions: Range<usize>,
        input: &mut dyn Read,
    ) -> std::io::Result<KeyValues> {
        let mut buffer = Vec::new();
        let mut pages = Vec::new();
        for decl in shape.states.iter().filter(|decl| !forgets(decl)) {
            let state = LayerState::new(decl, shape.kv_type, &shape.state_bytes);
            let LayerState::KeyValue(cache) = state else {
                continue;
            };
            let mut layer = Vec::new();
            for index in pages_of(decl, &positions) {
                let held = decl.kept(positions.end) - index * KV_PAGE_TOKENS;
                let mut page = cache.new_page();
                buffer.resize(page.saved_bytes(held), 0);
                input.read_exact(&mut buffer)?;
                page.load(held, &buffer).map_err(std::io::Error::other)?;
                layer.push(page);
            }
            pages.push(layer);
        }
        Ok(KeyValues::new(shape, positions, pages))
    }
}

impl RecurrentState {
    fn new(shape: &Arc<SessionShape>, state: Checkpoint) -> RecurrentState {
        RecurrentState {
            shape: Arc::clone(shape),
            _counted: Counted::new(state.bytes(), &shape.state_bytes),
            state,
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self.state.bytes() + self.state.page_bytes()
    }

    /// Bytes that [`RecurrentState::write_to`] writes.
    pub fn written_bytes(&self) -> u64 {
        let place = if has_windows(&self.shape) { 8 } else { 0 };
        let states = self.state.states(&self.shape);
        let bytes = states.map(|(decl, saved)| saved.saved_bytes(decl, self.state.position));
        place + bytes.sum::<u64>()
    }

    /// Writes it, for [`Engine::read_recurrent_state`](crate::Engine::read_recurrent_state).
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut buffer = Vec::new();
        let position = self.state.position;
        if has_windows(&self.shape) {
            out.write_all(&(position as u64).to_le_bytes())?;
        }
        for (decl, saved) in self.state.states(&self.shape) {
            buffer.clear();
            saved.save(decl, position, &mut buffer);
            out.write_all(&buffer)?;
        }
        Ok(())
    }

    pub(crate) fn read_from(
        shape: &Arc<SessionShape>,
        input: &mut dyn Read,
    ) -> std::io::Result<RecurrentState> {
        let mut position = 0;
        if has_windows(shape) {
            let mut bytes = [0; 8];
            input.read_exact(&mut bytes)?;
            position = usize::try_from(u64::from_le_bytes(bytes)).unwrap_or(usize::MAX);
        }
        if position > shape.context_tokens {
            return Err(std::io::Error::other(
                "state of a position beyond the context",
            ));
        }
        let state = Checkpoint::load(position, shape, input)?;
        Ok(RecurrentState::new(shape, state))
    }
}

/// Whether the position must be known to tell how much state there is.
fn has_windows(shape: &SessionShape) -> bool {
    shape.states.iter().any(StateDecl::has_window)
}

impl Session {
    /// Keys and values of `positions`, shared with this session; those behind the session's end are
    /// left out.
    ///
    /// # Errors
    /// [`Error::Device`] if the state was on a device that is lost.
    pub fn key_values(&self, positions: Range<usize>) -> Result<KeyValues, Error> {
        let end = positions.end.min(self.len());
        let positions = positions.start.min(end)..end;
        let mut pages = Vec::new();
        for (state, decl) in self.states.iter().zip(&self.shape.states) {
            let home = match state {
                LayerState::Remote(decl, _) if !forgets(decl) => self.at_home(state)?,
                LayerState::KeyValue(cache) if cache.has_window() => continue,
                _ => None,
            };
            if let LayerState::KeyValue(cache) = home.as_ref().unwrap_or(state) {
                let held = cache.pages().get(pages_of(decl, &positions));
                let lost = || Error::Internal("a session has too few pages".to_owned());
                pages.push(held.ok_or_else(lost)?.to_vec());
            }
        }
        Ok(KeyValues::new(&self.shape, positions, pages))
    }

    /// A copy of the state that does not keep all positions; `None` where there is no such state.
    ///
    /// # Errors
    /// [`Error::Device`] if the state was on a device that is lost.
    pub fn recurrent_state(&self) -> Result<Option<RecurrentState>, Error> {
        if !self.forgets() {
            return Ok(None);
        }
        let state = Checkpoint::of(&self.states, self.len(), &self.shape)?;
        Ok(Some(RecurrentState::new(&self.shape, state)))
    }

    /// See [`Engine::resume`](crate::Engine::resume).
    pub(crate) fn resume(
        shape: Arc<SessionShape>,
        tokens: &[u32],
        parts: &[&KeyValues],
        recurrent: Option<&RecurrentState>,
    ) -> Result<Session, Error> {
        let known = parts.iter().all(|p| Arc::ptr_eq(&p.shape, &shape))
            && recurrent.is_none_or(|r| Arc::ptr_eq(&r.shape, &shape));
        if !known {
            return Err(Error::ForeignSession);
        }
        let mut end = 0;
        for part in parts {
            let positions = part.positions();
            if positions.start > end || positions.end < positions.start {
                return Err(gap(end, tokens.len()));
            }
            end = positions.end;
        }
        let whole = shape.forgets() == recurrent.is_some() || tokens.is_empty();
        if end < tokens.len() || !whole || tokens.len() > shape.context_tokens {
            return Err(gap(end, tokens.len()));
        }
        let mut session = Session::at_host(shape);
        session.tokens = tokens.to_vec();
        let other =
            |r: &RecurrentState| has_windows(&session.shape) && r.state.position != tokens.len();
        if recurrent.is_some_and(other) {
            return Err(gap(end, tokens.len()));
        }
        let mut saved = recurrent.into_iter().flat_map(|r| &r.state.saved);
        let mut layer = 0;
        for state in &mut session.states {
            match state {
                LayerState::KeyValue(cache) if !cache.has_window() => {
                    for part in parts {
                        let first = cache.kept(part.positions.start) / KV_PAGE_TOKENS;
                        cache.share(first, &part.pages[layer]);
                    }
                    cache.truncate(tokens.len());
                    layer += 1;
                }
                state => state.go_back(tokens.len(), &mut saved)?,
            }
        }
        session.move_out()
    }
}

fn gap(end: usize, len: usize) -> Error {
    Error::Snapshot {
        path: None,
        problem: format!("its parts reach to position {end}, not to {len}; compute the rest anew"),
    }
}
