//! Reading ranges of files into memory: one trait, one file for each way to do it.
//!
//! A reader knows files and offsets; it does not know experts, slots or who waits.

mod buffered;
mod direct;
mod faulty;
mod memory;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

pub use buffered::BufferedReader;
pub use direct::{DirectReader, FILE_ALIGN};
pub use faulty::{FaultPlan, FaultyReader};
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ReaderKind {
    /// `auto`: direct where every file allows it, else buffered.
    #[default]
    Auto,
    /// `direct`: around the page cache.
    Direct,
    /// `buffered`: through the page cache.
    Buffered,
}

impl fmt::Display for ReaderKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ReaderKind::Auto => "auto",
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
            "direct" => Ok(ReaderKind::Direct),
            "buffered" => Ok(ReaderKind::Buffered),
            _ => Err(ExpertError::UnknownName {
                what: "reader",
                given: name.into(),
                known: "auto, direct, buffered",
            }),
        }
    }
}

impl ReaderKind {
    /// Opens the files with this reader.
    ///
    /// # Errors
    /// [`ExpertError::Open`] where a file is missing or may not be read;
    /// [`ExpertError::DirectUnsupported`] where `direct` was asked for and is not to be had.
    pub fn open(self, files: &[PathBuf]) -> Result<Arc<dyn Reader>, ExpertError> {
        match self {
            ReaderKind::Direct => Ok(Arc::new(DirectReader::open(files)?)),
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

/// One positioned read; may be short, and is 0 only at the end of the file.
fn read_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    loop {
        #[cfg(unix)]
        let result = std::os::unix::fs::FileExt::read_at(file, out, offset);
        #[cfg(windows)]
        let result = std::os::windows::fs::FileExt::seek_read(file, out, offset);
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Windows reports a read at the end as an error.
            #[cfg(windows)]
            Err(error) if error.raw_os_error() == Some(38) => return Ok(0),
            result => return result,
        }
    }
}

fn end_of_file() -> io::Error {
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
