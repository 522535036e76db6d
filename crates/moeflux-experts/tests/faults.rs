//! A disk that misbehaves, on every engine: the error says what and where, what else was asked for
//! is not harmed, and what comes later works.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod common;

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use common::{Fixture, Layout};
use moeflux_experts::{ExpertError, FaultPlan, ReaderChoice, ReaderKind, Residency};

const KINDS: [ReaderKind; 3] = [ReaderKind::Uring, ReaderKind::Direct, ReaderKind::Buffered];

fn open(fixture: &Fixture, kind: ReaderKind, plan: FaultPlan) -> Residency {
    let mut options = fixture.options(6);
    options.reader = ReaderChoice::Faulty(kind, plan);
    options.read_threads = 4;
    fixture.open(options)
}

/// Takes a lease to its error.
fn error_of(residency: &mut Residency, experts: &[u32]) -> ExpertError {
    let mut lease = match residency.lease(1, experts) {
        Ok(lease) => lease,
        Err(error) => return error,
    };
    loop {
        match lease.next() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the lease succeeded"),
            Err(error) => return error,
        }
    }
}

#[test]
fn errors_short_reads_and_flips_are_healed_by_a_second_try() {
    let fixture = Fixture::new(2, 1, 6, 2_500_000..2_500_001, Layout::Scattered);
    let faults = [
        FaultPlan {
            errors: 1.0,
            ..FaultPlan::default()
        },
        FaultPlan {
            short_reads: 1.0,
            ..FaultPlan::default()
        },
        FaultPlan {
            flipped_bits: 1.0,
            ..FaultPlan::default()
        },
    ];
    for kind in KINDS {
        for plan in &faults {
            let mut residency = open(&fixture, kind, plan.clone());
            fixture.take(&mut residency, 1, &[0, 1, 2, 3, 4, 5]);
            let stats = residency.stats();
            assert!(stats.retries >= 6, "{kind} {plan:?}");
            assert_eq!(stats.verified, 6);
            assert!(stats.reader.starts_with("faulty "), "{}", stats.reader);
        }
    }
}

#[test]
fn errors_that_stay_are_typed_and_concern_their_record_only() {
    let fixture = Fixture::new(4, 1, 6, 2_500_000..2_500_001, Layout::Packed);
    let lasting = FaultPlan {
        persistent: true,
        only: Some(fixture.range(1, 3)),
        ..FaultPlan::default()
    };
    let cases = [
        (
            FaultPlan {
                errors: 1.0,
                ..lasting.clone()
            },
            Some(io::ErrorKind::Other),
        ),
        (
            FaultPlan {
                short_reads: 1.0,
                ..lasting.clone()
            },
            Some(io::ErrorKind::UnexpectedEof),
        ),
        (
            FaultPlan {
                flipped_bits: 1.0,
                ..lasting
            },
            None,
        ),
    ];
    for kind in KINDS {
        for (plan, expected) in &cases {
            let mut residency = open(&fixture, kind, plan.clone());
            match (error_of(&mut residency, &[0, 1, 2, 3, 4, 5]), expected) {
                (
                    ExpertError::Read {
                        expert: 3, source, ..
                    },
                    Some(expected),
                ) => {
                    assert_eq!(source.kind(), *expected);
                }
                (ExpertError::Corrupt { expert: 3, .. }, None) => {}
                (other, _) => panic!("{kind}: {other}"),
            }
            fixture.take(&mut residency, 1, &[0, 1, 2, 4, 5]);
        }
    }
}

#[test]
fn a_stalled_record_does_not_hold_up_the_others() {
    let fixture = Fixture::new(6, 1, 6, 500_000..500_001, Layout::Packed);
    const STALL: Duration = Duration::from_millis(500);
    for kind in KINDS {
        let plan = FaultPlan {
            stalls: 1.0,
            stall: STALL,
            only: Some(fixture.range(1, 0)),
            ..FaultPlan::default()
        };
        let mut residency = open(&fixture, kind, plan);
        let batches = fixture.take(&mut residency, 1, &[0, 1, 2, 3, 4, 5]);
        assert_eq!(
            batches.last().unwrap(),
            &[0],
            "{kind}: the stalled one comes last"
        );
        assert!(batches.len() > 1, "{kind}");
        assert!(Duration::from_micros(residency.stats().wait_us_total) >= STALL / 2);
        assert_eq!(residency.stats().retries, 0, "slow is not wrong");
    }
}

