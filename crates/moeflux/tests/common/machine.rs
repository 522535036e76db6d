//! A machine made of files, whose memory limit a test sets.
#![allow(dead_code, reason = "every test file uses a part of it")]

use moeflux::EngineOptions;
use moeflux::memory::System;

use crate::common::options;

/// What the process occupies, as the machine says.
pub const RESIDENT_BYTES: u64 = 100 << 20;

/// A control group whose limit the test sets.
pub struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    pub fn new() -> Machine {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let machine = Machine { dir };
        let resident_kib = RESIDENT_BYTES / 1024;
        machine.write("proc/self/status", &format!("VmRSS: {resident_kib} kB\n"));
        machine.write("proc/self/cgroup", "0::/job\n");
        machine.write("cgroup/job/memory.current", &RESIDENT_BYTES.to_string());
        machine.allow(1 << 40);
        machine
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("makes");
        std::fs::write(path, text).expect("writes");
    }

    /// Lets the process have so much, beside the reserve of a 128th.
    pub fn allow(&self, bytes: u64) {
        let limit = bytes * 128 / 127;
        self.write("cgroup/job/memory.max", &limit.to_string());
    }

    fn system(&self) -> System {
        System::at(
            &self.dir.path().join("proc"),
            &self.dir.path().join("cgroup"),
        )
    }

    /// Options under which the engine knows no other machine.
    pub fn options(&self, memory_bytes: u64) -> EngineOptions {
        EngineOptions {
            memory_bytes: Some(memory_bytes),
            system: self.system(),
            chunk_tokens: None,
            ..options()
        }
    }
}
