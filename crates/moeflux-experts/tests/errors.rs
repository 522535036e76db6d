//! What goes wrong: messages, retries, and that the next lease works.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod common;

use std::error::Error;
use std::fs;
use std::io;
use std::sync::Arc;

use common::{Fixture, Layout, catalog_of};
use moeflux_experts::{
    Catalog, ExpertError, FaultPlan, FaultyReader, PolicyKind, ReaderChoice, ReaderKind, Residency,
    ResidencyOptions, Segment,
};

fn lease_error(residency: &mut Residency, experts: &[u32]) -> ExpertError {
    let mut lease = residency.lease(1, experts).unwrap();
    let error = loop {
        match lease.next() {
            Ok(Some(ready)) => drop(ready),
            Ok(None) => panic!("the lease succeeded"),
            Err(error) => break error,
        }
    };
    assert!(
        lease.next().unwrap().is_none(),
        "the rest of the lease is dropped"
    );
    error
}

/// A residency whose expert 3 fails as planned; all else is well.
fn with_plan(fixture: &Fixture, plan: FaultPlan) -> Residency {
    let plan = FaultPlan {
        only: Some(fixture.range(1, 3)),
        ..plan
    };
    fixture.open_with(6, 2, Arc::new(FaultyReader::new(fixture.buffered(), plan)))
}

