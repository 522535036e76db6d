//! What a driver reports when nobody asks.

use std::sync::{Arc, Mutex, PoisonError};

/// What the driver reported and nobody has heard of yet.
#[derive(Default)]
pub(crate) struct Faults {
    first: Mutex<Option<Fault>>,
}

/// A report.
pub(crate) enum Fault {
    /// There was no memory.
    Memory,
    /// The device is gone.
    Lost(String),
    /// A command was refused.
    Refused(String),
}

impl Faults {
    pub fn put(&self, fault: Fault) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        // A lost device is the reason of whatever else is reported.
        if first.is_none() || matches!(fault, Fault::Lost(_)) {
            *first = Some(fault);
        }
    }

    /// The report, if there is one; a lost device stays one.
    pub fn take(&self) -> Option<Fault> {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = first.take();
        if let Some(Fault::Lost(problem)) = &fault {
            *first = Some(Fault::Lost(problem.clone()));
        }
        fault
    }
}

/// Puts what the driver reports into `faults`.
pub(crate) fn listen(device: &wgpu::Device, faults: &Arc<Faults>) {
    let heard = Arc::clone(faults);
    device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
        heard.put(match error {
            wgpu::Error::OutOfMemory { .. } => Fault::Memory,
            other => Fault::Refused(other.to_string()),
        });
    }));
    let heard = Arc::clone(faults);
    device.set_device_lost_callback(move |reason, words| {
        if reason != wgpu::DeviceLostReason::Destroyed {
            heard.put(Fault::Lost(words));
        }
    });
}
