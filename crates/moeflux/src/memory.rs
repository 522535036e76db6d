//! How much memory there is, how much of it is in use, and giving back what is not.

mod group;
mod lock;
mod watch;

pub use lock::Locked;
pub(crate) use lock::lock;
pub(crate) use watch::LimitWatch;

use std::fs;
use std::path::{Path, PathBuf};

/// The part of the available memory that the engine takes unless told otherwise.
pub const DEFAULT_SHARE_PERCENT: u64 = 80;
/// The bound where the system does not say what it has.
const FALLBACK_LIMIT_BYTES: u64 = 8 << 30;
/// Memory is short when tasks wait for it for at least this percentage of the last ten seconds.
const SHORT_PERCENT: f64 = 10.0;

/// Bytes that the process may still take: the smaller of what the machine has available and what
/// its control group leaves. `None` where the system does not say.
pub fn available_bytes() -> Option<u64> {
    System::default().available_bytes()
}

/// Bytes of memory that the process occupies now (its resident set).
pub fn resident_bytes() -> Option<u64> {
    System::default().resident_bytes()
}

/// The most bytes of memory that the process has occupied so far.
pub fn peak_resident_bytes() -> Option<u64> {
    System::default().status_bytes("VmHWM:")
}

/// Where the system tells how much memory there is. Other places than the usual ones are for
/// containers that mount them elsewhere, and for tests.
#[derive(Clone, Debug)]
pub struct System {
    proc_dir: PathBuf,
    cgroup_dir: PathBuf,
}

impl Default for System {
    fn default() -> System {
        System::at(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
    }
}

impl System {
    /// A system whose process information is mounted at `proc_dir` and whose control groups at
    /// `cgroup_dir`.
    pub fn at(proc_dir: &Path, cgroup_dir: &Path) -> System {
        System {
            proc_dir: proc_dir.to_owned(),
            cgroup_dir: cgroup_dir.to_owned(),
        }
    }

    /// As [`available_bytes`].
    pub fn available_bytes(&self) -> Option<u64> {
        let machine = self.machine_available_bytes();
        let group = self.groups().map(|group| group.left_bytes).min();
        match (machine, group) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// As [`resident_bytes`].
    pub fn resident_bytes(&self) -> Option<u64> {
        self.status_bytes("VmRSS:")
    }

    /// The bound that the engine takes unless told otherwise.
    pub fn default_limit(&self) -> u64 {
        let available = self.available_bytes().unwrap_or(FALLBACK_LIMIT_BYTES);
        available / 100 * DEFAULT_SHARE_PERCENT
    }

    fn read(&self, file: &str) -> Option<String> {
        fs::read_to_string(self.proc_dir.join(file)).ok()
    }

    fn status_bytes(&self, field: &str) -> Option<u64> {
        kib_field(&self.read("self/status")?, field)
    }

    #[cfg(not(target_os = "macos"))]
    fn machine_available_bytes(&self) -> Option<u64> {
        kib_field(&self.read("meminfo")?, "MemAvailable:")
    }

    /// macOS has no notion of available memory that other programs can read cheaply; half of the
    /// physical memory is what an application may expect.
    #[cfg(target_os = "macos")]
    fn machine_available_bytes(&self) -> Option<u64> {
        let mut bytes: u64 = 0;
        let mut len = size_of::<u64>();
        // SAFETY: the name is a C string, `bytes` is 8 bytes long as `len` says, and no new value
        // is set.
        let status = unsafe {
            libc::sysctlbyname(
                c"hw.memsize".as_ptr(),
                (&raw mut bytes).cast(),
                &raw mut len,
                std::ptr::null_mut(),
                0,
            )
        };
        (status == 0).then_some(bytes / 2)
    }

    fn machine_total_bytes(&self) -> Option<u64> {
        kib_field(&self.read("meminfo")?, "MemTotal:")
    }
}

/// Gives memory that was freed, and that the allocator keeps for later, back to the system.
pub(crate) fn return_freed() {
    // SAFETY: the call takes no pointer and may be made at any time.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The value of a line `field   123 kB`, in bytes.
fn kib_field(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find(|l| l.starts_with(field))?;
    let kib: u64 = line[field.len()..]
        .split_whitespace()
        .next()?
        .parse()
        .ok()?;
    Some(kib * 1024)
}

/// Whether a pressure file says that tasks wait for memory.
fn is_short(pressure: &str) -> bool {
    let some = pressure.lines().find(|line| line.starts_with("some "));
    let average = some.and_then(|line| {
        line.split_whitespace()
            .find_map(|w| w.strip_prefix("avg10="))
    });
    average
        .and_then(|percent| percent.parse::<f64>().ok())
        .is_some_and(|percent| percent >= SHORT_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_lines_are_read_in_bytes() {
        let text = "VmPeak:\t  99 kB\nVmHWM:\t   2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(kib_field(text, "VmHWM:"), Some(2048 * 1024));
        assert_eq!(kib_field(text, "VmSwap:"), None);
    }

    #[test]
    fn pressure_is_read_from_its_ten_seconds() {
        let text = |some: &str| {
            format!("some avg10={some} avg60=99.0 avg300=0 total=1\nfull avg10=50.00 avg60=0.0\n")
        };
        assert!(is_short(&text("10.00")));
        assert!(!is_short(&text("9.99")));
        assert!(!is_short(""));
        assert!(!is_short("some avg10=often\n"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn the_machine_says_how_much_it_has() {
        let available = available_bytes().expect("Linux says");
        assert!(available > 1 << 20, "{available}");
        let resident = resident_bytes().expect("Linux says");
        assert!(resident > 1 << 16 && resident <= peak_resident_bytes().expect("Linux says"));
    }
}
