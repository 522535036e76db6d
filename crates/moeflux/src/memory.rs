//! How much memory there is, and how much of it is in use.

use std::fs;

/// The part of the available memory that the engine takes unless told otherwise.
pub const DEFAULT_SHARE_PERCENT: u64 = 80;

/// Bytes that the process may still take: the smaller of what the machine has available and what
/// its control group leaves. `None` where the system does not say.
pub fn available_bytes() -> Option<u64> {
    let machine = machine_available_bytes();
    let group = cgroup_available_bytes();
    match (machine, group) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

/// Bytes of memory that the process occupies now (its resident set).
pub fn resident_bytes() -> Option<u64> {
    status_bytes("VmRSS:")
}

/// The most bytes of memory that the process has occupied so far.
pub fn peak_resident_bytes() -> Option<u64> {
    status_bytes("VmHWM:")
}

fn status_bytes(field: &str) -> Option<u64> {
    kib_field(&fs::read_to_string("/proc/self/status").ok()?, field)
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

#[cfg(not(target_os = "macos"))]
fn machine_available_bytes() -> Option<u64> {
    kib_field(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")
}

/// macOS has no notion of available memory that other programs can read cheaply; half of the
/// physical memory is what an application may expect.
#[cfg(target_os = "macos")]
fn machine_available_bytes() -> Option<u64> {
    let mut bytes: u64 = 0;
    let mut len = size_of::<u64>();
    // SAFETY: the name is a C string, `bytes` is 8 bytes long as `len` says, and no new value is
    // set.
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

/// Bytes that the process's control group (version 2 or 1) leaves, with its page cache counted
/// as free since the system gives that back.
fn cgroup_available_bytes() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut least: Option<u64> = None;
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
            continue;
        };
        let files = if controllers.is_empty() {
            Some(("/sys/fs/cgroup", "memory.max", "memory.current", "file "))
        } else if controllers.split(',').any(|c| c == "memory") {
            Some((
                "/sys/fs/cgroup/memory",
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_cache ",
            ))
        } else {
            None
        };
        let Some((root, limit, usage, cache)) = files else {
            continue;
        };
        // A limit on any group above binds as well.
        let mut group = path.trim_end_matches('/');
        loop {
            let dir = format!("{root}{group}");
            if let Some(free) = group_free_bytes(&dir, limit, usage, cache) {
                least = Some(least.map_or(free, |l| l.min(free)));
            }
            match group.rfind('/') {
                Some(at) => group = &group[..at],
                None => break,
            }
        }
    }
    least
}

fn group_free_bytes(dir: &str, limit: &str, usage: &str, cache: &str) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        fs::read_to_string(format!("{dir}/{name}"))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    // "max" does not parse: no limit. Version 1 says "no limit" by a huge number.
    let limit = number(limit).filter(|&l| l < 1 << 60)?;
    let used = number(usage)?;
    let stat = fs::read_to_string(format!("{dir}/memory.stat")).unwrap_or_default();
    let cached = stat
        .lines()
        .find_map(|l| l.strip_prefix(cache)?.trim().parse::<u64>().ok())
        .unwrap_or(0);
    Some(limit.saturating_sub(used.saturating_sub(cached)))
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
    fn a_control_group_leaves_its_limit_less_what_cannot_be_reclaimed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().to_str().expect("UTF-8");
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).expect("writes");
        };
        let free = || group_free_bytes(path, "memory.max", "memory.current", "file ");
        assert_eq!(free(), None, "no files, no limit");
        write("memory.max", "max\n");
        write("memory.current", "700\n");
        assert_eq!(free(), None, "no limit");
        write("memory.max", "1000\n");
        assert_eq!(free(), Some(300));
        write("memory.stat", "anon 500\nfile 150\nfile_mapped 9\n");
        assert_eq!(free(), Some(450), "page cache can be taken back");
        write("memory.max", "9223372036854771712\n");
        assert_eq!(free(), None, "version 1 says no limit by a huge number");
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
