//! Memory of a backend's own that holds experts.

/// What such memory has done since the model was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierStats {
    /// Experts that it has room for, in the layers that were used.
    pub slots: u64,
    /// Bytes of that room.
    pub slot_bytes: u64,
    /// Experts that were brought there.
    pub brought: u64,
    /// Bytes of those.
    pub brought_bytes: u64,
    /// Experts that the processor computed instead.
    pub beside: u64,
}

impl TierStats {
    /// What has been done since `before`.
    pub fn since(&self, before: &TierStats) -> TierStats {
        TierStats {
            brought: self.brought - before.brought,
            brought_bytes: self.brought_bytes - before.brought_bytes,
            beside: self.beside - before.beside,
            ..*self
        }
    }
}
