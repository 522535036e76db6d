//! The popularity record: written, read back, refused where damaged, faded; and memory filled by
//! it.
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

mod common;

use std::fs;

use common::Fixture;
use moeflux_experts::{Pass, PolicyKind, Popularity};

fn record(uses: &[f32]) -> Popularity {
    let mut record = Popularity::new(7, uses.len());
    record.add(uses);
    record
}

#[test]
fn a_record_is_read_back_and_replaced_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("popularity");
    assert_eq!(
        Popularity::read(&path, 7, 4).unwrap(),
        None,
        "there is none yet"
    );
    for uses in [[1.0, 0.0, 3.5, 2.0], [0.0, 0.0, 0.0, 9.0]] {
        let record = record(&uses);
        record.write(&path).unwrap();
        assert_eq!(Popularity::read(&path, 7, 4).unwrap(), Some(record));
        assert_eq!(
            fs::read_dir(&dir).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }
    let nowhere = record(&[1.0])
        .write(&dir.path().join("no/record"))
        .unwrap_err();
    assert!(
        nowhere.to_string().contains("no/record cannot be used"),
        "{nowhere}"
    );
}

#[test]
fn what_is_no_record_is_refused_and_that_of_another_model_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("popularity");
    record(&[1.0, 2.0, 3.0]).write(&path).unwrap();
    let good = fs::read(&path).unwrap();
    let refused = |bytes: &[u8], identity, experts| {
        fs::write(&path, bytes).unwrap();
        let error = Popularity::read(&path, identity, experts).unwrap_err();
        assert!(
            error.to_string().contains("popularity cannot be used"),
            "{error}"
        );
    };
    refused(b"", 7, 3);
    for len in 0..good.len() {
        refused(&good[..len], 7, 3);
    }
    for at in (0..8).chain(24..good.len()) {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        refused(&bad, 7, 3);
    }
    for at in 8..24 {
        let mut other = good.clone();
        other[at] ^= 0x40;
        fs::write(&path, other).unwrap();
        assert_eq!(Popularity::read(&path, 7, 3).unwrap(), None);
    }
    fs::write(&path, &good).unwrap();
    for (identity, experts) in [(8, 3), (7, 2), (7, 4)] {
        let found = Popularity::read(&path, identity, experts);
        assert_eq!(found.unwrap(), None);
    }
    refused(&[&good[..], b"more"].concat(), 7, 3);
    let negative = record(&[1.0, -2.0, 3.0]);
    negative.write(&path).unwrap();
    assert!(
        Popularity::read(&path, 7, 3).is_err(),
        "uses cannot be fewer than none"
    );
}

#[test]
fn earlier_uses_fade_by_what_is_added() {
    let mut record = record(&[64.0, 0.0]);
    // 64 uses for each of two experts are half a life.
    record.add(&[0.0, 128.0]);
    assert_eq!(record.uses(), [32.0, 128.0]);
    record.add(&[0.0, 0.0]);
    assert_eq!(record.uses(), [32.0, 128.0]);
}

#[test]
fn the_popular_are_the_most_used_in_order_of_their_files() {
    let record = record(&[1.0, 5.0, 0.0, 5.0, 2.0]);
    assert_eq!(record.popular(3), [1, 3, 4]);
    assert_eq!(record.popular(2), [1, 3]);
    assert_eq!(record.popular(9), [0, 1, 3, 4], "never what was not used");
    assert!(record.popular(0).is_empty());
}

#[test]
fn filling_takes_empty_slots_only_and_does_not_count() {
    let fixture = Fixture::small(16);
    let mut residency = fixture.open(fixture.options(6));
    fixture.take(&mut residency, 1, &[14, 15]);
    let before = residency.stats();
    assert!(residency.fill(&[3, 4, 15]).unwrap(), "two slots are left");
    assert!(!residency.fill(&[5, 6, 7, 8]).unwrap(), "no slot is left");
    assert!(!residency.fill(&[9]).unwrap());
    assert!(
        !residency.fill(&[u32::MAX]).unwrap(),
        "an unknown key is passed over"
    );
    let after = residency.stats();
    assert_eq!(after.resident, 6);
    assert_eq!(after.bytes_read - before.bytes_read, 4 * 4096);
    let counted =
        |stats: &moeflux_experts::Stats| (stats.leases, stats.hits, stats.misses, stats.evictions);
    assert_eq!(counted(&after), counted(&before));
    fixture.take(&mut residency, 1, &[3, 4, 5, 6, 14, 15]);
    assert_eq!(
        residency.stats().hits - before.hits,
        6,
        "the bytes are theirs"
    );
}

#[test]
fn only_answers_are_counted() {
    let fixture = Fixture::small(4);
    let mut residency = fixture.open(fixture.options(4));
    residency.note(1, &[0, 3, 3], &[0.3; 3]).unwrap();
    residency.begin_pass(Pass::Scan { again: false });
    residency.note(1, &[0, 1, 2], &[0.3; 3]).unwrap();
    assert_eq!(residency.uses(), [1.0, 0.0, 0.0, 2.0]);
    assert!(residency.note(1, &[4], &[1.0]).is_err());
    assert!(residency.note(2, &[0], &[1.0]).is_err());
}

#[test]
fn what_was_popular_stays_under_every_policy_that_looks_at_it() {
    let fixture = Fixture::small(8);
    for policy in [PolicyKind::Lru, PolicyKind::Frequency, PolicyKind::Pinned] {
        let mut options = fixture.options(4);
        options.policy = policy;
        let mut residency = fixture.open(options);
        let record = record(&[9.0, 8.0, 0.0, 7.0, 6.0, 0.0, 0.0, 0.0]);
        residency.seed(record.uses());
        residency.fill(&record.popular(4)).unwrap();
        // One expert that is new: one of the four makes room, and not the most popular.
        fixture.take(&mut residency, 1, &[7]);
        let before = residency.stats().hits;
        fixture.take(&mut residency, 1, &[0]);
        let hits = residency.stats().hits - before;
        let expected = u64::from(policy != PolicyKind::Lru);
        assert_eq!(hits, expected, "{policy}");
    }
}
