//! What disk a file lies on, in words that name the same disk tomorrow.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use crate::error::ExpertError;

/// The device that holds most bytes of the files, and the files on it; `None` if all files
/// together have fewer than `least` bytes.
pub(super) fn main_device(
    files: &[PathBuf],
    least: u64,
) -> Result<Option<(String, Vec<PathBuf>)>, ExpertError> {
    let mut devices: HashMap<String, (u64, Vec<PathBuf>)> = HashMap::new();
    let mut names: HashMap<u64, String> = HashMap::new();
    let mut total = 0;
    for file in files {
        let metadata = std::fs::metadata(file).map_err(|source| ExpertError::Open {
            file: file.clone(),
            source,
        })?;
        let number = device_number(&metadata, file);
        let name = names
            .entry(number)
            .or_insert_with(|| describe(number, file));
        let (bytes, on_it) = devices.entry(name.clone()).or_default();
        *bytes += metadata.len();
        total += metadata.len();
        on_it.push(file.clone());
    }
    if total < least {
        return Ok(None);
    }
    let most = devices.into_iter().max_by_key(|(_, (bytes, _))| *bytes);
    Ok(most.map(|(name, (_, files))| (name, files)))
}

#[cfg(unix)]
fn device_number(metadata: &std::fs::Metadata, _file: &Path) -> u64 {
    std::os::unix::fs::MetadataExt::dev(metadata)
}

/// The volume's serial number.
#[cfg(windows)]
fn device_number(_metadata: &std::fs::Metadata, file: &Path) -> u64 {
    use std::os::windows::io::AsRawHandle;
    use windows_sys::Win32::Storage::FileSystem::{
        BY_HANDLE_FILE_INFORMATION, GetFileInformationByHandle,
    };
    let Ok(file) = std::fs::File::open(file) else {
        return 0;
    };
    let mut about = BY_HANDLE_FILE_INFORMATION::default();
    // SAFETY: the handle is open, and the call writes the one structure that it gets.
    match unsafe { GetFileInformationByHandle(file.as_raw_handle(), &mut about) } {
        0 => 0,
        _ => u64::from(about.dwVolumeSerialNumber),
    }
}

#[cfg(not(any(unix, windows)))]
fn device_number(_metadata: &std::fs::Metadata, _file: &Path) -> u64 {
    0
}

/// Model, serial number and size of a disk, or of what stands for one.
#[cfg(target_os = "linux")]
fn describe(number: u64, file: &Path) -> String {
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let link = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    let mut place = std::fs::canonicalize(&link).unwrap_or(link);
    if place.join("partition").exists() {
        place.pop();
    }
    let read = |name: &str| {
        let text = std::fs::read_to_string(place.join(name)).ok()?;
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        (!text.is_empty()).then_some(text)
    };
    let serial = [
        "serial",
        "device/serial",
        "wwid",
        "device/wwid",
        "dm/uuid",
        "md/uuid",
    ];
    let serial = serial.into_iter().find_map(read);
    let size = read("size").map(|sectors| format!("{sectors} sectors"));
    let model = read("device/model").or_else(|| read("dm/name"));
    // Numbers may change from one start of the system to the next, so they are the last resort.
    let numbers = match (&serial, &size) {
        (Some(_), Some(_)) => None,
        _ => {
            let kind = rustix::fs::statfs(file).map_or(0, |about| about.f_type as u64);
            Some(format!("device {major}:{minor}, file system {kind:x}"))
        }
    };
    let parts = [model, serial, size, numbers];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// What is mounted where the file lies.
#[cfg(target_vendor = "apple")]
fn describe(number: u64, file: &Path) -> String {
    use std::ffi::{CStr, CString};
    use std::os::unix::ffi::OsStrExt;
    let unnamed = || format!("device {number}");
    let Ok(path) = CString::new(file.as_os_str().as_bytes()) else {
        return unnamed();
    };
    let mut about = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path ends in a zero byte, and the call writes the one structure that it gets.
    if unsafe { libc::statfs(path.as_ptr(), about.as_mut_ptr()) } != 0 {
        return unnamed();
    }
    // SAFETY: it was zeroed, which is a valid value, and then filled.
    let about = unsafe { about.assume_init() };
    // SAFETY: the system ends these names in zero bytes, within their fields.
    let [from, kind] = [about.f_mntfromname.as_ptr(), about.f_fstypename.as_ptr()].map(|name| {
        unsafe { CStr::from_ptr(name) }
            .to_string_lossy()
            .into_owned()
    });
    format!("{from}, {kind}, {} blocks", about.f_blocks)
}

#[cfg(not(any(target_os = "linux", target_vendor = "apple")))]
fn describe(number: u64, _file: &Path) -> String {
    format!("volume {number:08x}")
}
