//! Positioned reads and writes, and the few system calls that durability needs.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::error::{FormatError, Result, io_error};

#[cfg(unix)]
fn read_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, out, offset)
}

#[cfg(windows)]
fn read_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, out, offset)
}

#[cfg(unix)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, bytes, offset)
}

#[cfg(windows)]
fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, bytes, offset)
}

/// Fills `out` from `offset` of the file at `path`.
pub(crate) fn read_exact_at(
    file: &File,
    path: &Path,
    mut out: &mut [u8],
    mut offset: u64,
) -> Result<()> {
    while !out.is_empty() {
        match read_at(file, out, offset) {
            Ok(0) => {
                let needed = offset.saturating_add(out.len() as u64);
                return Err(FormatError::Truncated {
                    path: path.to_path_buf(),
                    needed,
                });
            }
            Ok(count) => {
                out = out.split_at_mut(count).1;
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_error("read", path, error)),
        }
    }
    Ok(())
}

/// Writes all of `bytes` at `offset` of the file at `path`.
pub(crate) fn write_all_at(
    file: &File,
    path: &Path,
    mut bytes: &[u8],
    mut offset: u64,
) -> Result<()> {
    while !bytes.is_empty() {
        match write_at(file, bytes, offset) {
            Ok(0) => return Err(io_error("write", path, io::ErrorKind::WriteZero.into())),
            Ok(count) => {
                bytes = bytes.split_at(count).1;
                offset += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(io_error("write", path, error)),
        }
    }
    Ok(())
}

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|error| io_error("read", path, error))?;
    let bytes = file
        .metadata()
        .map_err(|error| io_error("read", path, error))?
        .len();
    if bytes > limit {
        let reason = format!("it is {bytes} bytes long, the limit is {limit}");
        return Err(FormatError::Json {
            path: path.to_path_buf(),
            reason,
        });
    }
    let mut out = vec![0; bytes as usize];
    read_exact_at(&file, path, &mut out, 0)?;
    Ok(out)
}

/// Makes the names in a directory durable. Windows has no such call and does not need one.
pub(crate) fn sync_directory(dir: &Path) -> Result<()> {
    if cfg!(unix) {
        let handle = File::open(dir).map_err(|error| io_error("read", dir, error))?;
        handle
            .sync_all()
            .map_err(|error| io_error("write", dir, error))?;
    }
    Ok(())
}

/// Drops the system's cached copy of a synced file, so that the next read comes from the disk.
/// Best effort: where the system has no such call, the cached copy is read.
pub(crate) fn forget_cached(file: &File) {
    #[cfg(target_os = "linux")]
    {
        use std::os::fd::AsRawFd;
        // SAFETY: the descriptor stays open while `file` is borrowed; no pointers are passed.
        let _advice_only =
            unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}
