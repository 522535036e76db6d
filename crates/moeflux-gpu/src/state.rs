//! Sessions' state on the device.

use std::any::Any;
use std::sync::Arc;

use moeflux::graph::StateDecl;
use moeflux::{Error, KvType, RemoteState, RemoteStates};

use crate::adapter::AdapterLine;
use crate::kv_layout::KvShape;
use crate::{CpuExperts, DeviceBuffer, Gpu, GpuError, View};

/// Makes sessions' state on a device, whose experts may be computed on both.
#[derive(Clone)]
pub struct DeviceStates(pub Arc<Gpu>, pub CpuExperts);

impl std::fmt::Debug for DeviceStates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DeviceStates({})", self.0.line().name)
    }
}

impl RemoteStates for DeviceStates {
    fn device(&self) -> String {
        let AdapterLine {
            name, api, driver, ..
        } = self.0.line();
        let (unit, experts) = (self.0.matrix_unit(), self.1);
        format!("{name}, {api}, {driver}, {unit:?}, {experts:?}")
    }

    fn make(&self, decl: &StateDecl, kv_type: KvType) -> Box<dyn RemoteState> {
        match *decl {
            StateDecl::KeyValue {
                kv_heads, head_dim, ..
            } => Box::new(DeviceKv {
                gpu: self.clone(),
                decl: *decl,
                shape: KvShape {
                    kv_type,
                    kv_heads,
                    head_dim,
                },
                capacity: 0,
                parts: None,
                mark: 0,
            }),
            StateDecl::Recurrent { len } => Box::new(DeviceRecurrent {
                gpu: self.clone(),
                len,
                copies: None,
                ahead: None,
                is_written: false,
                is_ahead: false,
                mark: 0,
            }),
        }
    }
}

/// Keys and values of one layer; how they lie says [`crate::kv_layout`]. Those that a window has
/// passed stay where they are.
#[derive(Debug)]
pub struct DeviceKv {
    gpu: DeviceStates,
    decl: StateDecl,
    shape: KvShape,
    /// Positions, or entries of as many together, that there is room for.
    capacity: usize,
    parts: Option<(DeviceBuffer, DeviceBuffer)>,
    mark: u64,
}

impl DeviceKv {
    /// Elements of keys (or values) that no token behind `positions` sees.
    fn passed(&self, positions: usize) -> usize {
        self.decl.first_needed(positions).min(positions) * self.shape.width()
    }

    /// Whether keys are the values too; they are kept as both.
    pub fn is_joint(&self) -> bool {
        matches!(self.decl, StateDecl::KeyValue { is_joint: true, .. })
    }

    /// Their shape.
    pub fn shape(&self) -> KvShape {
        self.shape
    }

    /// Keys and values, with room for this many positions (or entries, where several have one).
    ///
    /// # Errors
    /// [`GpuError::Refused`] if there is less.
    pub fn views(
        &self,
        op: &'static str,
        positions: usize,
    ) -> Result<(View<'_>, View<'_>), GpuError> {
        match &self.parts {
            Some((keys, values)) if positions <= self.capacity => Ok((keys.into(), values.into())),
            _ => Err(GpuError::Refused {
                problem: format!("{op}: no room for {positions} positions"),
            }),
        }
    }
}

impl RemoteState for DeviceKv {
    fn reserve(&mut self, end: usize) -> Result<(), Error> {
        /// The first room, and the most that is added at once.
        const STEPS: (usize, usize) = (256, 16_384);
        // Windows under way have no entry yet, but something is bound for them.
        let end = self.decl.kept(end).max(1);
        if end <= self.capacity {
            return Ok(());
        }
        let more = self.capacity.clamp(STEPS.0, STEPS.1);
        let capacity = end.max(self.capacity + more).next_multiple_of(STEPS.0);
        let gpu = &self.gpu.0;
        let make = || gpu.buffer("keys and values", self.shape.bytes(capacity));
        let (keys, values) = (make()?, make()?);
        if let Some((old_keys, old_values)) = &self.parts {
            gpu.copy(old_keys, &keys, self.shape.bytes(self.capacity));
            gpu.copy(old_values, &values, self.shape.bytes(self.capacity));
        }
        (self.parts, self.capacity) = (Some((keys, values)), capacity);
        Ok(())
    }

    fn commit(&mut self) {}

    fn undo(&mut self) {
        self.mark = 0;
    }

    fn values(&self, positions: usize) -> Result<Vec<f32>, Error> {
        let mut out = Vec::new();
        let passed = self.passed(positions);
        let kept = self.decl.kept(positions);
        if let Some((keys, values)) = self.parts.as_ref().filter(|_| kept > 0) {
            let bytes = self.shape.bytes(kept.min(self.capacity));
            for (part, are_keys) in [(keys, true), (values, false)] {
                let bytes = self.gpu.0.read(part, 0, bytes)?;
                let all = self.shape.decode(&bytes, kept, are_keys);
                out.extend(all.into_iter().skip(passed));
            }
        }
        out.resize(2 * (kept * self.shape.width() - passed), 0.0);
        Ok(out)
    }

