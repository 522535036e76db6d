//! A process that may open no more files. One test, because it lowers the whole process's limit.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod common;

use std::fs::File;
use std::os::fd::AsRawFd;

use common::Fixture;
use moeflux_experts::{ExpertError, ReaderKind, Residency};

fn set(limit: &libc::rlimit) {
    // SAFETY: the call reads one rlimit.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, limit) };
    assert_eq!(set, 0);
}

#[test]
fn too_many_open_files_name_the_limit_and_how_to_raise_it() {
    let fixture = Fixture::small(6);
    // The lowest free number; one more file may be open then, and the fixture has two.
    let open_now = File::open("/dev/null").unwrap().as_raw_fd() as u64 + 1;
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the call writes one rlimit.
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    assert_eq!(read, 0);
    let before = limit.rlim_cur;
    limit.rlim_cur = open_now;
    set(&limit);
    for kind in [
        ReaderKind::Auto,
        ReaderKind::Uring,
        ReaderKind::Direct,
        ReaderKind::Buffered,
    ] {
        let mut options = fixture.options(6);
        options.reader = kind.into();
        let error = Residency::open(fixture.catalog.clone(), options)
            .err()
            .unwrap();
        let message = error.to_string();
        let ExpertError::TooManyFiles { limit, .. } = error else {
            panic!("{kind}: {message}");
        };
        assert_eq!(limit, open_now);
        for part in ["experts-1.bin", &format!("{open_now} files"), "ulimit -n"] {
            assert!(message.contains(part), "{message}");
        }
    }
    limit.rlim_cur = before;
    set(&limit);
    let mut residency = fixture.open(fixture.options(6));
    fixture.take(&mut residency, 1, &[0, 1, 2, 3, 4, 5]);
}
