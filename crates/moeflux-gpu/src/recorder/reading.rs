//! Results on their way to the host.

use super::Recorder;
use crate::{GpuError, View};

/// Results on their way to the host.
pub(crate) struct Reading {
    staging: wgpu::Buffer,
    bytes: u64,
}

impl Reading {
    /// How many there are.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Recorder {
    /// Waits for what was recorded and gives the contents of the views, one after another.
    ///
    /// # Errors
    /// Whatever the device reported since the last read.
    pub fn read(&mut self, views: &[View<'_>]) -> Result<Vec<u8>, GpuError> {
        let mut out = vec![0; views.iter().map(|v| v.bytes as usize).sum()];
        self.read_into(views, &mut out)?;
        Ok(out)
    }

    /// The same into memory of their bytes.
    ///
    /// # Errors
    /// As [`Recorder::read`]; [`GpuError::Refused`] if `out` has another length.
    pub fn read_into(&mut self, views: &[View<'_>], out: &mut [u8]) -> Result<(), GpuError> {
        let reading = self.record_read(views)?;
        self.end_read(reading, out)
    }

    /// Records that views are read. What is recorded behind that need not be waited for.
    ///
    /// # Errors
    /// No memory to read to.
    pub(crate) fn record_read(&mut self, views: &[View<'_>]) -> Result<Reading, GpuError> {
        let bytes: u64 = views.iter().map(|v| v.bytes).sum();
        let found = self.staging.iter().position(|s| s.size() >= bytes);
        let staging = match found {
            Some(at) => self.staging.swap_remove(at),
            None => self.gpu.staging(bytes.next_power_of_two())?,
        };
        self.pass = None;
        let device = &self.gpu.device;
        let encoder = self
            .encoder
            .get_or_insert_with(|| device.create_command_encoder(&Default::default()));
        let mut at = 0;
        for view in views {
            let raw = &view.buffer.raw;
            encoder.copy_buffer_to_buffer(raw, view.offset, &staging, at, view.bytes);
            at += view.bytes;
        }
        Ok(Reading { staging, bytes })
    }

    /// The same, and has the device begin with what was recorded.
    ///
    /// # Errors
    /// As [`Recorder::record_read`].
    pub(crate) fn begin_read(&mut self, views: &[View<'_>]) -> Result<Reading, GpuError> {
        let reading = self.record_read(views)?;
        self.send();
        Ok(reading)
    }

    /// Waits for what was begun to be read, and puts it into `out`.
    ///
    /// # Errors
    /// As [`Recorder::read_into`].
    pub(crate) fn end_read(&mut self, reading: Reading, out: &mut [u8]) -> Result<(), GpuError> {
        /// Those that are kept for the next results.
        const KEPT: usize = 2;
        let Reading { staging, bytes } = reading;
        if out.len() as u64 != bytes {
            let problem = format!("{bytes} bytes are read into {}", out.len());
            return Err(GpuError::Refused { problem });
        }
        self.submit();
        if bytes > 0 {
            self.gpu.wait_for(&staging, out)?;
        }
        if self.staging.len() >= KEPT {
            self.staging.remove(0);
        }
        self.staging.push(staging);
        self.gpu.check()
    }
}
