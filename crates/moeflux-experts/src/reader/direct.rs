//! Positioned reads around the page cache: `O_DIRECT` on Linux, `F_NOCACHE` on macOS. Elsewhere
//! there is none yet, and opening says so.
//!
//! Direct reads want the file offset, the length and the buffer aligned. What is aligned goes
//! straight into the caller's buffer; the rest takes one copy through an aligned buffer that each
//! thread keeps.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::{Reader, end_of_file, read_at, unknown_file};
use crate::arena::SLOT_ALIGN;
use crate::error::ExpertError;

/// Direct reads start at multiples of this many bytes in the file, and their length is one.
pub const FILE_ALIGN: u64 = 4096;

/// Bytes of the buffer that unaligned reads go through, one a thread.
const BOUNCE_BYTES: usize = (1 << 20) + 2 * FILE_ALIGN as usize;

const _: () = assert!((BOUNCE_BYTES as u64).is_multiple_of(FILE_ALIGN));

thread_local! {
    static BOUNCE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Reads around the page cache: what is read once and kept in the arena is not kept twice.
pub struct DirectReader {
    files: Vec<File>,
}

impl DirectReader {
    /// Opens all files, and tries a read of each.
    ///
    /// # Errors
    /// [`ExpertError::Open`] where a file is missing or may not be read,
    /// [`ExpertError::DirectUnsupported`] where its file system has no direct reads.
    pub fn open(files: &[PathBuf]) -> Result<DirectReader, ExpertError> {
        let open = |path: &PathBuf| {
            // Opened plainly first, so that a missing file is not taken for an unsupported one.
            File::open(path).map_err(|source| ExpertError::Open {
                file: path.clone(),
                source,
            })?;
            open_direct(path)
                .and_then(|file| probe(&file).map(|()| file))
                .map_err(|source| ExpertError::DirectUnsupported {
                    file: path.clone(),
                    source,
                })
        };
        Ok(DirectReader {
            files: files.iter().map(open).collect::<Result<_, _>>()?,
        })
    }
}

impl Reader for DirectReader {
    fn read(&self, file: u32, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let file = self
            .files
            .get(file as usize)
            .ok_or_else(|| unknown_file(file))?;
        while !out.is_empty() {
            // A short read may leave the rest unaligned, so each turn decides anew.
            let bytes = match aligned_bytes(offset, out) {
                0 => read_through_bounce(file, offset, out)?,
                bytes => read_at(file, offset, &mut out[..bytes])?,
            };
            if bytes == 0 {
                return Err(end_of_file());
            }
            out = &mut out[bytes..];
            offset += bytes as u64;
        }
        Ok(())
    }

    fn name(&self) -> String {
        "direct".into()
    }

    fn is_direct(&self) -> bool {
        true
    }
}

/// How much of a request may go straight into `out`.
fn aligned_bytes(offset: u64, out: &[u8]) -> usize {
    let buffer = out.as_ptr() as usize as u64;
    match offset.is_multiple_of(FILE_ALIGN) && buffer.is_multiple_of(SLOT_ALIGN) {
        true => out.len() - out.len() % FILE_ALIGN as usize,
        false => 0,
    }
}

/// Reads the aligned blocks around the range into the thread's own buffer, and copies from there.
/// Returns the bytes copied: as many as asked for, or fit, or the file has.
fn read_through_bounce(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    with_bounce(|bounce| {
        let skip = (offset % FILE_ALIGN) as usize;
        let blocks = (skip + out.len())
            .next_multiple_of(FILE_ALIGN as usize)
            .min(bounce.len());
        let read = read_at(file, offset - skip as u64, &mut bounce[..blocks])?;
        let bytes = read.saturating_sub(skip).min(out.len());
        out[..bytes].copy_from_slice(&bounce[skip..skip + bytes]);
        Ok(bytes)
    })
}

fn with_bounce<T>(use_it: impl FnOnce(&mut [u8]) -> T) -> T {
    BOUNCE.with_borrow_mut(|bytes| {
        let align = SLOT_ALIGN as usize;
        if bytes.is_empty() {
            bytes.resize(BOUNCE_BYTES + align, 0);
        }
        let start = bytes.as_ptr().align_offset(align);
        use_it(&mut bytes[start..start + BOUNCE_BYTES])
    })
}

/// One read, of the second block where there is one: some file systems allow `O_DIRECT` on opening
/// and refuse it on reading, or want larger blocks than ours.
fn probe(file: &File) -> io::Result<()> {
    let offset = if file.metadata()?.len() > FILE_ALIGN {
        FILE_ALIGN
    } else {
        0
    };
    with_bounce(|bounce| read_at(file, offset, &mut bounce[..FILE_ALIGN as usize])).map(|_| ())
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn open_direct(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
}

#[cfg(target_vendor = "apple")]
fn open_direct(path: &Path) -> io::Result<File> {
    use std::os::fd::AsRawFd;
    let file = File::open(path)?;
    // SAFETY: the descriptor is open, and F_NOCACHE takes one integer.
    match unsafe { libc::fcntl(file.as_raw_fd(), libc::F_NOCACHE, 1) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(file),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn open_direct(_path: &Path) -> io::Result<File> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "not available on this system yet",
    ))
}
