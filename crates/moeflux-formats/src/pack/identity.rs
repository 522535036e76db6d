//! What tells one pack from another: its source and its plan.

use std::io;
use std::time::UNIX_EPOCH;

use serde::Serialize;
use xxhash_rust::xxh3::Xxh3;

use super::plan::PackPlan;
use crate::Checkpoint;
use crate::checksum::checksum_text;
use crate::error::{FormatError, Result, io_error};
use crate::packed::{FORMAT_VERSION, MANIFEST_NAME, SourceFile};

/// What a model is packed from, by which it is known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SourceIdentity {
    /// The checkpoint's files.
    pub files: Vec<SourceFile>,
    /// What changes when their contents do.
    pub version: String,
}

impl SourceIdentity {
    /// Of files that are here: they count as the same while names, lengths and times of change are.
    ///
    /// # Errors
    /// A file that is gone.
    pub fn of(source: &Checkpoint) -> Result<Self> {
        let (mut files, mut version) = (Vec::new(), String::new());
        for path in source.files() {
            let metadata = std::fs::metadata(path);
            let metadata = metadata.map_err(|error| io_error("read", path, error))?;
            let time = metadata.modified().ok();
            let time = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let nanoseconds = time.map_or(0, |time| time.as_nanos());
            version.push_str(&format!("{nanoseconds} "));
            let name = path.file_name().unwrap_or(path.as_os_str());
            files.push(SourceFile {
                name: name.to_string_lossy().into_owned(),
                bytes: metadata.len(),
            });
        }
        Ok(Self { files, version })
    }
}

/// Identifies plan and source: a rerun with the same one may go on with what is there.
pub(super) fn fingerprint(identity: &SourceIdentity, plan: &PackPlan) -> Result<String> {
    let mut sink = HashSink(Xxh3::new());
    let writer = env!("CARGO_PKG_VERSION");
    let all = (FORMAT_VERSION, writer, identity, plan);
    serde_json::to_writer(&mut sink, &all).map_err(|error| FormatError::Json {
        path: MANIFEST_NAME.into(),
        reason: error.to_string(),
    })?;
    Ok(checksum_text(sink.0.digest()))
}

struct HashSink(Xxh3);

impl io::Write for HashSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
