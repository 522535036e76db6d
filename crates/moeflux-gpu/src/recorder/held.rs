//! Commands that are recorded before it is known what the device has to do before them: they are
//! ready when that is known, so the device waits for what comes between alone.

use super::Recorder;
use crate::GpuError;
use crate::submitter::Job;

impl Recorder {
    /// From now on commands wait, until [`Recorder::go`].
    pub(crate) fn hold(&mut self) {
        self.send();
        (self.is_held, self.has_slipped) = (true, false);
    }

    /// Puts what waits aside; what is recorded from now on comes before it.
    ///
    /// # Errors
    /// [`GpuError::Refused`] where something of it could not wait.
    pub(crate) fn put_aside(&mut self) -> Result<(), GpuError> {
        self.pass = None;
        (self.is_held, self.work, self.waiting) = (false, 0, 0);
        if std::mem::take(&mut self.has_slipped) {
            self.encoder = None;
            let problem = "commands that were to wait have begun".to_owned();
            return Err(GpuError::Refused { problem });
        }
        if let Some(encoder) = self.encoder.take() {
            match &mut self.submitter {
                Some(submitter) => submitter.send(Job::Prepare(encoder)),
                None => self.prepared = Some(encoder.finish()),
            }
        }
        Ok(())
    }

    /// Has the device begin with what was recorded last, and then with what was put aside.
    pub(crate) fn go(&mut self) {
        self.send();
        match &mut self.submitter {
            Some(submitter) => submitter.send(Job::Go),
            None => {
                self.gpu.queue.submit(self.prepared.take());
            }
        }
    }

    /// Forgets what waits, and what was put aside.
    pub(crate) fn forget_held(&mut self) {
        if std::mem::take(&mut self.is_held) {
            (self.pass, self.encoder) = (None, None);
        }
        self.prepared = None;
        if let Some(submitter) = &mut self.submitter {
            submitter.send(Job::Forget);
        }
    }
}
