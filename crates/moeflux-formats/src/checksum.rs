//! Checksums of files: xxh3 (64 bits) of the whole and of its pieces, in one pass.

use std::fs::File;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use crate::error::{Result, io_error};
use crate::io::{forget_cached, read_exact_at};

/// Bytes read at a time.
const READ_BYTES: usize = 1 << 20;

/// What was read of a file.
pub(crate) struct FileChecksums {
    /// Of the whole file.
    pub file: u64,
    /// Of each piece.
    pub pieces: Vec<u64>,
}

/// A checksum as the manifest writes it.
pub(crate) fn checksum_text(checksum: u64) -> String {
    format!("{checksum:016x}")
}

/// Reads a file from the disk, front to back. `pieces` are the lengths of the pieces that it
/// consists of; what is left after them counts as one more. `read` is told of the bytes read.
pub(crate) fn checksum_file(
    path: &Path,
    pieces: impl Iterator<Item = u64>,
    read: &mut dyn FnMut(u64),
) -> Result<FileChecksums> {
    let file = File::open(path).map_err(|error| io_error("read", path, error))?;
    let file_bytes = file
        .metadata()
        .map_err(|error| io_error("read", path, error))?
        .len();
    forget_cached(&file);
    let mut whole = Xxh3::new();
    let mut found = Vec::new();
    let mut buffer = vec![0; READ_BYTES.min(file_bytes as usize)];
    let mut place = 0;
    for bytes in pieces.chain(std::iter::once(u64::MAX)) {
        let end = place + bytes.min(file_bytes - place);
        if place == end && bytes == u64::MAX {
            break;
        }
        let mut piece = Xxh3::new();
        while place < end {
            let chunk = &mut buffer[..(READ_BYTES as u64).min(end - place) as usize];
            read_exact_at(&file, path, chunk, place)?;
            piece.update(chunk);
            whole.update(chunk);
            place += chunk.len() as u64;
            read(chunk.len() as u64);
        }
        found.push(piece.digest());
    }
    Ok(FileChecksums {
        file: whole.digest(),
        pieces: found,
    })
}
