//! Positioned reads through the page cache.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::open::open;
use super::positioned::read_at;
use super::{Reader, end_of_file, unknown_file};
use crate::error::ExpertError;

/// Reads through the page cache: right where all files fit in free memory, or where direct reads
/// are not to be had.
pub struct BufferedReader {
    files: Vec<File>,
}

impl BufferedReader {
    /// Opens all files.
    ///
    /// # Errors
    /// [`ExpertError::Open`] or [`ExpertError::TooManyFiles`], naming the first that cannot be.
    pub fn open(files: &[PathBuf]) -> Result<BufferedReader, ExpertError> {
        let files = files.iter().map(|path| open(path));
        Ok(BufferedReader {
            files: files.collect::<Result<_, _>>()?,
        })
    }
}

impl Reader for BufferedReader {
    fn read(&self, file: u32, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let file = self
            .files
            .get(file as usize)
            .ok_or_else(|| unknown_file(file))?;
        while !out.is_empty() {
            match read_at(file, offset, out)? {
                0 => return Err(end_of_file()),
                bytes => {
                    out = &mut out[bytes..];
                    offset += bytes as u64;
                }
            }
        }
        Ok(())
    }

    fn name(&self) -> String {
        "buffered".into()
    }

    fn is_direct(&self) -> bool {
        false
    }
}
