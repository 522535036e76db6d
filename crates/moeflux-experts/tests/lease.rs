//! What a lease promises: overlap, pinning, waves, and leaving early.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod common;

use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Fixture, Gate, Layout, name_here};
use moeflux_experts::{FaultPlan, FaultyReader, Reader, ReaderChoice, ReaderKind};

#[test]
fn hits_come_while_misses_are_read() {
    let fixture = Fixture::small(8);
    let gate = Gate::new(fixture.buffered());
    let mut residency = fixture.open_with(8, 4, Arc::clone(&gate) as Arc<dyn Reader>);
    fixture.take(&mut residency, 1, &[5, 2]);
    gate.set(false);
    let mut lease = residency.lease(1, &[1, 2, 3, 5]).unwrap();
    // The misses' reads have begun and cannot end; the hits are delivered all the same.
    gate.wait_for(4);
    let ready = lease.next().unwrap().unwrap();
    let mut hits = fixture.check(1, &ready);
    hits.sort_unstable();
    assert_eq!(hits, [2, 5]);
    gate.set(true);
    drop(ready);
    let mut rest = Vec::new();
    while let Some(ready) = lease.next().unwrap() {
        rest.extend(fixture.check(1, &ready));
    }
    rest.sort_unstable();
    assert_eq!(rest, [1, 3]);
}

#[test]
fn what_is_delivered_stays_while_it_is_held() {
    let fixture = Fixture::small(12);
    let mut residency = fixture.open_with(4, 2, fixture.buffered());
    fixture.take(&mut residency, 1, &[0, 1, 2]);
    let mut lease = residency.lease(1, &[0, 1, 2, 3, 4, 5, 6, 7, 8]).unwrap();
    let ready = lease.next().unwrap().unwrap();
    assert_eq!(ready.len(), 3);
    // One slot is left for six misses. Nobody may take the three while they are held.
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(fixture.check(1, &ready).len(), 3);
    drop(ready);
    let mut count = 3;
    while let Some(ready) = lease.next().unwrap() {
        std::thread::sleep(Duration::from_millis(2));
        count += fixture.check(1, &ready).len();
    }
    assert_eq!(count, 9);
}

#[test]
fn one_slot_serves_any_lease() {
    let fixture = Fixture::new(1, 1, 9, 1..3_000_000, Layout::Scattered);
    let mut residency = fixture.open(fixture.options(1));
    let batches = fixture.take(&mut residency, 1, &[8, 0, 7, 1, 6, 2, 5, 3, 4]);
    assert_eq!(batches.len(), 9);
    assert_eq!(fixture.take(&mut residency, 1, &[4]).len(), 1);
    let stats = residency.stats();
    assert_eq!((stats.hits, stats.misses, stats.evictions), (1, 9, 8));
}

#[test]
fn arrivals_out_of_order_are_delivered_as_they_come() {
    let fixture = Fixture::small(64);
    let plan = FaultPlan {
        max_delay: Duration::from_millis(4),
        ..FaultPlan::default()
    };
    let faulty = Arc::new(FaultyReader::new(fixture.buffered(), plan));
    let mut residency = fixture.open_with(64, 8, faulty);
    let asked: Vec<u32> = (0..64).collect();
    let delivered = fixture.take(&mut residency, 1, &asked).concat();
    assert_ne!(
        delivered, asked,
        "random delays reorder 64 reads on 8 threads"
    );
    assert!(residency.stats().wait_us_total > 0);
}

#[test]
fn leaving_early_cancels_what_is_queued_and_keeps_what_is_read() {
    let fixture = Fixture::small(8);
    let gate = Gate::new(fixture.buffered());
    let mut residency = fixture.open_with(8, 1, Arc::clone(&gate) as Arc<dyn Reader>);
    fixture.take(&mut residency, 1, &[7]);
    gate.set(false);
    let lease = residency.lease(1, &[7, 0, 1, 2, 3, 4]).unwrap();
    gate.wait_for(2);
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        gate.set(true);
    });
    drop(lease);
    let stats = residency.stats();
    assert_eq!(stats.reads, 2, "one before, and the one in flight");
    assert_eq!(stats.resident, 2);
    opener.join().unwrap();
    fixture.take(&mut residency, 1, &[7, 0, 1, 2, 3, 4]);
    let stats = residency.stats();
    assert_eq!((stats.hits, stats.reads), (1 + 2, 6));
}

