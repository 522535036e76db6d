//! A session's state as plain values, for comparing sessions.

use super::Session;
use super::state::LayerState;

impl Session {
    /// Each piece of state, in the graph's order: the keys, then the values of all positions,
    /// `[positions, kv_heads, head_dim]` each, or the recurrent state.
    pub fn state_values(&self) -> Vec<Vec<f32>> {
        self.states.iter().map(|s| values(s, self.len())).collect()
    }
}

fn values(state: &LayerState, positions: usize) -> Vec<f32> {
    let cache = match state {
        LayerState::KeyValue(cache) => cache,
        LayerState::Recurrent(recurrent) => return recurrent.current().to_vec(),
    };
    let mut out = Vec::with_capacity(2 * positions * cache.kv_heads * cache.head_dim);
    for keys in [true, false] {
        for row in 0..positions * cache.kv_heads {
            let (page, at) = cache.place(row / cache.kv_heads, row % cache.kv_heads);
            let page = &cache.pages[page];
            let source = if keys { &page.keys } else { &page.values };
            out.extend_from_slice(&source[at..at + cache.head_dim]);
        }
    }
    out
}
