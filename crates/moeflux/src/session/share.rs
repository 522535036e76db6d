//! State that outlives the session that computed it, and that other sessions go on from: keys and
//! values of a range of positions, in pages shared until somebody writes them, and, of a position,
//! the recurrent state and what windows show.

use std::io::{Read, Write};
use std::ops::Range;
use std::sync::Arc;

use moeflux_kernels::{Counted, KV_PAGE_TOKENS, KvPage};

use super::checkpoint::{Checkpoint, Saved};
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

/// The pages that hold what a state keeps of `positions`, each with how much it holds before their
/// end.
fn pages_of(
    decl: &StateDecl,
    positions: &Range<usize>,
) -> impl ExactSizeIterator<Item = (usize, usize)> + use<> {
    let (start, end) = (decl.kept(positions.start), decl.kept(positions.end));
    let pages = start / KV_PAGE_TOKENS..end.div_ceil(KV_PAGE_TOKENS);
    pages.map(move |page| (page, end - page * KV_PAGE_TOKENS))
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

    /// All pages, each with how many positions of it are held.
    fn held(&self) -> impl Iterator<Item = (usize, &KvPage)> {
        let kept = self.shape.states.iter().filter(|decl| !forgets(decl));
        let layers = kept.zip(&self.pages);
        layers.flat_map(|(decl, pages)| {
            let held = pages_of(decl, &self.positions).map(|(_, held)| held);
            held.zip(pages)
        })
    }

    /// Bytes that [`KeyValues::write_to`] writes.
    pub fn written_bytes(&self) -> u64 {
        let bytes = |(held, page): (usize, &KvPage)| page.saved_bytes(held) as u64;
        self.held().map(bytes).sum()
    }

    /// Writes it, for [`Engine::read_key_values`](crate::Engine::read_key_values).
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut buffer = Vec::new();
        for (held, page) in self.held() {
            buffer.clear();
            page.save(held, &mut buffer);
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
            for (_, held) in pages_of(decl, &positions) {
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
        let position = self.state.position;
        let forgetful = self.shape.states.iter().filter(|decl| forgets(decl));
        let windows = forgetful
            .zip(&self.state.saved)
            .map(|(decl, saved)| match saved {
                Saved::Recurrent(_) => 0,
                Saved::Window(pages) => {
                    let numbered = (decl.first_needed(position) / KV_PAGE_TOKENS..).zip(pages);
                    let bytes = |(index, page): (usize, &KvPage)| {
                        page.saved_bytes(position - index * KV_PAGE_TOKENS)
                    };
                    numbered.map(bytes).sum::<usize>() as u64
                }
            });
        let place = if has_windows(&self.shape) { 8 } else { 0 };
        place + self.state.bytes() + windows.sum::<u64>()
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
        let forgetful = self.shape.states.iter().filter(|decl| forgets(decl));
        for (decl, saved) in forgetful.zip(&self.state.saved) {
            match saved {
                Saved::Recurrent(values) => {
                    for values in values.chunks(CHUNK) {
                        buffer.clear();
                        buffer.extend(values.iter().flat_map(|x| x.to_le_bytes()));
                        out.write_all(&buffer)?;
                    }
                }
                Saved::Window(pages) => {
                    for (index, page) in (decl.first_needed(position) / KV_PAGE_TOKENS..).zip(pages)
                    {
                        buffer.clear();
                        page.save(position - index * KV_PAGE_TOKENS, &mut buffer);
                        out.write_all(&buffer)?;
                    }
                }
            }
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
        let mut saved = Vec::new();
        for decl in &shape.states {
            match decl {
                StateDecl::Recurrent { len } => saved.push(Saved::Recurrent(floats(*len, input)?)),
                StateDecl::KeyValue { .. } if decl.has_window() => {
                    saved.push(Saved::Window(window(shape, decl, position, input)?));
                }
                StateDecl::KeyValue { .. } => {}
            }
        }
        Ok(RecurrentState::new(shape, Checkpoint { position, saved }))
    }
}

/// Whether the position must be known to tell how much state there is.
fn has_windows(shape: &SessionShape) -> bool {
    shape.states.iter().any(StateDecl::has_window)
}

fn floats(len: usize, input: &mut dyn Read) -> std::io::Result<Vec<f32>> {
    let (mut buffer, mut values) = (Vec::new(), Vec::with_capacity(len));
    while values.len() < len {
        buffer.resize(CHUNK.min(len - values.len()) * 4, 0);
        input.read_exact(&mut buffer)?;
        let read = buffer.as_chunks::<4>().0.iter();
        values.extend(read.map(|b| f32::from_le_bytes(*b)));
    }
    Ok(values)
}

/// The pages that a window shows at `position`.
fn window(
    shape: &SessionShape,
    decl: &StateDecl,
    position: usize,
    input: &mut dyn Read,
) -> std::io::Result<Vec<KvPage>> {
    let mut state = LayerState::new(decl, shape.kv_type, &shape.state_bytes);
    let LayerState::KeyValue(cache) = &mut state else {
        return Ok(Vec::new());
    };
    cache.restore(position, Vec::new());
    cache.reserve(0, position);
    let mut buffer = Vec::new();
    for (index, page) in (cache.dropped()..).zip(cache.pages_mut()) {
        let held = position - index * KV_PAGE_TOKENS;
        buffer.resize(page.saved_bytes(held), 0);
        input.read_exact(&mut buffer)?;
        page.load(held, &buffer).map_err(std::io::Error::other)?;
    }
    Ok(cache.pages().to_vec())
}

/// Values that are turned into bytes at a time.
const CHUNK: usize = 1 << 14;

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
                let first = decl.kept(positions.start) / KV_PAGE_TOKENS;
                let count = pages_of(decl, &positions).len();
                let held = cache.pages().get(first..first + count);
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
        let mut saved = recurrent.iter().flat_map(|r| r.state.saved.clone());
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
