//! State of one layer: a key-value cache in pages, or a recurrent state in two copies.

use moeflux_kernels::{KV_PAGE_TOKENS, KvPage};

use crate::graph::StateDecl;

/// What one layer carries from step to step.
#[derive(Clone, Debug)]
pub enum LayerState {
    /// Keys and values.
    KeyValue(KeyValueCache),
    /// A state of fixed size.
    Recurrent(Recurrent),
}

impl LayerState {
    pub(super) fn new(decl: &StateDecl) -> LayerState {
        match *decl {
            StateDecl::KeyValue { kv_heads, head_dim } => LayerState::KeyValue(KeyValueCache {
                kv_heads,
                head_dim,
                pages: Vec::new(),
            }),
            StateDecl::Recurrent { len } => LayerState::Recurrent(Recurrent {
                current: vec![0.0; len],
                next: vec![0.0; len],
                written: false,
            }),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        match self {
            LayerState::KeyValue(c) => c.pages.len() as u64 * c.page_bytes(),
            LayerState::Recurrent(r) => (r.current.len() + r.next.len()) as u64 * 4,
        }
    }

    pub(super) fn growth_bytes(&self, end: usize) -> u64 {
        match self {
            LayerState::KeyValue(c) => {
                let pages = end.div_ceil(KV_PAGE_TOKENS).saturating_sub(c.pages.len());
                pages as u64 * c.page_bytes()
            }
            LayerState::Recurrent(_) => 0,
        }
    }

    pub(super) fn reserve(&mut self, end: usize) {
        match self {
            LayerState::KeyValue(c) => c.reserve(end),
            LayerState::Recurrent(r) => r.written = false,
        }
    }

    pub(super) fn commit(&mut self) {
        if let LayerState::Recurrent(r) = self
            && r.written
        {
            std::mem::swap(&mut r.current, &mut r.next);
            r.written = false;
        }
    }
}

/// Keys and values of one layer in pages of [`KV_PAGE_TOKENS`] positions, so that memory grows
/// with use and never has to be copied.
#[derive(Clone, Debug)]
pub struct KeyValueCache {
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) pages: Vec<Page>,
}

/// `[kv_heads, KV_PAGE_TOKENS, head_dim]` each.
#[derive(Clone, Debug)]
pub(super) struct Page {
    pub keys: Vec<f32>,
    pub values: Vec<f32>,
}

impl KeyValueCache {
    fn page_len(&self) -> usize {
        self.kv_heads * KV_PAGE_TOKENS * self.head_dim
    }

    fn page_bytes(&self) -> u64 {
        self.page_len() as u64 * 8
    }

    pub(super) fn reserve(&mut self, end: usize) {
        let len = self.page_len();
        while self.pages.len() * KV_PAGE_TOKENS < end {
            self.pages.push(Page {
                keys: vec![0.0; len],
                values: vec![0.0; len],
            });
        }
    }

    pub(super) fn truncate(&mut self, end: usize) {
        self.pages.truncate(end.div_ceil(KV_PAGE_TOKENS));
    }

    /// Where head `head` of `position` starts: page and element.
    pub(super) fn place(&self, position: usize, head: usize) -> (usize, usize) {
        let in_page = position % KV_PAGE_TOKENS;
        (
            position / KV_PAGE_TOKENS,
            (head * KV_PAGE_TOKENS + in_page) * self.head_dim,
        )
    }

    /// Writes `k` and `v` `[n, kv_heads, head_dim]` at `start`, in room made before.
    pub(crate) fn append(&mut self, start: usize, k: &[f32], v: &[f32]) {
        let dim = self.head_dim;
        let heads = k.chunks_exact(dim).zip(v.chunks_exact(dim));
        for (index, (k, v)) in heads.enumerate() {
            let (page, at) = self.place(start + index / self.kv_heads, index % self.kv_heads);
            self.pages[page].keys[at..at + dim].copy_from_slice(k);
            self.pages[page].values[at..at + dim].copy_from_slice(v);
        }
    }

    /// The pages, for the attention kernel.
    pub(crate) fn pages(&self) -> Vec<KvPage<'_>> {
        self.pages
            .iter()
            .map(|p| KvPage {
                keys: &p.keys,
                values: &p.values,
            })
            .collect()
    }
}

/// A recurrent state: the current one, and room for the one that a step writes.
#[derive(Clone, Debug)]
pub struct Recurrent {
    current: Vec<f32>,
    next: Vec<f32>,
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
    pub(super) fn restore(&mut self, saved: Option<Vec<f32>>) {
        match saved {
            Some(saved) => self.current.copy_from_slice(&saved),
            None => self.current.fill(0.0),
        }
        self.written = false;
    }

    pub(super) fn current_mut(&mut self) -> &mut [f32] {
        &mut self.current
    }
}
