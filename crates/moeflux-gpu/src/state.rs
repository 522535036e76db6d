//! Sessions' state on the device.

use std::any::Any;
use std::sync::Arc;

use half::f16;
use moeflux::graph::StateDecl;
use moeflux::{Error, KvType, RemoteState, RemoteStates};

use crate::{DeviceBuffer, Gpu, GpuError};

/// Makes sessions' state on a device.
#[derive(Clone)]
pub struct DeviceStates(pub Arc<Gpu>);

impl std::fmt::Debug for DeviceStates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceStates({})", self.0.line().name)
    }
}

impl RemoteStates for DeviceStates {
    fn make(&self, decl: &StateDecl, kv_type: KvType) -> Box<dyn RemoteState> {
        match *decl {
            StateDecl::KeyValue { kv_heads, head_dim } => Box::new(DeviceKv {
                gpu: self.clone(),
                kv_type,
                width: kv_heads * head_dim,
                capacity: 0,
                parts: None,
            }),
            StateDecl::Recurrent { len } => Box::new(DeviceRecurrent {
                gpu: self.clone(),
                len,
                copies: None,
                is_written: false,
            }),
        }
    }
}

/// Keys and values of one layer, `[positions, kv_heads, head_dim]` each. Of f16 the first of two
/// elements lies in the lower half of a word.
#[derive(Debug)]
pub struct DeviceKv {
    gpu: DeviceStates,
    kv_type: KvType,
    width: usize,
    /// Positions that there is room for.
    capacity: usize,
    parts: Option<(DeviceBuffer, DeviceBuffer)>,
}

impl DeviceKv {
    /// What an element is.
    pub fn kv_type(&self) -> KvType {
        self.kv_type
    }

    /// Keys and values; `None` before there is room for any.
    pub fn parts(&self) -> Option<(&DeviceBuffer, &DeviceBuffer)> {
        self.parts.as_ref().map(|(k, v)| (k, v))
    }

    /// Bytes of the keys (or values) of this many positions, in whole words.
    fn bytes(&self, positions: usize) -> u64 {
        (positions * self.width * self.kv_type.bytes()).next_multiple_of(4) as u64
    }

    fn decode(&self, bytes: &[u8], out: &mut Vec<f32>, len: usize) {
        match self.kv_type {
            KvType::F32 => {
                let words = bytes.as_chunks::<4>().0.iter().take(len);
                out.extend(words.map(|b| f32::from_le_bytes(*b)));
            }
            KvType::F16 => {
                let halves = bytes.as_chunks::<2>().0.iter().take(len);
                out.extend(halves.map(|b| f16::from_le_bytes(*b).to_f32()));
            }
        }
    }

    fn encode(&self, values: &[f32]) -> Vec<u8> {
        let half = |v: &f32| f16::from_f32(*v).to_le_bytes();
        match self.kv_type {
            KvType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            KvType::F16 => values.iter().flat_map(half).collect(),
        }
    }
}

impl RemoteState for DeviceKv {
    fn reserve(&mut self, end: usize) -> Result<(), Error> {
        /// The first room, and the most that is added at once.
        const STEPS: (usize, usize) = (256, 16_384);
        if end <= self.capacity {
            return Ok(());
        }
        let more = self.capacity.clamp(STEPS.0, STEPS.1);
        let capacity = end.max(self.capacity + more).next_multiple_of(STEPS.0);
        let gpu = &self.gpu.0;
        let make = || gpu.buffer("keys and values", self.bytes(capacity));
        let (keys, values) = (make()?, make()?);
        if let Some((old_keys, old_values)) = &self.parts {
            gpu.copy(old_keys, &keys, self.bytes(self.capacity));
            gpu.copy(old_values, &values, self.bytes(self.capacity));
        }
        (self.parts, self.capacity) = (Some((keys, values)), capacity);
        Ok(())
    }

    fn commit(&mut self) {}

    fn undo(&mut self) {}

    fn values(&self, positions: usize) -> Result<Vec<f32>, Error> {
        let len = positions * self.width;
        let mut out = Vec::with_capacity(2 * len);
        if let Some((keys, values)) = &self.parts
            && positions > 0
        {
            let bytes = self.bytes(positions);
            for part in [keys, values] {
                self.decode(&self.gpu.0.read(part, 0, bytes)?, &mut out, len);
            }
        }
        out.resize(2 * len, 0.0);
        Ok(out)
    }

    fn set(&mut self, positions: usize, values: Option<&[f32]>) -> Result<(), Error> {
        self.reserve(positions)?;
        let (Some(new), Some((keys, values))) = (values, &self.parts) else {
            return Ok(());
        };
        check_length(2 * positions * self.width, new)?;
        let (new_keys, new_values) = new.split_at(positions * self.width);
        let gpu = &self.gpu.0;
        gpu.write(keys, 0, &self.encode(new_keys));
        gpu.write(values, 0, &self.encode(new_values));
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

/// A recurrent state: the current one, and room for the one that a step writes.
#[derive(Debug)]
pub struct DeviceRecurrent {
    gpu: DeviceStates,
    /// Elements, f32.
    len: usize,
    copies: Option<(DeviceBuffer, DeviceBuffer)>,
    is_written: bool,
}

impl DeviceRecurrent {
    /// The state before the step, and where the step writes the one after it.
    ///
    /// # Errors
    /// No memory.
    pub fn step(&mut self) -> Result<(&DeviceBuffer, &DeviceBuffer), GpuError> {
        self.is_written = true;
        let (current, next) = self.copies()?;
        Ok((&*current, &*next))
    }

    fn copies(&mut self) -> Result<&mut (DeviceBuffer, DeviceBuffer), GpuError> {
        if self.copies.is_none() {
            let make = || self.gpu.0.buffer("recurrent state", self.len as u64 * 4);
            self.copies = Some((make()?, make()?));
        }
        let none = || GpuError::Refused {
            problem: "a state has no memory".to_owned(),
        };
        self.copies.as_mut().ok_or_else(none)
    }

    fn swap(&mut self) {
        if let Some((current, next)) = &mut self.copies {
            std::mem::swap(current, next);
        }
        self.is_written = false;
    }
}

impl RemoteState for DeviceRecurrent {
    fn reserve(&mut self, _end: usize) -> Result<(), Error> {
        self.is_written = false;
        self.copies()?;
        Ok(())
    }

    fn commit(&mut self) {
        if self.is_written {
            self.swap();
        }
    }

    fn undo(&mut self) {
        self.swap();
    }

    fn values(&self, _positions: usize) -> Result<Vec<f32>, Error> {
        let Some((current, _)) = &self.copies else {
            return Ok(vec![0.0; self.len]);
        };
        let bytes = self.gpu.0.read(current, 0, self.len as u64 * 4)?;
        Ok(bytemuck::pod_collect_to_vec(&bytes))
    }

    fn set(&mut self, _positions: usize, values: Option<&[f32]>) -> Result<(), Error> {
        self.is_written = false;
        let Some(values) = values else {
            self.copies = None;
            return Ok(());
        };
        check_length(self.len, values)?;
        self.copies()?;
        if let Some((current, _)) = &self.copies {
            self.gpu.0.write(current, 0, bytemuck::cast_slice(values));
        }
        Ok(())
    }

    fn as_any(&mut self) -> &mut dyn Any {
        self
    }
}

fn check_length(expected: usize, values: &[f32]) -> Result<(), Error> {
    if values.len() == expected {
        return Ok(());
    }
    let given = values.len();
    Err(Error::Internal(format!(
        "a state takes {expected} elements, not {given}"
    )))
}