#[test]
fn leaving_in_the_middle_of_large_records_leaves_none_half_read() {
    let fixture = Fixture::new(5, 1, 6, 2_000_000..5_000_000, Layout::Packed);
    let plan = FaultPlan {
        max_delay: Duration::from_millis(3),
        ..FaultPlan::default()
    };
    let faulty = Arc::new(FaultyReader::new(fixture.buffered(), plan));
    let mut residency = fixture.open_with(6, 3, faulty);
    for turn in 0..12 {
        let mut lease = residency.lease(1, &[0, 1, 2, 3, 4, 5]).unwrap();
        if turn % 3 > 0 {
            let ready = lease.next().unwrap().unwrap();
            fixture.check(1, &ready);
        }
        drop(lease);
        if turn % 4 == 3 {
            residency.clear();
        }
    }
    fixture.take(&mut residency, 1, &[0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_record_cancelled_between_its_pieces_is_not_kept() {
    // Without checksums, which would notice.
    let fixture = Fixture::new(6, 1, 2, 3_000_000..3_000_001, Layout::Packed);
    let gate = Gate::new(fixture.buffered());
    let mut options = fixture.options(2);
    options.reader = ReaderChoice::Custom(Arc::clone(&gate) as Arc<dyn Reader>);
    options.read_threads = 1;
    options.verify = false;
    let mut residency = fixture.open(options);
    gate.set(false);
    let lease = residency.lease(1, &[0, 1]).unwrap();
    gate.wait_for(1);
    let opener = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        gate.set(true);
    });
    drop(lease);
    opener.join().unwrap();
    assert_eq!(
        (residency.stats().reads, residency.stats().resident),
        (1, 0)
    );
    fixture.take(&mut residency, 1, &[0, 1]);
}

#[test]
fn large_segments_are_read_in_pieces_cut_where_the_file_is_aligned() {
    struct Recording(Arc<dyn Reader>, Mutex<Vec<(u64, usize)>>);
    impl Reader for Recording {
        fn read(&self, file: u32, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.1.lock().unwrap().push((offset, out.len()));
            self.0.read(file, offset, out)
        }
        fn name(&self) -> String {
            "recording".into()
        }
        fn is_direct(&self) -> bool {
            false
        }
    }
    for layout in [Layout::Packed, Layout::Scattered] {
        let fixture = Fixture::new(21, 1, 1, 3_300_001..3_300_002, layout);
        let recording = Arc::new(Recording(fixture.buffered(), Mutex::default()));
        let mut residency = fixture.open_with(1, 1, Arc::clone(&recording) as Arc<dyn Reader>);
        fixture.take(&mut residency, 1, &[0]);
        let pieces = recording.1.lock().unwrap();
        let segments = &fixture.catalog.layers[&1][0].segments;
        let first = |offset: &u64| segments.iter().any(|segment| segment.offset == *offset);
        assert!(pieces.len() >= 4 * segments.len());
        assert!(
            pieces
                .iter()
                .all(|(offset, _)| offset % 4096 == 0 || first(offset))
        );
        assert!(pieces.iter().all(|(_, bytes)| *bytes <= 1 << 20));
    }
}

#[test]
fn a_leaked_lease_or_batch_does_no_harm() {
    let fixture = Fixture::small(8);
    let mut residency = fixture.open_with(3, 2, fixture.buffered());
    fixture.take(&mut residency, 1, &[0, 1]);
    let mut lease = residency.lease(1, &[0, 1, 2, 3, 4]).unwrap();
    std::mem::forget(lease.next().unwrap());
    let mut left = Vec::new();
    while let Some(ready) = lease.next().unwrap() {
        left.extend(fixture.check(1, &ready));
    }
    assert_eq!(left.len(), 3);
    drop(lease);
    std::mem::forget(residency.lease(1, &[5, 6, 7]).unwrap());
    fixture.take(&mut residency, 1, &[0, 5, 1, 6, 2, 7]);
}

#[test]
fn an_empty_lease_is_over_at_once() {
    let fixture = Fixture::small(2);
    let mut residency = fixture.open(fixture.options(2));
    assert!(fixture.take(&mut residency, 1, &[]).is_empty());
    assert_eq!(residency.stats().hit_rate(), 0.0);
}

#[test]
fn a_reader_that_panics_is_an_error() {
    struct Panics;
    impl Reader for Panics {
        fn read(&self, _file: u32, _offset: u64, _out: &mut [u8]) -> io::Result<()> {
            panic!("on purpose")
        }
        fn name(&self) -> String {
            "panics".into()
        }
        fn is_direct(&self) -> bool {
            false
        }
    }
    let fixture = Fixture::small(4);
    let mut residency = fixture.open_with(4, 2, Arc::new(Panics));
    for _ in 0..3 {
        let error = residency
            .lease(1, &[0, 1, 2])
            .unwrap()
            .next()
            .err()
            .unwrap();
        assert!(error.to_string().contains("panicked"), "{error}");
    }
}

#[test]
fn readers_agree_on_unaligned_records() {
    let fixture = Fixture::new(11, 2, 6, 1..2_500_000, Layout::Scattered);
    for kind in [ReaderKind::Uring, ReaderKind::Direct, ReaderKind::Buffered] {
        let mut options = fixture.options(5);
        options.reader = kind.into();
        let mut residency = fixture.open(options);
        fixture.take(&mut residency, 1, &[0, 1, 2, 3, 4, 5]);
        fixture.take(&mut residency, 3, &[5, 4, 3, 2, 1, 0]);
        let stats = residency.stats();
        assert_eq!(
            (stats.reader.as_str(), stats.verified),
            (name_here(kind).as_str(), 12)
        );
        assert_eq!(stats.direct, kind != ReaderKind::Buffered);
        assert_eq!(stats.bytes_read, fixture.catalog.total_bytes());
    }
}

#[test]
fn residency_and_batches_can_cross_threads() {
    fn crosses_threads<T: Send + Sync>() {}
    crosses_threads::<moeflux_experts::Residency>();
    crosses_threads::<moeflux_experts::Ready<'_>>();
    crosses_threads::<moeflux_experts::ExpertError>();
}
