//! What the system allows the process now, looked at while it runs.

use std::time::{Duration, Instant};

use super::{System, is_short};

/// How often the system is looked at.
const INTERVAL: Duration = Duration::from_secs(1);
/// This part of a limit is left alone, and a larger one where tasks wait for memory.
const RESERVE_SHARE: u64 = 128;
const SHORT_RESERVE_SHARE: u64 = 16;

/// Looks at what the system allows, at most once a second.
#[derive(Clone, Debug)]
pub(crate) struct LimitWatch {
    system: System,
    next: Option<Instant>,
}

impl LimitWatch {
    pub fn new(system: System) -> LimitWatch {
        LimitWatch { system, next: None }
    }

    /// The most that the process may occupy, in bytes; `None` if it is not yet time to look, or
    /// the system does not say.
    pub fn ceiling(&mut self, now: Instant) -> Option<u64> {
        if self.next.is_some_and(|next| now < next) {
            return None;
        }
        self.next = Some(now + INTERVAL);
        self.system.ceiling_bytes()
    }
}

impl System {
    /// What the process occupies and what it may still take, less a reserve for others.
    fn ceiling_bytes(&self) -> Option<u64> {
        let reserve = |limit: u64, is_short: bool| match is_short {
            true => limit / SHORT_RESERVE_SHARE,
            false => limit / RESERVE_SHARE,
        };
        let machine_is_short = self.read("pressure/memory").is_some_and(|t| is_short(&t));
        let machine = self.machine_available_bytes().map(|available| {
            let total = self.machine_total_bytes().unwrap_or(available);
            (available, reserve(total, machine_is_short))
        });
        let groups = self
            .groups()
            .map(|group| (group.left_bytes, reserve(group.limit_bytes, group.is_short)));
        let resident = self.resident_bytes()?;
        groups
            .chain(machine)
            .map(|(left, reserve)| (resident + left).saturating_sub(reserve))
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB_IN_KIB: u64 = 1 << 20;
    const MIB: u64 = 1 << 20;

    #[test]
    fn the_ceiling_follows_machine_group_and_pressure() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let write = |name: &str, text: String| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap_or(dir.path())).expect("makes");
            std::fs::write(path, text).expect("writes");
        };
        let system = System::at(&dir.path().join("proc"), &dir.path().join("cgroup"));
        let ceiling = || system.ceiling_bytes();
        assert_eq!(ceiling(), None, "nothing is known");
        write("proc/self/status", format!("VmRSS: {GIB_IN_KIB} kB\n"));
        assert_eq!(ceiling(), None, "no limit is known");
        let (total, available) = (8 * GIB_IN_KIB, 2 * GIB_IN_KIB);
        write(
            "proc/meminfo",
            format!("MemTotal: {total} kB\nMemAvailable: {available} kB\n"),
        );
        assert_eq!(ceiling(), Some((3 * 1024 - 64) * MIB));
        write(
            "proc/pressure/memory",
            "some avg10=33.00 avg60=0 avg300=0 total=0\n".into(),
        );
        assert_eq!(
            ceiling(),
            Some((3 * 1024 - 512) * MIB),
            "others wait for memory"
        );
        write("proc/self/cgroup", "0::/job\n".into());
        write("cgroup/job/memory.max", format!("{}\n", 2048 * MIB));
        write("cgroup/job/memory.current", format!("{}\n", 1536 * MIB));
        assert_eq!(ceiling(), Some((1024 + 512 - 16) * MIB));
        write(
            "cgroup/job/memory.pressure",
            "some avg10=10.00 avg60=0 avg300=0 total=0\n".into(),
        );
        assert_eq!(ceiling(), Some((1024 + 512 - 128) * MIB));
    }

    #[test]
    fn the_system_is_looked_at_once_a_second() {
        let mut watch = LimitWatch::new(System::default());
        let start = Instant::now();
        let first = watch.ceiling(start);
        assert_eq!(first.is_some(), cfg!(target_os = "linux"));
        assert_eq!(watch.ceiling(start + INTERVAL / 2), None);
        assert_eq!(watch.ceiling(start + INTERVAL).is_some(), first.is_some());
    }
}
