//! What a session keeps to come back to a position: recurrent states, and what windows show there.
//! Keys and values of all positions need nothing. Also how states become bytes and come back.

use std::io::Read;

use moeflux_kernels::{KV_PAGE_TOKENS, KvPage, KvType};

use super::state::{KeyValueCache, LayerState};
use super::{SessionShape, forgets};
use crate::Error;
use crate::graph::StateDecl;

/// A position to come back to.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    pub position: usize,
    /// One for each state that needs it, in the graph's order.
    pub saved: Vec<Saved>,
}

/// A state at a checkpoint.
#[derive(Clone, Debug)]
pub(crate) enum Saved {
    Recurrent(Vec<f32>),
    /// The pages that a window shows.
    Window(Vec<KvPage>),
}

impl Checkpoint {
    /// The states as they are now, at `position`.
    ///
    /// # Errors
    /// [`Error::Device`] if a device is lost.
    pub fn of(
        states: &[LayerState],
        position: usize,
        shape: &SessionShape,
    ) -> Result<Checkpoint, Error> {
        let window = |state: &LayerState| match state {
            LayerState::KeyValue(cache) => Saved::Window(cache.needed(position).to_vec()),
            _ => Saved::Window(Vec::new()),
        };
        let saved = states.iter().filter_map(|state| match state {
            LayerState::KeyValue(cache) if cache.has_window() => Some(Ok(window(state))),
            LayerState::Remote(decl, remote) if decl.has_window() => Some({
                let home = LayerState::at_home(decl, shape, position, &**remote);
                home.map(|home| window(&home))
            }),
            _ => state.recurrent_values().map(|r| r.map(Saved::Recurrent)),
        });
        let saved = saved.collect::<Result<_, Error>>()?;
        Ok(Checkpoint { position, saved })
    }

    /// Reads a checkpoint at `position` from what [`Saved::save`] gave for each of its states.
    ///
    /// # Errors
    /// Those of `input`; too few bytes.
    pub fn load(
        position: usize,
        shape: &SessionShape,
        input: &mut dyn Read,
    ) -> std::io::Result<Checkpoint> {
        let mut saved = Vec::new();
        for decl in shape.states.iter().filter(|decl| forgets(decl)) {
            saved.push(match decl {
                StateDecl::Recurrent { len } => Saved::Recurrent(load_values(*len, input)?),
                StateDecl::KeyValue { .. } => {
                    Saved::Window(load_window(decl, position, shape, input)?)
                }
            });
        }
        Ok(Checkpoint { position, saved })
    }

    /// The states with what declares them.
    pub fn states<'a>(
        &'a self,
        shape: &'a SessionShape,
    ) -> impl Iterator<Item = (&'a StateDecl, &'a Saved)> {
        let forgetful = shape.states.iter().filter(|decl| forgets(decl));
        forgetful.zip(&self.saved)
    }

    /// Bytes that it takes, but for pages, which are counted where they are made.
    pub fn bytes(&self) -> u64 {
        let bytes = |saved: &Saved| match saved {
            Saved::Recurrent(values) => values.len() as u64 * 4,
            Saved::Window(_) => 0,
        };
        self.saved.iter().map(bytes).sum()
    }

    /// Bytes of its pages, which others may share.
    pub fn page_bytes(&self) -> u64 {
        let bytes = |saved: &Saved| match saved {
            Saved::Recurrent(_) => 0,
            Saved::Window(pages) => pages.iter().map(KvPage::own_bytes).sum::<u64>(),
        };
        self.saved.iter().map(bytes).sum()
    }
}

impl Saved {
    /// Bytes that [`Saved::save`] appends.
    pub fn saved_bytes(&self, decl: &StateDecl, position: usize) -> u64 {
        match self {
            Saved::Recurrent(values) => values.len() as u64 * 4,
            Saved::Window(pages) => saved_page_bytes(pages, first_page(decl, position), position),
        }
    }

    /// Appends what a checkpoint at `position` has of the state `decl`.
    pub fn save(&self, decl: &StateDecl, position: usize, out: &mut Vec<u8>) {
        match self {
            Saved::Recurrent(values) => save_values(values, out),
            Saved::Window(pages) => save_pages(pages, first_page(decl, position), position, out),
        }
    }
}

/// The first page that a window shows at `position`.
fn first_page(decl: &StateDecl, position: usize) -> usize {
    decl.first_needed(position) / KV_PAGE_TOKENS
}

