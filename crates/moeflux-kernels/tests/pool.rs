//! The thread pool: every task once, panics, nesting, many callers.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
};

use moeflux_kernels::ThreadPool;

#[test]
fn every_task_runs_once() {
    for threads in 0..6 {
        let pool = ThreadPool::new(threads);
        assert_eq!(pool.threads(), threads.max(1));
        for tasks in [0, 1, 2, 7, 100] {
            for _ in 0..50 {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|i| {
                    counts[i].fetch_add(1, SeqCst);
                });
                assert!(counts.iter().all(|count| count.load(SeqCst) == 1));
            }
        }
    }
}

#[test]
fn other_threads_take_part() {
    let pool = ThreadPool::new(3);
    let caller = std::thread::current().id();
    let helped = AtomicUsize::new(0);
    pool.run(300, &|_| {
        std::thread::sleep(std::time::Duration::from_micros(100));
        if std::thread::current().id() != caller {
            helped.fetch_add(1, SeqCst);
        }
    });
    assert!(helped.load(SeqCst) > 0);
}

/// Cores that the calling thread may run on.
#[cfg(target_os = "linux")]
fn allowed_cores() -> usize {
    // SAFETY: a set is plain bits and lives through the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let status = libc::sched_getaffinity(0, size_of_val(&set), &mut set);
        assert_eq!(status, 0);
        libc::CPU_COUNT(&set) as usize
    }
}

#[cfg(target_os = "linux")]
#[test]
fn settled_threads_stay_on_a_core_each_if_there_are_enough() {
    let cores = allowed_cores();
    for threads in [2, cores, cores + 1] {
        let pool = ThreadPool::new(threads);
        let check = |expected: usize| {
            for _ in 0..20 {
                pool.run(threads * 4, &|_| {
                    std::thread::sleep(std::time::Duration::from_micros(50));
                    assert_eq!(allowed_cores(), expected);
                });
            }
        };
        check(cores);
        let settled = pool.settle();
        check(if threads > 1 && threads <= cores {
            1
        } else {
            cores
        });
        drop(settled);
        assert_eq!(allowed_cores(), cores, "the caller is let go");
    }
}

#[test]
fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
    let pool = ThreadPool::new(3);
    for round in 0..50 {
        let result = catch_unwind(AssertUnwindSafe(|| {
            pool.run(20, &|i| assert!(i != round % 20, "task {i} failed"));
        }));
        let message = result.unwrap_err();
        assert_eq!(
            *message.downcast::<String>().unwrap(),
            format!("task {} failed", round % 20)
        );
        let done = AtomicUsize::new(0);
        pool.run(20, &|_| {
            done.fetch_add(1, SeqCst);
        });
        assert_eq!(done.load(SeqCst), 20);
    }
}

#[test]
fn nested_loops_of_one_pool_and_of_two() {
    let (outer, inner) = (ThreadPool::new(3), ThreadPool::new(2));
    let done = AtomicUsize::new(0);
    let count = |_| {
        done.fetch_add(1, SeqCst);
    };
    outer.run(10, &|_| {
        inner.run(10, &count);
        outer.run(10, &count);
    });
    assert_eq!(done.load(SeqCst), 200);
}

#[test]
fn several_callers_at_once() {
    let pool = ThreadPool::new(3);
    let done = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..100 {
                    pool.run(10, &|_| {
                        done.fetch_add(1, SeqCst);
                    });
                }
            });
        }
    });
    assert_eq!(done.load(SeqCst), 4000);
}
