//! Reading every expert ahead of use, where there is room for all of them.

use std::sync::Arc;

use crate::error::ExpertError;
use crate::residency::Residency;

impl Residency {
    /// Brings every expert into memory, layer by layer, if there are slots for all of them, and
    /// tells `progress` how many of how many are there. Returns whether all are in memory now;
    /// without room for all it reads nothing. Counts as leases in the statistics.
    ///
    /// # Errors
    /// As [`Lease::next`](crate::Lease::next); what was read before stays.
    pub fn warm(&mut self, progress: &mut dyn FnMut(usize, usize)) -> Result<bool, ExpertError> {
        let index = Arc::clone(&self.index);
        let all = index.entries.len();
        if self.slots() < all {
            return Ok(false);
        }
        let mut done = 0;
        for layer in index.entries.chunk_by(|a, b| a.layer == b.layer) {
            let experts: Vec<u32> = layer.iter().map(|entry| entry.expert).collect();
            let mut lease = self.lease(layer[0].layer, &experts)?;
            while let Some(ready) = lease.next()? {
                done += ready.len();
                progress(done, all);
            }
        }
        Ok(true)
    }
}
