//! Reading ranges of files into memory: one trait, one file for each way to do it.
//!
//! A reader knows files and offsets; it does not know experts, slots or who waits.

mod blocks;
mod buffered;
mod direct;
mod faulty;
mod memory;
mod open;
mod positioned;
#[cfg(target_os = "linux")]
pub(crate) mod ring;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use blocks::FILE_ALIGN;
pub(crate) use blocks::MAX_PIECE_BYTES;
#[cfg(target_os = "linux")]
pub(crate) use blocks::{Blocks, new_bounce};
pub use buffered::BufferedReader;
pub use direct::DirectReader;
#[cfg(target_os = "linux")]
pub(crate) use faulty::Fate;
pub(crate) use faulty::Faults;
pub use faulty::{FaultPlan, FaultTally, FaultyReader};
pub use memory::MemoryReader;

use crate::error::ExpertError;

/// Reads whole ranges. Called by several threads at once; a call may block.
pub trait Reader: Send + Sync {
    /// Fills `out` with the bytes of file number `file` (in the catalog's order) from `offset` on.
    ///
    /// # Errors
    /// Whatever the system says; [`io::ErrorKind::UnexpectedEof`] where the file ends before. What
    /// `out` holds then is unspecified.
    fn read(&self, file: u32, offset: u64, out: &mut [u8]) -> io::Result<()>;

    /// The name shown to the user.
    fn name(&self) -> String;

    /// Whether reads go around the page cache.
    fn is_direct(&self) -> bool;
}

/// The readers by name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ReaderKind {
    /// `auto`: what the disk's profile found best; without one, io_uring where the system has it,
    /// else direct reads, else buffered ones. Files that fit the page cache many times over (below
    /// [`SMALL_FILES_BYTES`]) are read through it.
    #[default]
    Auto,
    /// `uring`: around the page cache, many requests from one thread; `direct` where the system
    /// refuses it.
    Uring,
    /// `direct`: around the page cache, one request a thread.
    Direct,
    /// `buffered`: through the page cache.
    Buffered,
}

/// Files of fewer bytes in all are read through the page cache, and need no profile of the disk.
pub const SMALL_FILES_BYTES: u64 = 64 << 20;

impl fmt::Display for ReaderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ReaderKind::Auto => "auto",
            ReaderKind::Uring => "uring",
            ReaderKind::Direct => "direct",
            ReaderKind::Buffered => "buffered",
        })
    }
}

impl FromStr for ReaderKind {
    type Err = ExpertError;

    fn from_str(name: &str) -> Result<ReaderKind, ExpertError> {
        match name {
            "auto" => Ok(ReaderKind::Auto),
            "uring" => Ok(ReaderKind::Uring),
            "direct" => Ok(ReaderKind::Direct),
            "buffered" => Ok(ReaderKind::Buffered),
            _ => Err(ExpertError::UnknownName {
                what: "reader",
                given: name.into(),
                known: "auto, uring, direct, buffered",
            }),
        }
    }
}

impl ReaderKind {
    /// Opens the files for reads that block: `uring` gives what it falls back to.
    ///
    /// # Errors
    /// [`ExpertError::Open`] where a file is missing or may not be read,
    /// [`ExpertError::TooManyFiles`] where the system lets this process open no more,
    /// [`ExpertError::DirectUnsupported`] where reads around the page cache were asked for and are
    /// not to be had.
    pub fn open(self, files: &[PathBuf]) -> Result<Arc<dyn Reader>, ExpertError> {
        match self {
            ReaderKind::Uring | ReaderKind::Direct => Ok(Arc::new(DirectReader::open(files)?)),
            ReaderKind::Buffered => Ok(Arc::new(BufferedReader::open(files)?)),
            ReaderKind::Auto => match DirectReader::open(files) {
                Ok(reader) => Ok(Arc::new(reader)),
                Err(ExpertError::DirectUnsupported { .. }) => ReaderKind::Buffered.open(files),
                Err(error) => Err(error),
            },
        }
    }
}

/// A reader by name, or one of the caller's own.
#[derive(Clone)]
pub enum ReaderChoice {
    /// One of ours; opening checks that every file is there and long enough.
    Kind(ReaderKind),
    /// One of ours that goes wrong as planned.
    Faulty(ReaderKind, FaultPlan),
    /// Any other; the catalog's paths are then used in messages only.
    Custom(Arc<dyn Reader>),
}

impl Default for ReaderChoice {
    fn default() -> ReaderChoice {
        ReaderChoice::Kind(ReaderKind::Auto)
    }
}

impl From<ReaderKind> for ReaderChoice {
    fn from(kind: ReaderKind) -> ReaderChoice {
        ReaderChoice::Kind(kind)
    }
}

impl fmt::Debug for ReaderChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReaderChoice::Kind(kind) => write!(f, "Kind({kind:?})"),
            ReaderChoice::Faulty(kind, plan) => write!(f, "Faulty({kind:?}, {plan:?})"),
            ReaderChoice::Custom(reader) => write!(f, "Custom({})", reader.name()),
        }
    }
}

/// Checks that no file is shorter than `ends` says.
pub(crate) fn check_lengths(files: &[PathBuf], ends: &[u64]) -> Result<(), ExpertError> {
    for (file, &needed) in files.iter().zip(ends) {
        let found = match std::fs::metadata(file) {
            Ok(metadata) => metadata.len(),
            Err(source) => {
                return Err(ExpertError::Open {
                    file: file.clone(),
                    source,
                });
            }
        };
        if found < needed {
            return Err(ExpertError::Truncated {
                file: file.clone(),
                needed,
                found,
            });
        }
    }
    Ok(())
}

pub(crate) fn end_of_file() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "the file ends before the record does",
    )
}

fn unknown_file(file: u32) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("there is no file number {file}"),
    )
}
