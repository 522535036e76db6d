//! What becomes of a record when all its pieces have ended: verified if that is due, prepared for
//! use, and reported, or read again.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::{Outcome, Shared};
use crate::catalog::{Entry, record_checksum};
use crate::error::ExpertError;

impl Shared {
    /// Ends a record whose pieces have all ended. Takes as long as hashing and preparing do.
    pub(super) fn finish_record(&self, slot: u32, key: u32) {
        let entry = &self.index.entries[key as usize];
        let outcome = match self.read_outcome(slot, key) {
            Outcome::Done => self.verify(slot, key),
            other => Some(other),
        };
        let Some(mut outcome) = outcome else {
            self.lock().read_again(slot, key);
            return self.wake_readers();
        };
        if let Outcome::Done = outcome
            && let Err(problem) = self.prepare(slot, entry)
        {
            let file = entry.segments[0].file;
            outcome = self.failed(entry, file, io::Error::other(problem));
        }
        self.lock().outcomes.push((slot, outcome));
        self.done.notify_one();
    }

    /// How reading it went.
    fn read_outcome(&self, slot: u32, key: u32) -> Outcome {
        let entry = &self.index.entries[key as usize];
        let (error, cancelled) = {
            let mut state = self.lock();
            let fill = state.fill(slot);
            (fill.error.take(), fill.cancelled)
        };
        match error {
            Some((file, source)) => self.failed(entry, file, source),
            None if cancelled => Outcome::Cancelled,
            None => Outcome::Done,
        }
    }

    /// Compares the checksum, if there is one to compare; `None`: the record is to be read again.
    fn verify(&self, slot: u32, key: u32) -> Option<Outcome> {
        let entry = &self.index.entries[key as usize];
        let Some(expected) = entry
            .checksum
            .filter(|_| !self.lock().verified[key as usize])
        else {
            return Some(Outcome::Done);
        };
        let found = self.checksum(slot, entry);
        let mut state = self.lock();
        if found == expected {
            state.verified[key as usize] = true;
            state.counters.verified += 1;
            return Some(Outcome::Done);
        }
        if !state.fill(slot).reread {
            state.counters.retries += 1;
            return None;
        }
        drop(state);
        let file = entry.segments[0].file;
        Some(Outcome::Failed(self.changed(file).unwrap_or_else(|| {
            ExpertError::Corrupt {
                file: self.index.files[file as usize].clone(),
                layer: entry.layer,
                expert: entry.expert,
                expected,
                found,
            }
        })))
    }

    fn checksum(&self, slot: u32, entry: &Entry) -> u64 {
        // SAFETY: all pieces have ended and the outcome is not reported yet, so this thread alone
        // has the slot.
        let bytes = unsafe { self.arena.bytes(slot, entry.bytes) };
        record_checksum(entry.segments.iter().map(|segment| {
            let start = segment.slot_offset as usize;
            &bytes[start..start + segment.bytes as usize]
        }))
    }

    fn prepare(&self, slot: u32, entry: &Entry) -> Result<(), String> {
        let Some(prepare) = &self.index.prepare else {
            return Ok(());
        };
        // SAFETY: all pieces have ended and the outcome is not reported yet, so this thread alone
        // has the slot.
        let bytes = unsafe { self.arena.bytes_mut(slot, 0, entry.bytes) };
        catch_unwind(AssertUnwindSafe(|| prepare.run(entry.layer, bytes)))
            .unwrap_or_else(|_| Err("preparing it for use panicked".to_owned()))
    }

    fn failed(&self, entry: &Entry, file: u32, source: io::Error) -> Outcome {
        Outcome::Failed(self.changed(file).unwrap_or_else(|| ExpertError::Read {
            file: self.index.files[file as usize].clone(),
            layer: entry.layer,
            expert: entry.expert,
            source,
        }))
    }

    /// The error of a file that is no longer what was opened, which explains all others.
    fn changed(&self, file: u32) -> Option<ExpertError> {
        self.watch.as_ref()?.check(file).err()
    }
}
