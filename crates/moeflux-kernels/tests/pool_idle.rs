//! An idle pool uses no processor time. Alone in its process, whose time is measured.

#![cfg(unix)]

use std::time::Duration;

use moeflux_kernels::ThreadPool;

/// Processor time of all threads of this process.
fn process_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a live timespec.
    let status = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(status, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn an_idle_pool_uses_no_processor_time() {
    let pool = ThreadPool::new(4);
    for _ in 0..100 {
        pool.run(16, &|_| {});
    }
    // Threads take a while to park, longer on a busy machine.
    let used = |_| {
        let before = process_time();
        std::thread::sleep(Duration::from_millis(300));
        process_time() - before
    };
    let mut used = (0..20).map(used);
    assert!(
        used.any(|used| used < Duration::from_millis(10)),
        "the pool is never idle"
    );
    pool.run(16, &|_| {});
}
