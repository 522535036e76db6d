//! Every reader delivers the same bytes, at every depth, however the segments lie; and what a
//! residency says about its reader.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod common;

use std::fs;

use common::{Fixture, Layout, catalog_of, name_here, uring_works};
use moeflux_experts::{
    Catalog, DiskPoint, DiskProfile, PolicyKind, ReaderKind, Record, Residency, ResidencyOptions,
    Segment,
};
use proptest::prelude::*;

const KINDS: [ReaderKind; 3] = [ReaderKind::Uring, ReaderKind::Direct, ReaderKind::Buffered];

fn profile(reader: ReaderKind, depth: usize, piece_bytes: u64) -> DiskProfile {
    let point = DiskPoint {
        reader,
        depth,
        piece_bytes,
        bytes_per_second: 1e9,
        latency_us: 1e3,
    };
    DiskProfile {
        device: "a test's".into(),
        reader,
        depth,
        piece_bytes,
        bytes_per_second: 1e9,
        latency_us: 1e3,
        points: vec![point],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    /// Segments at odd offsets, of odd lengths, at odd places in the slot.
    #[test]
    fn every_reader_delivers_the_files_bytes(
        file_bytes in 1usize..300_000,
        parts in prop::collection::vec((any::<u32>(), 1u64..150_000, 0u64..700, any::<bool>()), 1..7),
        depth in 1usize..9,
        piece in 1u64..40_000,
    ) {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let path = dir.path().join("experts.bin");
        let content: Vec<u8> = (0..file_bytes).map(|at| (at * 31 + at / 509) as u8).collect();
        fs::write(&path, &content).unwrap();
        let mut place = 0;
        let mut segments = Vec::new();
        for (at, bytes, gap, congruent) in parts {
            let offset = u64::from(at) % file_bytes as u64;
            let bytes = bytes.min(file_bytes as u64 - offset);
            place += gap;
            if congruent {
                // As the file is aligned, so that whole blocks go straight to the slot.
                place = place.next_multiple_of(512) + offset % 512;
            }
            segments.push(Segment { file: 0, offset, bytes, slot_offset: place });
            place += bytes;
        }
        let mut catalog = catalog_of(&[], segments.clone());
        catalog.files.push(path);
        for kind in KINDS {
            let mut options = ResidencyOptions::new(catalog.slot_bytes());
            options.reader = kind.into();
            options.read_threads = depth;
            if kind != ReaderKind::Buffered {
                options.profile = Some(profile(kind, depth, piece));
            }
            let mut residency = Residency::open(catalog.clone(), options).unwrap();
            let mut lease = residency.lease(0, &[0]).unwrap();
            let ready = lease.next().unwrap().unwrap();
            let (_, bytes) = ready.iter().next().unwrap();
            for segment in &segments {
                let (from, at) = (segment.offset as usize, segment.slot_offset as usize);
                let len = segment.bytes as usize;
                prop_assert!(bytes[at..at + len] == content[from..from + len], "{}", kind);
            }
        }
    }
}

#[test]
fn readers_agree_on_any_range() {
    let fixture = Fixture::new(4, 1, 1, 9_000_000..9_000_001, Layout::Packed);
    let content = fs::read(&fixture.catalog.files[1]).unwrap();
    let mut memory = vec![0; 9_000_000];
    for kind in KINDS {
        let reader = kind.open(&fixture.catalog.files).unwrap();
        // Longer than one request, too.
        for (offset, len) in [
            (0, 1),
            (4095, 2),
            (513, 4096),
            (8192, 8192),
            (77, 8_999_000),
        ] {
            for place in [0, 1, offset % 512] {
                let out = &mut memory[place..place + len];
                reader.read(1, offset as u64, out).unwrap();
                assert!(
                    *out == content[offset..offset + len],
                    "{kind} {offset} {len}"
                );
            }
        }
        let end = content.len() as u64;
        assert!(reader.read(1, end - 10, &mut [0; 11]).is_err(), "{kind}");
        assert!(reader.read(2, 0, &mut [0; 1]).is_err(), "{kind}");
    }
}

#[test]
fn leases_are_the_same_at_every_depth() {
    let fixture = Fixture::new(31, 2, 12, 1..1_500_000, Layout::Scattered);
    for kind in KINDS {
        for depth in [1, 2, 3, 8, 32] {
            let mut options = fixture.options(9);
            options.policy = PolicyKind::Lru;
            options.reader = kind.into();
            options.read_threads = depth;
            let mut residency = fixture.open(options);
            for layer in [1, 3, 1] {
                fixture.take(&mut residency, layer, &[11, 3, 0, 7, 1, 10, 2, 5]);
            }
            let stats = residency.stats();
            assert_eq!((stats.depth, stats.reader), (depth, name_here(kind)));
            assert_eq!((stats.retries, stats.verified), (0, 16));
        }
    }
}

#[test]
fn a_profile_decides_what_auto_is_and_scales_to_the_records() {
    let fixture = Fixture::new(3, 1, 8, 262_144..262_145, Layout::Packed);
    let open = |kind: ReaderKind, profile| {
        let mut options = fixture.options(8);
        options.reader = kind.into();
        options.profile = Some(profile);
        let mut residency = fixture.open(options);
        fixture.take(&mut residency, 1, &[0, 1, 2, 3, 4, 5, 6, 7]);
        residency.stats()
    };
    let stats = open(ReaderKind::Auto, profile(ReaderKind::Direct, 3, 128 << 10));
    assert_eq!((stats.reader.as_str(), stats.depth), ("direct", 3));
    assert_eq!((stats.piece_bytes, stats.reads), (128 << 10, 16));
    // Records shorter than the pieces: more of them, for as many bytes in flight.
    let stats = open(ReaderKind::Auto, profile(ReaderKind::Uring, 2, 1 << 20));
    assert_eq!(
        (stats.reader, stats.depth),
        (name_here(ReaderKind::Uring), 8)
    );
    // A reader asked for by name is used; it was not measured here.
    let stats = open(ReaderKind::Direct, profile(ReaderKind::Uring, 2, 1 << 20));
    assert_eq!((stats.reader.as_str(), stats.depth), ("direct", 8));
}

#[test]
fn small_files_are_read_through_the_page_cache_and_it_says_so() {
    let fixture = Fixture::small(4);
    let residency = fixture.open(fixture.options(4));
    let stats = residency.stats();
    assert_eq!((stats.reader.as_str(), stats.direct), ("buffered", false));
    assert!(stats.reader_note.unwrap().contains("page cache"));
}

/// A file of holes, which takes no room.
fn large_file(dir: &tempfile::TempDir) -> std::path::PathBuf {
    let path = dir.path().join("large.bin");
    fs::File::create(&path).unwrap().set_len(96 << 20).unwrap();
    path
}

#[test]
fn large_files_are_read_around_the_page_cache() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let segment = Segment {
        file: 0,
        offset: 5 << 20,
        bytes: 1 << 20,
        slot_offset: 0,
    };
    let catalog = Catalog {
        files: vec![large_file(&dir)],
        layers: [(
            0,
            vec![Record {
                segments: vec![segment],
                checksum: None,
            }],
        )]
        .into(),
        prepare: None,
    };
    let residency = Residency::open(catalog, ResidencyOptions::new(1 << 20)).unwrap();
    let stats = residency.stats();
    assert_eq!(stats.reader, name_here(ReaderKind::Uring));
    assert!(stats.direct);
    assert_eq!(stats.reader_note.is_none(), uring_works());
}
