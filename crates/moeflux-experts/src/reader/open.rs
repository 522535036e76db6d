//! Opening files for reading, with or without the page cache, and what goes wrong then.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::error::ExpertError;

/// Opens a file for reads through the page cache.
pub(super) fn open(path: &Path) -> Result<File, ExpertError> {
    File::open(path).map_err(|source| refused(path, source))
}

/// Opens a file for reads around the page cache.
pub(super) fn open_direct(path: &Path) -> Result<File, ExpertError> {
    // Opened plainly first, so that a missing file is not taken for an unsupported one.
    drop(open(path)?);
    direct(path).map_err(|source| match too_many_files(&source) {
        true => refused(path, source),
        false => ExpertError::DirectUnsupported {
            file: path.into(),
            source,
        },
    })
}

fn refused(path: &Path, source: io::Error) -> ExpertError {
    let file = path.into();
    match (too_many_files(&source), open_files_limit()) {
        (true, Some(limit)) => ExpertError::TooManyFiles {
            file,
            limit,
            source,
        },
        _ => ExpertError::Open { file, source },
    }
}

#[cfg(unix)]
fn too_many_files(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EMFILE)
}

#[cfg(not(unix))]
fn too_many_files(_error: &io::Error) -> bool {
    false
}

/// How many files this process may have open.
#[cfg(unix)]
fn open_files_limit() -> Option<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the call writes one rlimit, to which it gets a pointer.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    (result == 0).then_some(limit.rlim_cur)
}

#[cfg(not(unix))]
fn open_files_limit() -> Option<u64> {
    None
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn direct(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .read(true)
        .custom_flags(libc::O_DIRECT)
        .open(path)
}

#[cfg(target_vendor = "apple")]
fn direct(path: &Path) -> io::Result<File> {
    use std::os::fd::AsRawFd;
    let file = File::open(path)?;
    for (command, value) in [(libc::F_NOCACHE, 1), (libc::F_RDAHEAD, 0)] {
        // SAFETY: the descriptor is open, and both commands take one integer.
        if unsafe { libc::fcntl(file.as_raw_fd(), command, value) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(file)
}

/// Unbuffered, and overlapped, as the system lets only one request at a time into a file that is
/// not.
#[cfg(windows)]
fn direct(path: &Path) -> io::Result<File> {
    use std::os::windows::fs::OpenOptionsExt;
    use windows_sys::Win32::Storage::FileSystem::{FILE_FLAG_NO_BUFFERING, FILE_FLAG_OVERLAPPED};
    File::options()
        .read(true)
        .custom_flags(FILE_FLAG_NO_BUFFERING | FILE_FLAG_OVERLAPPED)
        .open(path)
}

#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_vendor = "apple",
    windows
)))]
fn direct(_path: &Path) -> io::Result<File> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "not available on this system",
    ))
}
