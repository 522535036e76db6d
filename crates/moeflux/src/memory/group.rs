//! Control groups, version 2 or 1: what each group that the process is in leaves to it.

use std::fs;
use std::path::Path;

use super::{System, is_short};

/// Version 1 says "no limit" by a number about as large as this or larger.
const NO_LIMIT: u64 = 1 << 60;

/// The names of a version's files, and of the lines of `memory.stat` that count page cache and the
/// part of it that cannot be taken back.
struct Files {
    limits: &'static [&'static str],
    usage: &'static str,
    cache: &'static str,
    shared: &'static str,
}

const VERSION_2: Files = Files {
    // Beyond `high` the system slows the process down, beyond `max` it ends it.
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    cache: "file ",
    shared: "shmem ",
};

const VERSION_1: Files = Files {
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    cache: "total_cache ",
    shared: "total_shmem ",
};

/// A control group that limits memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Group {
    /// Its limit.
    pub limit_bytes: u64,
    /// What its tasks may still take; page cache counts as free, since the system gives that back.
    pub left_bytes: u64,
    /// Whether its tasks wait for memory.
    pub is_short: bool,
}

impl System {
    /// The groups that limit the process: its own, and those above it, which bind as well.
    pub(super) fn groups(&self) -> impl Iterator<Item = Group> {
        let mut found = Vec::new();
        for line in self.read("self/cgroup").unwrap_or_default().lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else {
                continue;
            };
            let (root, files) = if controllers.is_empty() {
                (self.cgroup_dir.clone(), &VERSION_2)
            } else if controllers.split(',').any(|c| c == "memory") {
                (self.cgroup_dir.join("memory"), &VERSION_1)
            } else {
                continue;
            };
            let mut dir = root.join(path.trim_matches('/'));
            loop {
                found.extend(Group::read(&dir, files));
                if dir == root || !dir.pop() {
                    break;
                }
            }
        }
        found.into_iter()
    }
}

impl Group {
    /// The group at `dir`; `None` if it has no limit.
    fn read(dir: &Path, files: &Files) -> Option<Group> {
        let text = |name: &str| fs::read_to_string(dir.join(name)).ok();
        // "max" does not parse: no limit.
        let number = |name: &str| -> Option<u64> { text(name)?.trim().parse().ok() };
        let limits = files.limits.iter().filter_map(|name| number(name));
        let limit_bytes = limits.filter(|&limit| limit < NO_LIMIT).min()?;
        let stat = text("memory.stat").unwrap_or_default();
        let of = |field: &str| -> u64 {
            let line = stat.lines().find_map(|line| line.strip_prefix(field));
            line.and_then(|value| value.trim().parse().ok())
                .unwrap_or(0)
        };
        let cached = of(files.cache).saturating_sub(of(files.shared));
        let used = number(files.usage)?.saturating_sub(cached);
        Some(Group {
            limit_bytes,
            left_bytes: limit_bytes.saturating_sub(used),
            is_short: text("memory.pressure").is_some_and(|text| is_short(&text)),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A directory with files of a control group.
    struct Fake {
        dir: tempfile::TempDir,
    }

    impl Fake {
        fn new(own: &str) -> Fake {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let fake = Fake { dir };
            fake.write("proc/self/cgroup", own);
            fake
        }

        fn write(&self, name: &str, text: &str) {
            let path = self.dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).expect("makes");
            fs::write(path, text).expect("writes");
        }

        fn left(&self) -> Vec<u64> {
            let root = self.dir.path();
            let system = System::at(&root.join("proc"), &root.join("cgroup"));
            system.groups().map(|group| group.left_bytes).collect()
        }
    }

    #[test]
    fn a_group_leaves_its_limit_less_what_cannot_be_reclaimed() {
        let fake = Fake::new("0::/a/b\n");
        assert_eq!(fake.left(), [0; 0], "no files, no limit");
        fake.write("cgroup/a/b/memory.max", "max\n");
        fake.write("cgroup/a/b/memory.current", "700\n");
        assert_eq!(fake.left(), [0; 0], "no limit");
        fake.write("cgroup/a/b/memory.max", "1000\n");
        assert_eq!(fake.left(), [300]);
        fake.write(
            "cgroup/a/b/memory.stat",
            "anon 500\nfile 190\nfile_mapped 9\nshmem 40\n",
        );
        assert_eq!(fake.left(), [450], "page cache can be taken back");
        fake.write("cgroup/a/b/memory.high", "800\n");
        assert_eq!(fake.left(), [250], "the system slows down beyond that");
        fake.write("cgroup/a/memory.max", "500\n");
        fake.write("cgroup/a/memory.current", "600\n");
        assert_eq!(fake.left(), [250, 0], "groups above bind as well");
    }

    #[test]
    fn version_1_is_read_from_its_own_place() {
        let fake = Fake::new("9:name=systemd:/x\n4:cpu,memory:/job\n0::/\n");
        fake.write(
            "cgroup/memory/job/memory.limit_in_bytes",
            "9223372036854771712\n",
        );
        fake.write("cgroup/memory/job/memory.usage_in_bytes", "700\n");
        assert_eq!(fake.left(), [0; 0], "no limit is a huge number there");
        fake.write("cgroup/memory/job/memory.limit_in_bytes", "1000\n");
        fake.write(
            "cgroup/memory/job/memory.stat",
            "cache 1\ntotal_cache 150\ntotal_shmem 50\n",
        );
        assert_eq!(fake.left(), [400]);
    }
}
