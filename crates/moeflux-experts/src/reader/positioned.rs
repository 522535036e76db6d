//! One positioned read of a file, by system.

use std::fs::File;
use std::io::{self, IoSliceMut};

/// One read through the page cache; may be short, and is 0 only at the end of the file.
pub(super) fn read_at(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    loop {
        #[cfg(unix)]
        let result = std::os::unix::fs::FileExt::read_at(file, out, offset);
        #[cfg(windows)]
        let result = std::os::windows::fs::FileExt::seek_read(file, out, offset);
        match result {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // Windows reports a read at the end as an error.
            #[cfg(windows)]
            Err(error) if at_end(&error) => return Ok(0),
            result => return result,
        }
    }
}

/// One direct read into several places; may be short, and is 0 only at the end of the file.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn read_parts(
    file: &File,
    offset: u64,
    parts: &mut [IoSliceMut<'_>],
) -> io::Result<usize> {
    loop {
        match rustix::io::preadv(file, parts, offset) {
            Err(rustix::io::Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// Direct reads into several places, one after another; short at the end of the file.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn read_parts(
    file: &File,
    offset: u64,
    parts: &mut [IoSliceMut<'_>],
) -> io::Result<usize> {
    let mut done = 0;
    for part in parts {
        #[cfg(windows)]
        let read = overlapped(file, offset + done as u64, part)?;
        #[cfg(not(windows))]
        let read = read_at(file, offset + done as u64, part)?;
        done += read;
        if read < part.len() {
            break;
        }
    }
    Ok(done)
}

/// One read of a file that was opened as overlapped.
#[cfg(windows)]
fn overlapped(file: &File, offset: u64, out: &mut [u8]) -> io::Result<usize> {
    use std::os::windows::io::{AsRawHandle, FromRawHandle, OwnedHandle};
    use windows_sys::Win32::Foundation::ERROR_IO_PENDING;
    use windows_sys::Win32::Storage::FileSystem::ReadFile;
    use windows_sys::Win32::System::IO::{GetOverlappedResult, OVERLAPPED};
    use windows_sys::Win32::System::Threading::CreateEventW;

    // SAFETY: the call takes no memory of ours.
    let event = unsafe { CreateEventW(std::ptr::null(), 1, 0, std::ptr::null()) };
    if event.is_null() {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the handle is new and ours, so closing it is too.
    let _event = unsafe { OwnedHandle::from_raw_handle(event) };
    let mut request = OVERLAPPED {
        hEvent: event,
        ..OVERLAPPED::default()
    };
    request.Anonymous.Anonymous.Offset = offset as u32;
    request.Anonymous.Anonymous.OffsetHigh = (offset >> 32) as u32;
    let bytes = u32::try_from(out.len()).unwrap_or(u32::MAX);
    let handle = file.as_raw_handle();
    // SAFETY: `out` has `bytes` bytes; it and the request outlive the read, which has ended when
    // GetOverlappedResult, told to wait, returns below.
    let begun = unsafe {
        ReadFile(
            handle,
            out.as_mut_ptr(),
            bytes,
            std::ptr::null_mut(),
            &mut request,
        )
    };
    if begun == 0 {
        let error = io::Error::last_os_error();
        if at_end(&error) {
            return Ok(0);
        }
        if error.raw_os_error() != Some(ERROR_IO_PENDING as i32) {
            return Err(error);
        }
    }
    let mut read = 0;
    // SAFETY: handle and request are those of the read begun above.
    match unsafe { GetOverlappedResult(handle, &request, &mut read, 1) } {
        0 => match io::Error::last_os_error() {
            error if at_end(&error) => Ok(0),
            error => Err(error),
        },
        _ => Ok(read as usize),
    }
}

#[cfg(windows)]
fn at_end(error: &io::Error) -> bool {
    use windows_sys::Win32::Foundation::ERROR_HANDLE_EOF;
    error.raw_os_error() == Some(ERROR_HANDLE_EOF as i32)
}
