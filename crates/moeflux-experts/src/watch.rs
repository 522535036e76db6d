//! Whether the files are still those that were opened.
//!
//! Another file in the place of one, a cut or a write are found by what the system says about the
//! path. A file that was deleted is whole as long as it is open, so that is no change.

use std::fs::Metadata;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::error::ExpertError;

/// How often [`Watch::check_now_and_then`] looks.
const EVERY: Duration = Duration::from_secs(1);

/// What tells a file from another, and from itself at another time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    /// Device and inode, where there are such.
    inode: (u64, u64),
    bytes: u64,
    written: Option<SystemTime>,
}

impl Identity {
    fn of(metadata: &Metadata) -> Identity {
        #[cfg(unix)]
        let inode = {
            use std::os::unix::fs::MetadataExt;
            (metadata.dev(), metadata.ino())
        };
        #[cfg(not(unix))]
        let inode = (0, 0);
        Identity {
            inode,
            bytes: metadata.len(),
            written: metadata.modified().ok(),
        }
    }
}

/// The files as they were.
pub(crate) struct Watch {
    files: Vec<(PathBuf, Identity)>,
    /// When to look next; `None`: at once, as something had changed.
    next: Mutex<Option<Instant>>,
}

impl Watch {
    /// Takes down what the files are now, before they are opened.
    pub fn new(files: &[PathBuf]) -> Result<Watch, ExpertError> {
        let identify = |path: &PathBuf| match std::fs::metadata(path) {
            Ok(metadata) => Ok((path.clone(), Identity::of(&metadata))),
            Err(source) => Err(ExpertError::Open {
                file: path.clone(),
                source,
            }),
        };
        Ok(Watch {
            files: files.iter().map(identify).collect::<Result<_, _>>()?,
            next: Mutex::new(Some(Instant::now() + EVERY)),
        })
    }

    /// Looks at all files, if it is a second since that was done last.
    ///
    /// # Errors
    /// [`ExpertError::Changed`] with the first that changed, until it is as it was.
    pub fn check_now_and_then(&self) -> Result<(), ExpertError> {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if next.is_some_and(|next| now < next) {
            return Ok(());
        }
        *next = None;
        (0..self.files.len()).try_for_each(|file| self.check(file as u32))?;
        *next = Some(now + EVERY);
        Ok(())
    }

    /// Looks at one file.
    ///
    /// # Errors
    /// [`ExpertError::Changed`] if it changed.
    pub fn check(&self, file: u32) -> Result<(), ExpertError> {
        let Some((path, before)) = self.files.get(file as usize) else {
            return Ok(());
        };
        let Ok(metadata) = std::fs::metadata(path) else {
            return Ok(());
        };
        let now = Identity::of(&metadata);
        let what = if now.inode != before.inode {
            "another file has its name"
        } else if now.bytes != before.bytes {
            "its length is another"
        } else if now.written != before.written {
            "it was written to"
        } else {
            return Ok(());
        };
        Err(ExpertError::Changed {
            file: path.clone(),
            what,
        })
    }
}
