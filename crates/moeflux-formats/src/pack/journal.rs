//! The list of finished files in an unfinished directory: one JSON object a line, the first naming
//! the plan. It also is the lock that keeps a second process out.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{FormatError, Result, io_error};
use crate::packed::FileEntry;

#[derive(Serialize, Deserialize)]
struct PlanLine {
    plan: String,
}

#[derive(Serialize, Deserialize)]
struct FileLine {
    name: String,
    #[serde(flatten)]
    entry: FileEntry,
}

/// An open, locked journal.
pub(super) struct Journal {
    path: PathBuf,
    file: File,
    finished: BTreeMap<String, FileEntry>,
}

impl Journal {
    /// Opens or creates the journal at `path` and locks it. Returns it with the plan that it was
    /// begun for, if any.
    pub(super) fn open(path: &Path, dir: &Path) -> Result<(Self, Option<String>)> {
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path);
        let mut file = file.map_err(|error| io_error("create", path, error))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => FormatError::PackInProgress {
                partial: dir.to_path_buf(),
            },
            TryLockError::Error(error) => io_error("lock", path, error),
        })?;
        let mut text = Vec::new();
        file.read_to_end(&mut text)
            .map_err(|error| io_error("read", path, error))?;
        let mut lines = text.split(|&byte| byte == b'\n');
        let plan = lines
            .next()
            .and_then(|line| serde_json::from_slice::<PlanLine>(line).ok());
        // A kill may leave half a line at the end: its file counts as unfinished.
        let files = lines.filter_map(|line| serde_json::from_slice::<FileLine>(line).ok());
        let finished = files.map(|line| (line.name, line.entry)).collect();
        let path = path.to_path_buf();
        Ok((
            Self {
                path,
                file,
                finished,
            },
            plan.map(|line| line.plan),
        ))
    }

    /// Forgets everything and begins for another plan.
    pub(super) fn begin(&mut self, plan: &str) -> Result<()> {
        self.finished.clear();
        self.file
            .set_len(0)
            .map_err(|error| io_error("write", &self.path, error))?;
        self.append(&PlanLine {
            plan: plan.to_owned(),
        })
    }

    /// What an earlier run finished of this file.
    pub(super) fn finished(&self, name: &str) -> Option<&FileEntry> {
        self.finished.get(name)
    }

    /// Records a finished, synced file.
    pub(super) fn record(&mut self, name: &str, entry: &FileEntry) -> Result<()> {
        self.append(&FileLine {
            name: name.to_owned(),
            entry: entry.clone(),
        })
    }

    fn append(&mut self, line: &impl Serialize) -> Result<()> {
        let malformed = |error: serde_json::Error| FormatError::Json {
            path: self.path.clone(),
            reason: error.to_string(),
        };
        // The line break before ends a line that a kill cut short; empty lines are skipped.
        let mut text = serde_json::to_vec(line).map_err(malformed)?;
        let appended = self.file.seek(SeekFrom::End(0)).and_then(|end| {
            if end > 0 {
                text.insert(0, b'\n');
            }
            self.file.write_all(&text)?;
            self.file.sync_all()
        });
        appended.map_err(|error| io_error("write", &self.path, error))
    }
}
