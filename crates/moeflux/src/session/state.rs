//! State of one layer: a key-value cache in pages, or a recurrent state in two copies.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use moeflux_kernels::{KV_PAGE_TOKENS, KvPage, KvType};

use super::memory::Floats;
use super::remote::RemoteState;
use crate::Error;
use crate::graph::StateDecl;

/// What one layer carries from step to step.
#[derive(Debug)]
pub enum LayerState {
    /// Keys and values.
    KeyValue(KeyValueCache),
    /// A state of fixed size.
    Recurrent(Recurrent),
    /// Either of them, where a backend keeps it.
    Remote(StateDecl, Box<dyn RemoteState>),
}

impl LayerState {
    /// Empty state in the host's memory; that of keys and values is added to `count`.
    pub(super) fn new(decl: &StateDecl, kv_type: KvType, count: &Arc<AtomicU64>) -> LayerState {
        match *decl {
            StateDecl::KeyValue { .. } => LayerState::KeyValue(KeyValueCache {
                kv_type,
                decl: *decl,
                dropped: 0,
                pages: Vec::new(),
                count: Arc::clone(count),
            }),
            StateDecl::Recurrent { len } => LayerState::Recurrent(Recurrent {
                current: Floats::zeros(len),
                next: Floats::zeros(len),
                written: false,
            }),
        }
    }

    /// Bytes of a recurrent state; pages of keys and values are counted where they are made.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            LayerState::Recurrent(r) => (r.current.len() + r.next.len()) as u64 * 4,
            LayerState::KeyValue(_) | LayerState::Remote(..) => 0,
        }
    }

    /// Bytes that [`LayerState::reserve`] would add.
    pub(super) fn growth_bytes(&self, start: usize, end: usize) -> u64 {
        match self {
            LayerState::KeyValue(c) => {
                let first = c.first_page(start).max(c.dropped);
                let pages = c.pages_of(end) - first;
                let kept = c.pages.iter().skip(first - c.dropped);
                let written = c.pages.iter().skip(c.written_from(start));
                let shared = written.filter(|page| page.is_shared()).count();
                (pages.saturating_sub(kept.count()) + shared) as u64 * c.page_bytes()
            }
            LayerState::Recurrent(_) | LayerState::Remote(..) => 0,
        }
    }

    /// Makes room for the positions `start .. end` to be written, and forgets what no query from
    /// there on needs.
    pub(super) fn reserve(&mut self, start: usize, end: usize) -> Result<(), Error> {
        match self {
            LayerState::KeyValue(c) => {
                c.forget(start);
                c.reserve(start, end);
            }
            LayerState::Recurrent(r) => r.written = false,
            LayerState::Remote(_, state) => state.reserve(end)?,
        }
        Ok(())
    }

    /// Takes the last committed step back: its recurrent state becomes the one before it, and what
    /// it wrote behind position `end` no longer counts.
    pub(super) fn undo(&mut self, end: usize) {
        match self {
            LayerState::KeyValue(cache) => cache.truncate(end),
            LayerState::Recurrent(r) => {
                std::mem::swap(&mut r.current, &mut r.next);
                r.written = false;
            }
            LayerState::Remote(_, state) => state.undo(),
        }
    }

    pub(super) fn commit(&mut self) {
        match self {
            LayerState::Recurrent(r) if r.written => {
                std::mem::swap(&mut r.current, &mut r.next);
                r.written = false;
            }
            LayerState::Remote(_, state) => state.commit(),
            LayerState::Recurrent(_) | LayerState::KeyValue(_) => {}
        }
    }
}

/// Keys and values of one layer in pages of [`KV_PAGE_TOKENS`] positions, so that memory grows
/// with use and never has to be copied. Pages that a window has passed are dropped.
#[derive(Debug)]
pub struct KeyValueCache {
    kv_type: KvType,
    /// Their shape and window.
    decl: StateDecl,
    /// Pages before those that are there.
    dropped: usize,
    pages: Vec<KvPage>,
    /// Bytes of all sessions' state.
    count: Arc<AtomicU64>,
}

impl KeyValueCache {
    fn page_bytes(&self) -> u64 {
        self.decl.page_bytes(self.kv_type)
    }

    /// The first page that a query at `position` needs.
    pub(super) fn first_page(&self, position: usize) -> usize {
        self.decl.first_needed(position) / KV_PAGE_TOKENS
    }

    /// Pages that hold what is kept of the first `positions` positions.
    fn pages_of(&self, positions: usize) -> usize {
        self.decl.kept(positions).div_ceil(KV_PAGE_TOKENS)
    }

