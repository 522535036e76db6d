//! Memory: the expert path allocates nothing once warm, and a smaller budget gives memory back.
//! One test, because it watches the whole process.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod common;

use std::alloc::{GlobalAlloc, Layout as AllocLayout, System};
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{Fixture, Layout, Random};
use moeflux_experts::PolicyKind;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: AllocLayout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: AllocLayout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn resident_bytes() -> u64 {
    let statm = fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

fn no_allocation_once_warm() {
    let fixture = Fixture::new(8, 2, 32, 1..40_000, Layout::Scattered);
    for policy in PolicyKind::ALL {
        let mut options = fixture.options(12);
        options.policy = policy;
        let mut residency = fixture.open(options);
        let mut random = Random(1);
        let leases: Vec<Vec<u32>> = (0..300).map(|_| random.distinct(32, 16)).collect();
        let mut before = 0;
        for (turn, experts) in leases.iter().enumerate() {
            if turn == 200 {
                before = ALLOCATIONS.load(Ordering::Relaxed);
            }
            let mut lease = residency.lease(1 + 2 * (turn % 2), experts).unwrap();
            while let Some(ready) = lease.next().unwrap() {
                assert!(ready.iter().all(|(_, bytes)| !bytes.is_empty()));
            }
        }
        assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{policy}");
        assert!(residency.stats().misses > 500, "the reads were real");
    }
}

fn shrinking_gives_memory_back() {
    const MIB: u64 = 1 << 20;
    let fixture = Fixture::new(9, 1, 64, MIB..MIB + 1, Layout::Packed);
    let mut residency = fixture.open(fixture.options(64));
    let all: Vec<u32> = (0..64).collect();
    let at_start = resident_bytes();
    fixture.take(&mut residency, 1, &all);
    let full = resident_bytes();
    assert!(full > at_start + 60 * MIB, "{at_start} {full}");
    fixture.take(&mut residency, 1, &[40, 50, 60]);

    assert_eq!(residency.shrink_to(8 * MIB + 5).unwrap(), 8 * MIB);
    let shrunk = resident_bytes();
    assert!(shrunk < full - 50 * MIB, "{full} {shrunk}");
    assert_eq!((residency.slots(), residency.stats().resident), (8, 8));
    assert_eq!(
        residency.shrink_to(u64::MAX).unwrap(),
        8 * MIB,
        "it never grows"
    );
    residency.reset_stats();
    fixture.take(&mut residency, 1, &[60, 50, 40]);
    assert_eq!(residency.stats().hits, 3, "what was used last was kept");
    fixture.take(&mut residency, 1, &all);
    assert!(resident_bytes() < shrunk + 8 * MIB);

    assert_eq!(residency.grow_to(32 * MIB), 32 * MIB);
    fixture.take(&mut residency, 1, &all);
    assert_eq!(residency.stats().resident, 32);
    assert_eq!(residency.shrink_to(0).unwrap(), MIB, "never below one slot");
    fixture.take(&mut residency, 1, &all);
    assert!(resident_bytes() < shrunk + 8 * MIB);
}

#[test]
fn memory_is_bounded() {
    no_allocation_once_warm();
    shrinking_gives_memory_back();
}
