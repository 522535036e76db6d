//! io_uring refused by the system, as containers do: threads take its place, and it is said why.
#![cfg(all(
    target_os = "linux",
    any(target_arch = "x86_64", target_arch = "aarch64")
))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod common;

use common::{Fixture, Layout};
use moeflux_experts::ReaderKind;

/// From here on, this thread and those that it starts get `errno` from io_uring_setup.
fn refuse_io_uring(errno: i32) {
    let statement = |code: u32, jt, jf, k| libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    };
    let mut filter = [
        // The number of the call is the first field of what the filter sees.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        statement(
            libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K,
            0,
            1,
            libc::SYS_io_uring_setup as u32,
        ),
        statement(
            libc::BPF_RET | libc::BPF_K,
            0,
            0,
            libc::SECCOMP_RET_ERRNO | errno as u32,
        ),
        statement(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: filter.len() as u16,
        filter: filter.as_mut_ptr(),
    };
    // SAFETY: the calls concern this thread only, and the second reads one program, which lives.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        let mode = libc::SECCOMP_MODE_FILTER;
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, mode, &program), 0);
    }
}

#[test]
fn threads_take_the_place_of_a_ring_that_is_refused() {
    for (errno, reason) in [
        (libc::EPERM, "io_uring is refused"),
        (libc::ENOSYS, "this system has no io_uring"),
    ] {
        let refused = std::thread::spawn(move || {
            refuse_io_uring(errno);
            let fixture = Fixture::new(5, 1, 8, 1..900_000, Layout::Scattered);
            let mut options = fixture.options(8);
            options.reader = ReaderKind::Uring.into();
            let mut residency = fixture.open(options);
            fixture.take(&mut residency, 1, &[7, 6, 5, 4, 3, 2, 1, 0]);
            let stats = residency.stats();
            assert_eq!((stats.reader.as_str(), stats.direct), ("direct", true));
            let note = stats.reader_note.unwrap();
            assert!(
                note.contains(reason) && note.contains("threads instead"),
                "{note}"
            );
        });
        refused.join().unwrap();
    }
}