/// Appends values, little-endian.
pub(super) fn save_values(values: &[f32], out: &mut Vec<u8>) {
    for value in values {
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// Values that are read at a time.
const CHUNK: usize = 1 << 14;

fn load_values(len: usize, input: &mut dyn Read) -> std::io::Result<Vec<f32>> {
    let (mut buffer, mut values) = (Vec::new(), Vec::with_capacity(len));
    while values.len() < len {
        buffer.resize(CHUNK.min(len - values.len()) * 4, 0);
        input.read_exact(&mut buffer)?;
        let read = buffer.as_chunks::<4>().0.iter();
        values.extend(read.map(|b| f32::from_le_bytes(*b)));
    }
    Ok(values)
}

/// Bytes that [`save_pages`] appends.
pub(super) fn saved_page_bytes(pages: &[KvPage], first: usize, end: usize) -> u64 {
    let bytes = |(index, page): (usize, &KvPage)| {
        page.saved_bytes(end.saturating_sub(index * KV_PAGE_TOKENS)) as u64
    };
    (first..).zip(pages).map(bytes).sum()
}

/// Appends pages, of which the first is number `first`, as far as they hold what is kept before `end`.
pub(super) fn save_pages(pages: &[KvPage], first: usize, end: usize, out: &mut Vec<u8>) {
    for (index, page) in (first..).zip(pages) {
        page.save(end.saturating_sub(index * KV_PAGE_TOKENS), out);
    }
}

/// The pages that a window shows at `position`.
fn load_window(
    decl: &StateDecl,
    position: usize,
    shape: &SessionShape,
    input: &mut dyn Read,
) -> std::io::Result<Vec<KvPage>> {
    let mut state = LayerState::new(decl, shape.kv_type, &shape.state_bytes);
    let LayerState::KeyValue(cache) = &mut state else {
        return Ok(Vec::new());
    };
    cache.load(position, input)?;
    Ok(cache.pages().to_vec())
}

impl KeyValueCache {
    /// Reads what [`save_pages`] gave of the pages that a session of `positions` tokens needs.
    ///
    /// # Errors
    /// Those of `input`; too few bytes.
    pub(super) fn load(&mut self, positions: usize, input: &mut dyn Read) -> std::io::Result<()> {
        self.restore(positions, Vec::new());
        self.reserve(0, positions);
        let mut buffer = Vec::new();
        let kept = self.kept(positions);
        for (index, page) in (self.dropped()..).zip(self.pages_mut()) {
            let held = kept - index * KV_PAGE_TOKENS;
            buffer.resize(page.saved_bytes(held), 0);
            input.read_exact(&mut buffer)?;
            page.load(held, &buffer).map_err(std::io::Error::other)?;
        }
        Ok(())
    }
}

impl LayerState {
    /// Whether a session can come back to `position` without a checkpoint.
    pub(super) fn reaches(&self, position: usize) -> bool {
        match self {
            LayerState::KeyValue(cache) => cache.reaches(position),
            LayerState::Recurrent(_) => false,
            LayerState::Remote(decl, _) => !matches!(decl, StateDecl::Recurrent { .. }),
        }
    }

    /// Comes back to `position`, with what a checkpoint there has saved; `saved` gives the next
    /// one.
    ///
    /// # Errors
    /// [`Error::Device`] if a device is lost.
    pub(super) fn go_back<'s>(
        &mut self,
        position: usize,
        saved: &mut impl Iterator<Item = &'s Saved>,
    ) -> Result<(), Error> {
        match self {
            LayerState::KeyValue(cache) => {
                let window = cache.has_window().then(|| saved.next());
                match window.flatten() {
                    Some(Saved::Window(pages)) => cache.restore(position, pages.clone()),
                    _ if position == 0 => cache.restore(0, Vec::new()),
                    _ => cache.truncate(position),
                }
            }
            LayerState::Recurrent(recurrent) => recurrent.restore(values(saved.next())),
            LayerState::Remote(StateDecl::Recurrent { .. }, state) => {
                state.set(0, values(saved.next()))?;
            }
            LayerState::Remote(decl, state) if decl.has_window() => {
                // The device may have kept more than the window, or not.
                if let Some(Saved::Window(pages)) = saved.next() {
                    let kv_type = pages.first().map_or_else(KvType::default, KvPage::kv_type);
                    let home = LayerState::of_pages(decl, kv_type, position, pages.clone());
                    state.set(position, Some(&home.values(position)?))?;
                }
            }
            LayerState::Remote(StateDecl::KeyValue { .. }, _) => {}
        }
        Ok(())
    }
}

fn values(saved: Option<&Saved>) -> Option<&[f32]> {
    match saved {
        Some(Saved::Recurrent(values)) => Some(values),
        _ => None,
    }
}
