//! State that outlives the session that computed it, and that other sessions go on from: keys and
//! values of a range of positions, in pages shared until somebody writes them, and recurrent state.

use std::io::{Read, Write};
use std::ops::Range;
use std::sync::Arc;

use moeflux_kernels::{Counted, KV_PAGE_TOKENS, KvPage};

use super::state::LayerState;
use super::{Session, SessionShape};
use crate::Error;
use crate::graph::StateDecl;

/// Keys and values of a range of positions in all layers. Its pages are whole: they also hold what
/// lies before the range in its first page.
#[derive(Debug)]
pub struct KeyValues {
    shape: Arc<SessionShape>,
    positions: Range<usize>,
    /// For each state of that kind, in the graph's order.
    pages: Vec<Vec<KvPage>>,
    /// Bytes of the pages.
    bytes: u64,
}

/// The recurrent state behind a position.
#[derive(Debug)]
pub struct RecurrentState {
    shape: Arc<SessionShape>,
    /// For each state of that kind, in the graph's order.
    values: Vec<Vec<f32>>,
    _counted: Counted,
}

/// The pages that hold `positions`.
fn pages_of(positions: &Range<usize>) -> Range<usize> {
    positions.start / KV_PAGE_TOKENS..positions.end.div_ceil(KV_PAGE_TOKENS)
}

impl KeyValues {
    fn new(
        shape: &Arc<SessionShape>,
        positions: Range<usize>,
        pages: Vec<Vec<KvPage>>,
    ) -> KeyValues {
        let page_bytes = |page: &KvPage| {
            let (kv_heads, head_dim) = page.shape();
            KvPage::bytes(page.kv_type(), kv_heads, head_dim)
        };
        KeyValues {
            shape: Arc::clone(shape),
            positions,
            bytes: pages.iter().flatten().map(page_bytes).sum(),
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

    /// Bytes that [`KeyValues::write_to`] writes.
    pub fn written_bytes(&self) -> u64 {
        let layers = self
            .pages
            .iter()
            .flat_map(|pages| pages_of(&self.positions).zip(pages));
        let bytes = |(index, page): (usize, &KvPage)| {
            page.saved_bytes(self.positions.end - index * KV_PAGE_TOKENS) as u64
        };
        layers.map(bytes).sum()
    }

    /// Writes it, for [`Engine::read_key_values`](crate::Engine::read_key_values).
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut buffer = Vec::new();
        for pages in &self.pages {
            for (index, page) in pages_of(&self.positions).zip(pages) {
                buffer.clear();
                page.save(self.positions.end - index * KV_PAGE_TOKENS, &mut buffer);
                out.write_all(&buffer)?;
            }
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
        for decl in &shape.states {
            let state = LayerState::new(decl, shape.kv_type, &shape.state_bytes);
            let LayerState::KeyValue(cache) = state else {
                continue;
            };
            let mut layer = Vec::new();
            for index in pages_of(&positions) {
                let held = positions.end - index * KV_PAGE_TOKENS;
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
    fn new(shape: &Arc<SessionShape>, values: Vec<Vec<f32>>) -> RecurrentState {
        let bytes = values.iter().map(|v| v.len() as u64 * 4).sum();
        RecurrentState {
            shape: Arc::clone(shape),
            values,
            _counted: Counted::new(bytes, &shape.state_bytes),
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> u64 {
        self._counted.bytes()
    }

    /// Writes it, for [`Engine::read_recurrent_state`](crate::Engine::read_recurrent_state).
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let mut buffer = Vec::new();
        for values in self.values.iter().flat_map(|v| v.chunks(CHUNK)) {
            buffer.clear();
            buffer.extend(values.iter().flat_map(|x| x.to_le_bytes()));
            out.write_all(&buffer)?;
        }
        Ok(())
    }

    pub(crate) fn read_from(
        shape: &Arc<SessionShape>,
        input: &mut dyn Read,
    ) -> std::io::Result<RecurrentState> {
        let mut buffer = Vec::new();
        let mut all = Vec::new();
        for decl in &shape.states {
            let StateDecl::Recurrent { len } = *decl else {
                continue;
            };
            let mut state = Vec::with_capacity(len);
            while state.len() < len {
                buffer.resize(CHUNK.min(len - state.len()) * 4, 0);
                input.read_exact(&mut buffer)?;
                let values = buffer.as_chunks::<4>().0.iter();
                state.extend(values.map(|b| f32::from_le_bytes(*b)));
            }
            all.push(state);
        }
        Ok(RecurrentState::new(shape, all))
    }
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
        for state in &self.states {
            let home = match state {
                LayerState::Remote(StateDecl::KeyValue { .. }, _) => self.at_home(state)?,
                _ => None,
            };
            if let LayerState::KeyValue(cache) = home.as_ref().unwrap_or(state) {
                let held = cache.pages().get(pages_of(&positions));
                let lost = || Error::Internal("a session has too few pages".to_owned());
                pages.push(held.ok_or_else(lost)?.to_vec());
            }
        }
        Ok(KeyValues::new(&self.shape, positions, pages))
    }

    /// A copy of the recurrent state; `None` where there is no such state.
    ///
    /// # Errors
    /// [`Error::Device`] if the state was on a device that is lost.
    pub fn recurrent_state(&self) -> Result<Option<RecurrentState>, Error> {
        if !self.has_recurrent_state() {
            return Ok(None);
        }
        let values = self.states.iter().filter_map(LayerState::recurrent_values);
        let values = values.collect::<Result<_, Error>>()?;
        Ok(Some(RecurrentState::new(&self.shape, values)))
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
        let whole = shape.has_recurrent_state() == recurrent.is_some() || tokens.is_empty();
        if end < tokens.len() || !whole || tokens.len() > shape.context_tokens {
            return Err(gap(end, tokens.len()));
        }
        let mut session = Session::at_host(shape);
        session.tokens = tokens.to_vec();
        let mut saved = recurrent.iter().flat_map(|r| &r.values).map(Vec::as_slice);
        let mut layer = 0;
        for state in &mut session.states {
            match state {
                LayerState::KeyValue(cache) => {
                    for part in parts {
                        cache.share(part.positions.start / KV_PAGE_TOKENS, &part.pages[layer]);
                    }
                    cache.truncate(tokens.len());
                    layer += 1;
                }
                LayerState::Recurrent(state) => state.restore(saved.next()),
                LayerState::Remote(..) => {}
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
