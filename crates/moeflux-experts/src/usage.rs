//! What is noted of the experts' use beside reading them: how often each is used, and a trace.

use std::path::Path;

use crate::error::ExpertError;
use crate::residency::Residency;
use crate::trace::{TraceHeader, TraceWriter};

/// The notes of one residency.
pub(crate) struct Usage {
    trace: Option<TraceWriter>,
    /// Uses by tokens, by key.
    counts: Vec<f32>,
}

impl Usage {
    pub fn new(keys: usize) -> Usage {
        Usage {
            trace: None,
            counts: vec![0.0; keys],
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
    /// be called once for each layer of a step, in order, before its lease.
    ///
    /// # Errors
    /// [`ExpertError::TraceFile`] if a trace is wanted and cannot be written; it ends there, and
    /// later steps go on without. An unknown layer or expert.
    pub fn note(&mut self, layer: usize, ids: &[u32], weights: &[f32]) -> Result<(), ExpertError> {
        for &expert in ids {
            let key = self.index.key(layer, expert)?;
            self.usage.counts[key as usize] += 1.0;
        }
        let pass = self.victims.pass();
        if let Some(trace) = &mut self.usage.trace {
            if let Err(error) = trace.record(pass, layer, ids, weights) {
                self.usage.trace = None;
                return Err(error);
            }
        }
        Ok(())
    }
}
