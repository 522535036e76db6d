//! A session's state as plain values, for comparing sessions.

use moeflux_kernels::KV_PAGE_TOKENS;

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
    let (mut keys, mut values) = (Vec::new(), Vec::new());
    for position in 0..positions {
        let page = &cache.pages()[position / KV_PAGE_TOKENS];
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
