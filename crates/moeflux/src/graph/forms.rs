//! What operations compute beside their main work.

use std::sync::Arc;

use moeflux_kernels::{CompressShape, Glu, RopeStyle};

use super::WeightId;

/// What routed experts compute beside the products with their matrices.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ExpertForm {
    /// What becomes of the results of gate and up.
    pub glu: Glu,
    /// Added to the results of gate, up and down: `[experts, intermediate]` twice, then
    /// `[experts, hidden]`.
    pub biases: Option<[WeightId; 3]>,
}

/// How a window of positions becomes an entry of a cache.
#[derive(Clone, Debug)]
pub struct EntryForm {
    /// How positions are pooled.
    pub shape: CompressShape,
    /// Added to the gates, by place in the window, `[rate, width]`; `None`: nothing.
    pub bias: Option<WeightId>,
    /// Of the norm of entries, `[dim]`; `None`: they stay as they are pooled.
    pub norm: Option<WeightId>,
    /// The norm's epsilon.
    pub eps: f32,
    /// Frequencies of the rotation by the window's first position; none: nothing rotates.
    pub inv_freq: Arc<[f32]>,
    /// Which elements it rotates.
    pub style: RopeStyle,
    /// Factor on sine and cosine.
    pub attention_scale: f32,
}
