//! Writes a trace, a step at a time, each by one call to the system.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::{MAGIC, TraceHeader, VERSION};
use crate::error::ExpertError;
use crate::policy::Pass;

/// A trace being written.
#[derive(Debug)]
pub struct TraceWriter {
    file: File,
    path: PathBuf,
    id_bytes: usize,
    top_k: usize,
    /// Place of each layer with experts, by its number in the model.
    turns: std::collections::BTreeMap<usize, u32>,
    /// The frame of the step that is going on, from its length on; empty if none is.
    frame: Vec<u8>,
    tokens: usize,
    last_turn: u32,
}

impl TraceWriter {
    /// Creates the file, or replaces it, and writes the header.
    ///
    /// # Errors
    /// [`ExpertError::TraceFile`] if that fails, [`ExpertError::Trace`] if the header cannot be
    /// expressed.
    pub fn create(path: &Path, header: &TraceHeader) -> Result<TraceWriter, ExpertError> {
        if let Some(problem) = header.problem() {
            return Err(ExpertError::Trace {
                file: path.into(),
                problem,
            });
        }
        let turn = |(turn, &(layer, _)): (usize, &(u32, u32))| (layer as usize, turn as u32);
        let file = File::create(path).map_err(|source| failed(path, "create", source))?;
        let mut writer = TraceWriter {
            file,
            path: path.into(),
            id_bytes: header.id_bytes(),
            top_k: header.top_k as usize,
            turns: header.layers.iter().enumerate().map(turn).collect(),
            frame: Vec::new(),
            tokens: 0,
            last_turn: 0,
        };
        let mut start = MAGIC.to_vec();
        start.extend(VERSION.to_le_bytes());
        writer.write(&start)?;
        writer.begin_frame();
        let frame = &mut writer.frame;
        frame.extend(header.identity.to_le_bytes());
        frame.extend(header.slot_bytes.to_le_bytes());
        frame.extend(header.top_k.to_le_bytes());
        frame.extend((header.layers.len() as u32).to_le_bytes());
        for (layer, experts) in &header.layers {
            frame.extend(layer.to_le_bytes());
            frame.extend(experts.to_le_bytes());
        }
        frame.extend(header.model.as_bytes());
        writer.end_frame()?;
        Ok(writer)
    }

    /// Takes down what a layer's router chose: `ids` and `weights` are `[tokens, top_k]`. A layer
    /// that does not come after the one before begins a step.
    ///
    /// # Errors
    /// [`ExpertError::TraceFile`] if a step cannot be written; [`ExpertError::UnknownLayer`].
    pub fn record(
        &mut self,
        pass: Pass,
        layer: usize,
        ids: &[u32],
        weights: &[f32],
    ) -> Result<(), ExpertError> {
        let turn = *self
            .turns
            .get(&layer)
            .ok_or(ExpertError::UnknownLayer { layer })?;
        let tokens = ids.len() / self.top_k;
        if !self.frame.is_empty() && (turn <= self.last_turn || tokens != self.tokens) {
            self.end_frame()?;
        }
        if self.frame.is_empty() {
            self.begin_frame();
            self.frame.push(match pass {
                Pass::Sparse => 0,
                Pass::Scan { again } => 1 + u8::from(again),
            });
            self.frame.extend((tokens as u32).to_le_bytes());
            self.tokens = tokens;
        }
        self.last_turn = turn;
        self.frame.extend(turn.to_le_bytes());
        let width = self.id_bytes;
        self.frame.extend(
            ids.iter()
                .flat_map(|id| id.to_le_bytes().into_iter().take(width)),
        );
        let weights = weights
            .iter()
            .flat_map(|&weight| to_bf16(weight).to_le_bytes());
        self.frame.extend(weights);
        if turn as usize + 1 == self.turns.len() {
            self.end_frame()?;
        }
        Ok(())
    }

    fn begin_frame(&mut self) {
        self.frame.clear();
        self.frame.extend([0; 4]);
    }

    fn end_frame(&mut self) -> Result<(), ExpertError> {
        let mut frame = std::mem::take(&mut self.frame);
        let payload = &frame[4..];
        let (len, check) = (payload.len() as u32, xxh3_64(payload) as u32);
        frame[..4].copy_from_slice(&len.to_le_bytes());
        frame.extend(check.to_le_bytes());
        let result = self.write(&frame);
        frame.clear();
        self.frame = frame;
        result
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), ExpertError> {
        let result = self.file.write_all(bytes);
        result.map_err(|source| failed(&self.path, "write", source))
    }
}

impl Drop for TraceWriter {
    fn drop(&mut self) {
        if !self.frame.is_empty() {
            // The step failed, and its error is what counts.
            let _ = self.end_frame();
        }
    }
}

fn failed(path: &Path, action: &'static str, source: io::Error) -> ExpertError {
    ExpertError::TraceFile {
        action,
        file: path.into(),
        source,
    }
}

/// Rounded to nearest, ties to even. Weights are finite.
fn to_bf16(value: f32) -> u16 {
    let bits = value.to_bits();
    (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}