#[test]
fn a_transient_flip_is_healed_and_a_persistent_one_is_corrupt() {
    let fixture = Fixture::new(2, 1, 6, 3_000_000..3_000_001, Layout::Packed);
    let flips = FaultPlan {
        flipped_bits: 1.0,
        ..FaultPlan::default()
    };

    let mut residency = with_plan(&fixture, flips.clone());
    fixture.take(&mut residency, 1, &[0, 1, 2, 3, 4, 5]);
    assert_eq!(
        (residency.stats().retries, residency.stats().verified),
        (1, 6)
    );

    let mut residency = with_plan(
        &fixture,
        FaultPlan {
            persistent: true,
            ..flips
        },
    );
    let error = lease_error(&mut residency, &[2, 3, 4]);
    let ExpertError::Corrupt {
        file,
        layer: 1,
        expert: 3,
        expected,
        found,
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(*file, fixture.catalog.files[1]);
    assert_eq!(Some(*expected), fixture.catalog.layers[&1][3].checksum);
    assert_ne!(expected, found);
    let message = error.to_string();
    for part in [
        "expert 3",
        "layer 1",
        "experts-1.bin",
        "corrupt",
        "pack the model again",
    ] {
        assert!(message.contains(part), "{message}");
    }
    // The others are unaffected, and expert 3 was not kept.
    fixture.take(&mut residency, 1, &[0, 1, 2, 4, 5]);
    assert!(matches!(
        lease_error(&mut residency, &[3]),
        ExpertError::Corrupt { expert: 3, .. }
    ));
    fixture.take(&mut residency, 1, &[5, 4, 2, 1, 0]);
}

#[test]
fn without_verify_nothing_is_verified() {
    let fixture = Fixture::small(4);
    let mut options = fixture.options(4);
    options.verify = false;
    let mut residency = fixture.open(options);
    fixture.take(&mut residency, 1, &[0, 1, 2, 3]);
    assert_eq!(residency.stats().verified, 0);
}

#[test]
fn read_errors_are_retried_once_and_then_typed() {
    let fixture = Fixture::new(4, 1, 6, 3_000_000..3_000_001, Layout::Packed);
    let errors = FaultPlan {
        errors: 1.0,
        ..FaultPlan::default()
    };
    let short = FaultPlan {
        short_reads: 1.0,
        ..FaultPlan::default()
    };
    for (plan, kind) in [
        (errors, io::ErrorKind::Other),
        (short, io::ErrorKind::UnexpectedEof),
    ] {
        let mut residency = with_plan(&fixture, plan.clone());
        fixture.take(&mut residency, 1, &[1, 2, 3, 4]);
        assert_eq!(
            residency.stats().retries,
            3,
            "each of the three pieces of expert 3 once"
        );

        let mut residency = with_plan(
            &fixture,
            FaultPlan {
                persistent: true,
                ..plan
            },
        );
        let error = lease_error(&mut residency, &[0, 1, 2, 3, 4, 5]);
        let message = error.to_string();
        assert!(message.contains("expert 3 of layer 1 from"), "{message}");
        assert!(error.source().is_some());
        let ExpertError::Read {
            source,
            expert: 3,
            layer: 1,
            ..
        } = error
        else {
            panic!("{message}");
        };
        assert_eq!(source.kind(), kind);
        fixture.take(&mut residency, 1, &[0, 1, 2, 4, 5]);
        assert_eq!(residency.stats().resident, 5);
    }
}

#[test]
fn missing_and_truncated_files_are_named_on_opening() {
    for kind in [
        ReaderKind::Auto,
        ReaderKind::Uring,
        ReaderKind::Direct,
        ReaderKind::Buffered,
    ] {
        let fixture = Fixture::small(6);
        let mut options = fixture.options(6);
        options.reader = kind.into();
        let open = || {
            Residency::open(fixture.catalog.clone(), options.clone())
                .err()
                .unwrap()
        };
        let file = &fixture.catalog.files[1];
        let bytes = fs::metadata(file).unwrap().len();
        fs::File::options()
            .write(true)
            .open(file)
            .unwrap()
            .set_len(bytes - 1)
            .unwrap();
        let error = open();
        assert!(
            error.to_string().contains("experts-1.bin is truncated"),
            "{error}"
        );
        assert!(matches!(error, ExpertError::Truncated { needed, found, .. }
            if needed == bytes && found == bytes - 1));
        fs::remove_file(file).unwrap();
        let error = open();
        assert!(matches!(&error, ExpertError::Open { file: missing, .. } if missing == file));
        assert!(error.to_string().contains("experts-1.bin"), "{error}");
    }
}

#[test]
fn an_arena_below_one_slot_says_what_is_needed() {
    let fixture = Fixture::small(6);
    let options = ResidencyOptions::new(4095);
    let error = Residency::open(fixture.catalog.clone(), options)
        .err()
        .unwrap();
    assert!(matches!(
        error,
        ExpertError::ArenaTooSmall {
            needed: 4096,
            given: 4095
        }
    ));
    assert!(
        error
            .to_string()
            .contains("needs 4096 bytes, but only 4095"),
        "{error}"
    );
}

#[test]
fn leases_of_what_is_not_there_change_nothing() {
    let fixture = Fixture::small(6);
    let mut residency = fixture.open(fixture.options(6));
    let mut message =
        |layer, experts: &[u32]| residency.lease(layer, experts).err().unwrap().to_string();
    assert_eq!(message(2, &[0]), "layer 2 has no experts in this model");
    assert_eq!(
        message(1, &[0, 6]),
        "layer 1 has 6 experts, so there is no expert 6"
    );
    assert_eq!(
        message(1, &[3, 0, 3]),
        "expert 3 of layer 1 is named twice in one lease"
    );
    assert_eq!(residency.stats().misses, 0);
    fixture.take(&mut residency, 1, &[3, 0]);
}

#[test]
fn bad_catalogs_are_refused() {
    let segment = Segment {
        file: 0,
        offset: 0,
        bytes: 10,
        slot_offset: 0,
    };
    let reason = |catalog: Catalog| catalog.validate().unwrap_err().to_string();
    assert!(reason(Catalog::default()).contains("no experts"));
    assert!(reason(catalog_of(&["a"], vec![])).contains("expert 0 of layer 0 has no segments"));
    let unknown = catalog_of(&["a"], vec![Segment { file: 1, ..segment }]);
    assert!(reason(unknown).contains("file number 1, but there are 1 files"));
    let impossible = [
        Segment {
            bytes: 0,
            ..segment
        },
        Segment {
            offset: u64::MAX,
            ..segment
        },
        Segment {
            slot_offset: u64::MAX,
            ..segment
        },
        Segment {
            bytes: u64::MAX,
            ..segment
        },
        Segment {
            slot_offset: u64::MAX / 2,
            ..segment
        },
    ];
    for segment in impossible {
        let catalog = catalog_of(&["a"], vec![segment]);
        assert!(catalog.slot_bytes() > 0 || segment.bytes == 0);
        assert!(reason(catalog).contains("impossible segment in a"));
    }
    let overlap = catalog_of(
        &["a"],
        vec![
            Segment {
                slot_offset: 9,
                ..segment
            },
            segment,
        ],
    );
    assert!(reason(overlap.clone()).contains("overlap"));
    let open = Residency::open(overlap, ResidencyOptions::new(1 << 20));
    assert!(matches!(open, Err(ExpertError::Catalog { .. })));
    let touching = catalog_of(
        &["a"],
        vec![
            Segment {
                slot_offset: 10,
                ..segment
            },
            segment,
        ],
    );
    touching.validate().unwrap();
    assert_eq!((touching.slot_bytes(), touching.total_bytes()), (4096, 20));
}

#[test]
fn names_round_trip_and_unknown_ones_list_the_known() {
    for name in ["auto", "uring", "direct", "buffered"] {
        assert_eq!(name.parse::<ReaderKind>().unwrap().to_string(), name);
    }
    for kind in PolicyKind::ALL {
        assert_eq!(kind.to_string().parse::<PolicyKind>().unwrap(), kind);
    }
    let message = "mmap".parse::<ReaderKind>().unwrap_err().to_string();
    assert_eq!(
        message,
        "there is no reader `mmap`; known: auto, uring, direct, buffered"
    );
    assert!(
        "fifo"
            .parse::<PolicyKind>()
            .unwrap_err()
            .to_string()
            .contains("lru, frequency, least-stale, pinned")
    );
    assert_eq!(format!("{:?}", ReaderChoice::default()), "Kind(Auto)");
}

#[cfg(target_os = "linux")]
#[test]
fn auto_falls_back_where_direct_reads_are_refused() {
    // Files of /proc cannot be opened with O_DIRECT.
    let catalog = catalog_of(
        &["/proc/self/environ"],
        vec![Segment {
            file: 0,
            offset: 0,
            bytes: 1,
            slot_offset: 0,
        }],
    );
    let reader = ReaderKind::Auto.open(&catalog.files).unwrap();
    assert_eq!(
        (reader.name().as_str(), reader.is_direct()),
        ("buffered", false)
    );
    let error = ReaderKind::Direct.open(&catalog.files).err().unwrap();
    assert!(matches!(error, ExpertError::DirectUnsupported { .. }));
    assert!(
        error
            .to_string()
            .contains("use the reader `auto` or `buffered`"),
        "{error}"
    );
}
