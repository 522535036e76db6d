//! Reading all experts ahead: whole where there is room, nothing where there is not.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use common::{Fixture, Layout};

#[test]
fn with_room_for_all_every_later_lease_hits() {
    let fixture = Fixture::new(5, 3, 16, 1..20_000, Layout::Scattered);
    let mut residency = fixture.open(fixture.options(48));
    let mut told = Vec::new();
    assert!(
        residency
            .warm(&mut |done, all| told.push((done, all)))
            .unwrap()
    );
    assert_eq!(told.last(), Some(&(48, 48)));
    assert!(told.is_sorted(), "{told:?}");
    assert_eq!(residency.stats().resident, 48);
    residency.reset_stats();
    for layer in [1, 3, 5] {
        let experts: Vec<u32> = (0..16).collect();
        let mut lease = residency.lease(layer, &experts).unwrap();
        while let Some(ready) = lease.next().unwrap() {
            fixture.check(layer, &ready);
        }
    }
    let stats = residency.stats();
    assert_eq!((stats.hits, stats.misses, stats.bytes_read), (48, 0, 0));
    assert!(residency.warm(&mut |_, _| ()).unwrap());
    assert_eq!(residency.stats().misses, 0, "nothing is read twice");
}

#[test]
fn without_room_for_all_nothing_is_read() {
    let fixture = Fixture::new(6, 3, 16, 1..20_000, Layout::Packed);
    let mut residency = fixture.open(fixture.options(47));
    assert!(!residency.warm(&mut |_, _| ()).unwrap());
    let stats = residency.stats();
    assert_eq!((stats.leases, stats.bytes_read), (0, 0));
}
