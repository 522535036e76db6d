//! How a disk reads best: measured once, on the model's own files, and remembered.
//!
//! Which reader, how many requests in flight and how long each should be differ from disk to disk.
//! A profile is taken in about a second and kept in the user's cache directory under the disk's
//! identity; a cache that cannot be read or written only means that it is taken again.

mod cache;
mod choose;
mod device;
mod measure;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use cache::cache_directory;
use choose::{best_of, preferred};

use crate::error::ExpertError;
use crate::reader::{DirectReader, ReaderKind, SMALL_FILES_BYTES};

/// What was measured with one setting.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskPoint {
    /// [`ReaderKind::Uring`] or [`ReaderKind::Direct`].
    pub reader: ReaderKind,
    /// Requests in flight.
    pub depth: usize,
    /// Bytes of a request.
    pub piece_bytes: u64,
    /// Bytes read a second.
    pub bytes_per_second: f64,
    /// Mean time of a request, in microseconds.
    pub latency_us: f64,
}

/// How a disk reads best.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskProfile {
    /// The disk, as the system describes it.
    pub device: String,
    /// The reader to use.
    pub reader: ReaderKind,
    /// Requests in flight: the fewest that reach the highest rate, within 3 %.
    pub depth: usize,
    /// Bytes of a request.
    pub piece_bytes: u64,
    /// Bytes read a second with these settings.
    pub bytes_per_second: f64,
    /// Mean time of a request with these settings, in microseconds.
    pub latency_us: f64,
    /// Everything that was measured.
    pub points: Vec<DiskPoint>,
}

impl DiskProfile {
    /// The profile of the disk that holds most of the files' bytes: from the cache, else measured
    /// (about a second of reading around the page cache) and cached. `progress` is told how much
    /// of the measuring is done, 0 to 1. `None` where there is nothing to measure: files of less
    /// than [`SMALL_FILES_BYTES`] in all, or no direct reads.
    ///
    /// # Errors
    /// [`ExpertError::Open`] or [`ExpertError::TooManyFiles`] if a file cannot be opened.
    pub fn load_or_measure(
        files: &[PathBuf],
        progress: &mut dyn FnMut(f64),
    ) -> Result<Option<DiskProfile>, ExpertError> {
        let Some((device, files)) = device::main_device(files, SMALL_FILES_BYTES)? else {
            return Ok(None);
        };
        if let Some(profile) = cache::load(&device) {
            return Ok(Some(profile));
        }
        DiskProfile::take(device, &files, progress)
    }

    /// As [`DiskProfile::load_or_measure`], but measures whatever the cache has.
    ///
    /// # Errors
    /// As there.
    pub fn measure(
        files: &[PathBuf],
        progress: &mut dyn FnMut(f64),
    ) -> Result<Option<DiskProfile>, ExpertError> {
        match device::main_device(files, SMALL_FILES_BYTES)? {
            Some((device, files)) => DiskProfile::take(device, &files, progress),
            None => Ok(None),
        }
    }

    fn take(
        device: String,
        files: &[PathBuf],
        progress: &mut dyn FnMut(f64),
    ) -> Result<Option<DiskProfile>, ExpertError> {
        let reader = match DirectReader::open(files) {
            Ok(reader) => reader,
            Err(ExpertError::DirectUnsupported { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let points = measure::points(&reader, files, progress);
        let Some(profile) = DiskProfile::of_points(device, points) else {
            return Ok(None);
        };
        cache::store(&profile);
        Ok(Some(profile))
    }

    /// The profile that measurements amount to; `None` without any.
    fn of_points(device: String, points: Vec<DiskPoint>) -> Option<DiskProfile> {
        let best = preferred(&points)?;
        Some(DiskProfile {
            device,
            reader: best.reader,
            depth: best.depth,
            piece_bytes: best.piece_bytes,
            bytes_per_second: best.bytes_per_second,
            latency_us: best.latency_us,
            points,
        })
    }

    /// The best settings of one reader; those of the profile for [`ReaderKind::Auto`], none for
    /// readers that were not measured.
    pub fn best_of(&self, reader: ReaderKind) -> Option<DiskPoint> {
        if reader != ReaderKind::Auto && reader != self.reader {
            return best_of(&self.points, reader);
        }
        Some(DiskPoint {
            reader: self.reader,
            depth: self.depth,
            piece_bytes: self.piece_bytes,
            bytes_per_second: self.bytes_per_second,
            latency_us: self.latency_us,
        })
    }

    /// What the disk can give: the highest rate of all that was measured, in bytes a second.
    pub fn limit_bytes_per_second(&self) -> f64 {
        let rates = self.points.iter().map(|point| point.bytes_per_second);
        rates.fold(self.bytes_per_second, f64::max)
    }
}
