//! What a session keeps to come back to a position: recurrent states, and what windows show there.
//! Keys and values of all positions need nothing.

use moeflux_kernels::{KvPage, KvType};

use super::SessionShape;
use super::state::LayerState;
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
    pub(super) fn go_back(
        &mut self,
        position: usize,
        saved: &mut impl Iterator<Item = Saved>,
    ) -> Result<(), Error> {
        match self {
            LayerState::KeyValue(cache) => {
                let window = cache.has_window().then(|| saved.next());
                match window.flatten() {
                    Some(Saved::Window(pages)) => cache.restore(position, pages),
                    _ if position == 0 => cache.restore(0, Vec::new()),
                    _ => cache.truncate(position),
                }
            }
            LayerState::Recurrent(recurrent) => recurrent.restore(values(saved.next()).as_deref()),
            LayerState::Remote(StateDecl::Recurrent { .. }, state) => {
                state.set(0, values(saved.next()).as_deref())?;
            }
            LayerState::Remote(decl, state) if decl.has_window() => {
                // The device may have kept more than the window, or not.
                if let Some(Saved::Window(pages)) = saved.next() {
                    let kv_type = pages.first().map_or_else(KvType::default, KvPage::kv_type);
                    let home = LayerState::of_pages(decl, kv_type, position, pages);
                    state.set(position, Some(&home.values(position)?))?;
                }
            }
            LayerState::Remote(StateDecl::KeyValue { .. }, _) => {}
        }
        Ok(())
    }
}

fn values(saved: Option<Saved>) -> Option<Vec<f32>> {
    match saved {
        Some(Saved::Recurrent(values)) => Some(values),
        _ => None,
    }
}