#[test]
fn a_stalled_read_ahead_of_use_does_not_hold_up_who_waits() {
    // Layer 3 is guessed, and its expert 0 stalls; one request in flight is all that leases get.
    let fixture = Fixture::new(6, 2, 6, 500_000..500_001, Layout::Packed);
    for kind in KINDS {
        let plan = FaultPlan {
            stalls: 1.0,
            stall: Duration::from_millis(1500),
            only: Some(fixture.range(3, 0)),
            ..FaultPlan::default()
        };
        let mut options = fixture.options(9);
        options.reader = ReaderChoice::Faulty(kind, plan);
        options.read_threads = 1;
        let mut residency = fixture.open(options);
        residency.ahead(3, [0]);
        std::thread::sleep(Duration::from_millis(50));
        fixture.take(&mut residency, 1, &[0, 1, 2, 3]);
        let stats = residency.stats();
        assert_eq!(stats.resident, 4, "{kind}: the guess is still on its way");
        fixture.take(&mut residency, 3, &[0]);
        assert_eq!(residency.stats().resident, 5);
    }
}

#[test]
fn a_disk_that_goes_away_is_an_error_until_it_is_back() {
    let fixture = Fixture::new(9, 1, 6, 500_000..500_001, Layout::Packed);
    for kind in KINDS {
        // Away from the third read to the thirteenth.
        let plan = FaultPlan {
            away: 2..12,
            ..FaultPlan::default()
        };
        let mut residency = open(&fixture, kind, plan);
        fixture.take(&mut residency, 1, &[0, 1]);
        let mut errors = 0;
        let start = Instant::now();
        loop {
            let mut lease = residency.lease(1, &[1, 2, 3]).unwrap();
            let result = loop {
                match lease.next() {
                    Ok(Some(ready)) => drop(fixture.check(1, &ready)),
                    other => break other.map(|_| ()),
                }
            };
            match result {
                Ok(()) => break,
                Err(ExpertError::Read { layer: 1, .. }) => errors += 1,
                Err(other) => panic!("{kind}: {other}"),
            }
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "{kind}: never back"
            );
        }
        assert!(errors > 0, "{kind}");
        fixture.take(&mut residency, 1, &[0, 1, 2, 3, 4, 5]);
    }
}

#[test]
fn a_file_that_was_cut_has_changed() {
    for kind in KINDS {
        let fixture = Fixture::small(6);
        let mut residency = open_plain(&fixture, kind);
        fixture.take(&mut residency, 1, &[0, 1]);
        let file = &fixture.catalog.files[1];
        let (_, range) = fixture.range(1, 4);
        let handle = fs::File::options().write(true).open(file).unwrap();
        handle.set_len(range.start + 100).unwrap();
        let error = error_of(&mut residency, &[4]);
        assert!(
            matches!(&error, ExpertError::Changed { file: at, .. } if at == file),
            "{error}"
        );
        let message = error.to_string();
        for part in [
            "experts-1.bin",
            "its length is another",
            "load the model again",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn a_checksum_that_fails_because_the_file_was_written_to_says_that() {
    use std::os::unix::fs::FileExt;
    for kind in KINDS {
        let fixture = Fixture::small(6);
        let mut residency = open_plain(&fixture, kind);
        let (_, range) = fixture.range(1, 4);
        std::thread::sleep(Duration::from_millis(20));
        let file = fs::File::options()
            .write(true)
            .open(&fixture.catalog.files[1])
            .unwrap();
        file.write_all_at(&[0x55; 100], range.start).unwrap();
        let error = error_of(&mut residency, &[4]);
        let ExpertError::Changed { what, .. } = error else {
            panic!("{kind}: {error}")
        };
        assert_eq!(what, "it was written to");
    }
}

#[test]
fn a_file_with_another_in_its_place_is_noticed_within_a_second() {
    let fixture = Fixture::small(6);
    let mut residency = open_plain(&fixture, ReaderKind::Direct);
    let file = &fixture.catalog.files[1];
    let (kept, other) = (file.with_extension("kept"), file.with_extension("other"));
    fs::copy(file, &other).unwrap();
    fs::rename(file, &kept).unwrap();
    // Gone is not changed: what is open stays whole.
    fixture.take(&mut residency, 1, &[0, 1]);
    std::thread::sleep(Duration::from_millis(1100));
    fixture.take(&mut residency, 1, &[2]);
    fs::rename(&other, file).unwrap();
    std::thread::sleep(Duration::from_millis(1100));
    for _ in 0..2 {
        let error = residency.lease(1, &[0]).err().unwrap();
        let ExpertError::Changed { what, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(what, "another file has its name");
    }
    fs::rename(&kept, file).unwrap();
    fixture.take(&mut residency, 1, &[0, 1, 2, 3, 4, 5]);
}

fn open_plain(fixture: &Fixture, kind: ReaderKind) -> Residency {
    let mut options = fixture.options(6);
    options.reader = kind.into();
    fixture.open(options)
}
