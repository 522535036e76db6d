//! A stream of a header's numbers and strings that never reads, or allocates, beyond its end.

use std::io::{self, BufReader, Read};
use std::path::Path;

use super::problem::{GgufProblem, Place};
use crate::error::{FormatError, Result, io_error};

/// Bytes asked of the source at a time.
const BUFFER_BYTES: usize = 1 << 16;

/// Reads from the start of a file of `file_bytes`, at most `limit` of them.
pub(super) struct Reader<'a, R> {
    source: BufReader<R>,
    path: &'a Path,
    file_bytes: u64,
    limit: u64,
    position: u64,
    /// What is being read, for messages.
    pub(super) place: Place,
}

impl<'a, R: Read> Reader<'a, R> {
    pub(super) fn new(source: R, path: &'a Path, file_bytes: u64, limit: u64) -> Self {
        Self {
            source: BufReader::with_capacity(BUFFER_BYTES, source),
            path,
            file_bytes,
            limit,
            position: 0,
            place: Place::Start,
        }
    }

    /// Bytes read.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes that may still be read.
    fn left(&self) -> u64 {
        self.file_bytes.min(self.limit) - self.position
    }

    /// An error about this file.
    pub(super) fn wrong(&self, problem: GgufProblem) -> FormatError {
        FormatError::Gguf {
            path: self.path.to_path_buf(),
            problem,
        }
    }

    /// That `bytes` more can be read.
    pub(super) fn check_left(&self, bytes: u64) -> Result<()> {
        if bytes <= self.left() {
            return Ok(());
        }
        let (place, needed) = (self.place.clone(), self.position.saturating_add(bytes));
        Err(self.wrong(if needed > self.file_bytes {
            let found = self.file_bytes;
            GgufProblem::Truncated {
                place,
                needed,
                found,
            }
        } else {
            let limit = self.limit;
            GgufProblem::TooLarge { place, limit }
        }))
    }

    /// The next `N` bytes.
    pub(super) fn bytes<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        self.fill(&mut out)?;
        Ok(out)
    }

    /// Fills `out` with the next bytes.
    pub(super) fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        self.check_left(out.len() as u64)?;
        self.source.read_exact(out).map_err(|error| {
            if error.kind() == io::ErrorKind::UnexpectedEof {
                // The file became shorter since its length was taken.
                let needed = self.position.saturating_add(out.len() as u64);
                let path = self.path.to_path_buf();
                return FormatError::Truncated { path, needed };
            }
            io_error("read", self.path, error)
        })?;
        self.position += out.len() as u64;
        Ok(())
    }

    pub(super) fn u32(&mut self) -> Result<u32> {
        self.bytes().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64> {
        self.bytes().map(u64::from_le_bytes)
    }

    /// A string of at most `limit` bytes.
    pub(super) fn string(&mut self, limit: u64) -> Result<String> {
        let mut bytes = Vec::new();
        self.append_string(limit, &mut bytes)?;
        String::from_utf8(bytes).map_err(|_| self.not_utf8())
    }

    /// Appends the bytes of a string of at most `limit`, as they are.
    pub(super) fn append_string(&mut self, limit: u64, out: &mut Vec<u8>) -> Result<()> {
        let found = self.u64()?;
        if found > limit {
            let place = self.place.clone();
            return Err(self.wrong(GgufProblem::StringTooLong {
                place,
                found,
                limit,
            }));
        }
        self.check_left(found)?;
        let start = out.len();
        out.resize(start + found as usize, 0);
        self.fill(&mut out[start..])
    }

    pub(super) fn not_utf8(&self) -> FormatError {
        let place = self.place.clone();
        self.wrong(GgufProblem::NotUtf8 { place })
    }
}
