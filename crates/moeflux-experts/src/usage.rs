//! What is noted of the experts' use beside reading them: how often each is used, and a trace; and
//! what earlier notes say of the experts to come.

use std::path::Path;

use crate::error::ExpertError;
use crate::policy::Pass;
use crate::residency::{NO_SLOT, Residency};
use crate::trace::{TraceHeader, TraceWriter};

/// The notes of one residency.
pub(crate) struct Usage {
    trace: Option<TraceWriter>,
    /// By key.
    uses: Vec<f32>,
}

impl Usage {
    pub fn new(keys: usize) -> Usage {
        Usage {
            trace: None,
            uses: vec![0.0; keys],
        }
    }
}

impl Residency {
    /// Writes a trace of all that is noted from now on; `model`, `identity` and `top_k` are for
    /// its header.
    ///
    /// # Errors
    /// [`ExpertError::TraceFile`] if the file cannot be created.
    pub fn trace_to(
        &mut self,
        path: &Path,
        model: &str,
        identity: u64,
        top_k: usize,
    ) -> Result<(), ExpertError> {
        let layers = self.index.layers();
        let header = TraceHeader {
            model: model.to_owned(),
            identity,
            slot_bytes: self.slot_bytes(),
            top_k: top_k as u32,
            layers: layers.map(|(layer, n)| (layer as u32, n)).collect(),
        };
        self.usage.trace = Some(TraceWriter::create(path, &header)?);
        Ok(())
    }

    /// Notes what a layer's router chose for a step: `ids` and `weights` are `[tokens, top_k]`. To
    /// be called once for each layer of a step, in order.
    ///
    /// # Errors
    /// [`ExpertError::TraceFile`] if a trace is wanted and cannot be written; it ends there, and
    /// later steps go on without. An unknown layer or expert.
    pub fn note(&mut self, layer: usize, ids: &[u32], weights: &[f32]) -> Result<(), ExpertError> {
        let pass = self.victims.pass();
        let largest = ids.iter().copied().max().unwrap_or(0);
        let first = self.index.key(layer, largest)? - largest;
        // What a prompt uses says little of what answers use, and would outnumber it.
        if pass == Pass::Sparse {
            for &expert in ids {
                self.usage.uses[(first + expert) as usize] += 1.0;
            }
        }
        if let Some(trace) = &mut self.usage.trace
            && let Err(error) = trace.record(pass, layer, ids, weights)
        {
            self.usage.trace = None;
            return Err(error);
        }
        Ok(())
    }

    /// Uses noted since the start, by key (experts numbered through all layers in order), but for
    /// those of scans.
    pub fn uses(&self) -> &[f32] {
        &self.usage.uses
    }

    /// How often each expert was used by earlier processes, by key: for the policy.
    pub fn seed(&mut self, uses: &[f32]) {
        self.victims.seed(uses);
    }

    /// Reads experts, given by key, into slots that hold nothing, as far as there are any. Nothing
    /// has to make room, and the statistics but for bytes and reads do not show it. Returns
    /// whether there are empty slots left.
    ///
    /// # Errors
    /// As [`Lease::next`](crate::Lease::next).
    pub fn fill(&mut self, keys: &[u32]) -> Result<bool, ExpertError> {
        self.begin_pass(Pass::Sparse);
        let before = self.counters;
        let index = std::sync::Arc::clone(&self.index);
        let layer = |key: &u32| index.entries[*key as usize].layer;
        let known: Vec<u32> = keys
            .iter()
            .copied()
            .filter(|&key| self.slot_of.get(key as usize) == Some(&NO_SLOT))
            .collect();
        for keys in known.chunk_by(|a, b| layer(a) == layer(b)) {
            let keys = &keys[..keys.len().min(self.free.len())];
            let Some(first) = keys.first() else {
                break;
            };
            let experts = keys.iter().map(|&key| index.entries[key as usize].expert);
            let mut lease = self.lease(layer(first), &experts.collect::<Vec<_>>())?;
            while lease.next()?.is_some() {}
        }
        self.counters.leases = before.leases;
        self.counters.misses = before.misses;
        self.counters.wait_us_total = before.wait_us_total;
        Ok(!self.free.is_empty())
    }
}