    /// Keys and values of the first `positions` positions.
    pub(super) fn kept(&self, positions: usize) -> usize {
        self.decl.kept(positions)
    }

    /// The first position that a query at `position` needs.
    pub(super) fn first_needed(&self, position: usize) -> usize {
        self.decl.first_needed(position)
    }

    /// Drops what no query from `position` on needs.
    pub(super) fn forget(&mut self, position: usize) {
        let passed = self.first_page(position).saturating_sub(self.dropped);
        self.pages.drain(..passed.min(self.pages.len()));
        self.dropped += passed;
    }

    pub(super) fn new_page(&self) -> KvPage {
        let page = match self.decl {
            StateDecl::KeyValue {
                kv_heads,
                head_dim,
                is_joint: false,
                ..
            } => KvPage::new(self.kv_type, kv_heads, head_dim),
            StateDecl::KeyValue {
                kv_heads, head_dim, ..
            } => KvPage::joint(self.kv_type, kv_heads, head_dim),
            // A cache is made for keys and values only.
            StateDecl::Recurrent { .. } => KvPage::new(self.kv_type, 0, 0),
        };
        page.counted(&self.count)
    }

    /// The first page that is written from `position` on, among those that are there.
    fn written_from(&self, position: usize) -> usize {
        (self.decl.kept(position) / KV_PAGE_TOKENS).saturating_sub(self.dropped)
    }

    /// Makes room for the positions `start .. end` to be written: what is shared there is copied.
    pub(super) fn reserve(&mut self, start: usize, end: usize) {
        let from = self.written_from(start);
        self.pages.iter_mut().skip(from).for_each(KvPage::make_own);
        while self.dropped + self.pages.len() < self.pages_of(end) {
            self.pages.push(self.new_page());
        }
    }

    /// Goes on with pages that others have as well: `pages` are those from number `first` on. For
    /// caches without a window.
    pub(super) fn share(&mut self, first: usize, pages: &[KvPage]) {
        self.pages.truncate(first);
        self.pages.extend_from_slice(pages);
    }

    /// Whether old positions are forgotten.
    pub(super) fn has_window(&self) -> bool {
        self.decl.has_window()
    }

    /// Whether a session of `position` tokens finds all it needs here.
    pub(super) fn reaches(&self, position: usize) -> bool {
        self.dropped <= self.first_page(position)
    }

    pub(super) fn truncate(&mut self, end: usize) {
        let pages = self.pages_of(end);
        self.pages.truncate(pages.saturating_sub(self.dropped));
    }

    /// The pages that a session of `position` tokens needs.
    pub(super) fn needed(&self, position: usize) -> &[KvPage] {
        let end = self.pages_of(position).saturating_sub(self.dropped);
        let first = self.first_page(position).saturating_sub(self.dropped);
        let end = end.min(self.pages.len());
        &self.pages[first.min(end)..end]
    }

    /// Takes `pages` for all that a session of `position` tokens needs.
    pub(super) fn restore(&mut self, position: usize, pages: Vec<KvPage>) {
        (self.dropped, self.pages) = (self.first_page(position), pages);
    }

    /// Pages before those that are there.
    pub(crate) fn dropped(&self) -> usize {
        self.dropped
    }

    /// The pages that are there.
    pub(crate) fn pages(&self) -> &[KvPage] {
        &self.pages
    }

    /// The pages, to be written in the room made before.
    pub(crate) fn pages_mut(&mut self) -> &mut [KvPage] {
        &mut self.pages
    }
}

/// A recurrent state: the current one, and room for the one that a step writes.
#[derive(Debug)]
pub struct Recurrent {
    current: Floats,
    next: Floats,
    written: bool,
}

impl Recurrent {
    /// The state before the step.
    pub(crate) fn current(&self) -> &[f32] {
        &self.current
    }

    /// The state before the step, and where the step writes the one after it.
    pub(crate) fn step(&mut self) -> (&[f32], &mut [f32]) {
        self.written = true;
        (&self.current, &mut self.next)
    }

    /// Takes `saved`, or zeros, as the current state.
    pub(super) fn restore(&mut self, saved: Option<&[f32]>) {
        match saved {
            Some(saved) => self.current.copy_from_slice(saved),
            None => self.current.fill(0.0),
        }
        self.written = false;
    }

    pub(super) fn current_mut(&mut self) -> &mut [f32] {
        &mut self.current
    }
}