    fn set(&mut self, positions: usize, values: Option<&[f32]>) -> Result<(), Error> {
        self.mark = 0;
        self.reserve(positions)?;
        let (Some(new), Some((keys, values))) = (values, &self.parts) else {
            return Ok(());
        };
        let passed = self.passed(positions);
        let len = self.decl.kept(positions) * self.shape.width() - passed;
        check_length(2 * len, new)?;
        if len == 0 {
            return Ok(());
        }
        let whole = |seen: &[f32]| [&vec![0.0; passed], seen].concat();
        let gpu = &self.gpu.0;
        gpu.write(keys, 0, &self.shape.encode(&whole(&new[..len]), true));
        gpu.write(values, 0, &self.shape.encode(&whole(&new[len..]), false));
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
    copies: Option<(Arc<DeviceBuffer>, Arc<DeviceBuffer>)>,
    /// Where a step writes that follows one that has not been committed.
    ahead: Option<Arc<DeviceBuffer>>,
    is_written: bool,
    /// Whether the step that is being recorded follows one that has not been committed yet.
    is_ahead: bool,
    mark: u64,
}

/// A state, as one of all that steps of an answer go on from.
pub(crate) trait Marked {
    /// Which step wrote it last, as far as steps say; 0 when it has been set otherwise since.
    fn mark(&mut self) -> &mut u64;

    /// Whether there is room for a step behind the present one, up to `positions` positions.
    fn has_room(&mut self, positions: usize) -> bool;

    /// What is recorded from now on is of the step behind the one that was recorded last and has not
    /// been committed; or no longer.
    fn go_ahead(&mut self, is_ahead: bool);

    /// What was recorded ahead is what this step writes.
    fn take_over(&mut self);
}

impl Marked for DeviceKv {
    fn mark(&mut self) -> &mut u64 {
        &mut self.mark
    }

    fn has_room(&mut self, positions: usize) -> bool {
        self.decl.kept(positions).max(1) <= self.capacity
    }

    fn go_ahead(&mut self, _: bool) {}

    fn take_over(&mut self) {}
}

impl Marked for DeviceRecurrent {
    fn mark(&mut self) -> &mut u64 {
        &mut self.mark
    }

    fn has_room(&mut self, _: usize) -> bool {
        if self.ahead.is_none() {
            let made = self.gpu.0.buffer("recurrent state", self.len as u64 * 4);
            self.ahead = made.ok().map(Arc::new);
        }
        self.ahead.is_some()
    }

    fn go_ahead(&mut self, is_ahead: bool) {
        self.is_ahead = is_ahead;
    }

    fn take_over(&mut self) {
        if let (Some((_, next)), Some(ahead)) = (&mut self.copies, &mut self.ahead) {
            std::mem::swap(next, ahead);
        }
        self.is_written = true;
    }
}

impl DeviceRecurrent {
    /// The state before the step, and where the step writes the one after it.
    ///
    /// # Errors
    /// No memory.
    pub fn step(&mut self) -> Result<(Arc<DeviceBuffer>, Arc<DeviceBuffer>), GpuError> {
        if self.is_ahead {
            let none = || GpuError::Refused {
                problem: "a state has no memory for a step ahead".to_owned(),
            };
            let ahead = self.ahead.clone().ok_or_else(none)?;
            let (_, next) = self.copies()?;
            return Ok((Arc::clone(next), ahead));
        }
        self.is_written = true;
        self.copies().cloned()
    }

    fn copies(&mut self) -> Result<&(Arc<DeviceBuffer>, Arc<DeviceBuffer>), GpuError> {
        if self.copies.is_none() {
            let gpu = &self.gpu.0;
            let make = || {
                gpu.buffer("recurrent state", self.len as u64 * 4)
                    .map(Arc::new)
            };
            self.copies = Some((make()?, make()?));
        }
        let none = || GpuError::Refused {
            problem: "a state has no memory".to_owned(),
        };
        self.copies.as_ref().ok_or_else(none)
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
        // Whatever became of the step before.
        (self.is_written, self.is_ahead) = (false, false);
        self.copies()?;
        Ok(())
    }

    fn commit(&mut self) {
        if self.is_written {
            self.swap();
        }
    }

    fn undo(&mut self) {
        self.mark = 0;
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
        (self.is_written, self.mark) = (false, 0);
        let Some(values) = values else {
            (self.copies, self.ahead) = (None, None);
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
