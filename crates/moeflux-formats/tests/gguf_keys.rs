//! GGUF headers whose start or keys are wrong: each kind of damage has an error of its own.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests too

#[path = "common/gguf_file.rs"]
mod gguf_file;

use std::path::Path;

use gguf_file::{ARRAY, BOOL, File, STRING, U8, U32, parse, valid};
use moeflux_formats::FormatError;
use moeflux_formats::gguf::{
    GgufProblem as P, MAX_HEADER_BYTES, MAX_KEYS, MAX_TENSORS, Place, parse_header,
};

fn key(name: &str) -> Place {
    Place::Key(name.to_owned())
}

#[test]
fn a_valid_header_is_read() {
    let file = valid().0;
    let header = parse(&file).unwrap();
    let [first, second] = header.tensors.as_slice() else {
        panic!("two tensors")
    };
    assert_eq!(
        (first.name.as_str(), first.shape.as_slice()),
        ("first", [3, 4].as_slice())
    );
    assert_eq!(
        (second.name.as_str(), second.shape.as_slice()),
        ("second", [2, 256].as_slice())
    );
    assert_eq!((first.offset, first.bytes), (header.data_start, 48));
    assert_eq!((second.offset, second.bytes), (header.data_start + 64, 288));
    assert_eq!(second.offset + second.bytes, file.len() as u64);
    assert_eq!(header.metadata.string("general.name").unwrap(), "small");
}

#[test]
fn a_file_cut_anywhere_is_said_to_be_truncated() {
    let file = valid().0;
    for length in 0..file.len() {
        match parse(&file[..length]).unwrap_err() {
            P::Truncated { needed, found, .. } | P::DataTruncated { needed, found, .. } => {
                assert_eq!(found, length as u64);
                assert!(needed > found && needed <= file.len() as u64);
            }
            other => panic!("cut at {length}: {other}"),
        }
    }
}

#[test]
fn the_start_is_checked() {
    let file = valid().0;
    let with = |place: usize, bytes: &[u8]| {
        let mut file = file.clone();
        file[place..place + bytes.len()].copy_from_slice(bytes);
        parse(&file).unwrap_err()
    };
    assert_eq!(with(0, b"GGML"), P::Magic { found: *b"GGML" });
    assert_eq!(with(4, &3_u32.to_be_bytes()), P::BigEndian);
    for found in [0, 1, 4, u32::MAX] {
        assert_eq!(with(4, &found.to_le_bytes()), P::Version { found });
    }
    let (found, huge) = (u64::MAX, u64::MAX.to_le_bytes());
    let (what, limit) = ("tensors", MAX_TENSORS);
    assert_eq!(with(8, &huge), P::TooMany { what, found, limit });
    let (what, limit) = ("keys", MAX_KEYS);
    assert_eq!(with(16, &huge), P::TooMany { what, found, limit });
    // Counts that are possible, but not in this file.
    for place in [8, 16] {
        let found = with(place, &60_000_u64.to_le_bytes());
        assert!(
            matches!(
                found,
                P::Truncated {
                    place: Place::Start,
                    ..
                }
            ),
            "{found}"
        );
    }
}

#[test]
fn keys_are_checked() {
    let one = || File::new(0, 1);
    let long = |bytes: usize| "x".repeat(bytes);
    let place = || key("k");
    let (found, limit) = (u64::MAX, MAX_HEADER_BYTES);
    let cases = [
        (
            one().u64(1 << 40).data(99),
            P::StringTooLong {
                place: Place::KeyName(0),
                found: 1 << 40,
                limit: 65_535,
            },
        ),
        (
            one().string(&long(65_536)).data(99),
            P::StringTooLong {
                place: Place::KeyName(0),
                found: 65_536,
                limit: 65_535,
            },
        ),
        (
            one().key("", U8).data(9),
            P::EmptyName {
                place: Place::KeyName(0),
            },
        ),
        (
            one().u64(2).bytes(b"\xC3(").data(9),
            P::NotUtf8 {
                place: Place::KeyName(0),
            },
        ),
        (
            one().key("k", STRING).u64(u64::MAX).data(9),
            P::StringTooLong {
                place: place(),
                found,
                limit,
            },
        ),
        (
            one().key("k", STRING).u64(2).bytes(b"\xFF\xFE").data(9),
            P::NotUtf8 { place: place() },
        ),
        (
            one().key("k", 13).data(9),
            P::UnknownValueType {
                place: place(),
                found: 13,
            },
        ),
        (
            one().key("k", BOOL).bytes(&[2]).data(9),
            P::BadBool {
                place: place(),
                found: 2,
            },
        ),
        (
            one().key("k", ARRAY).u32(U8).u64(u64::MAX).data(9),
            P::ArrayTooLong {
                place: place(),
                found,
                limit,
            },
        ),
        (
            one()
                .key("k", ARRAY)
                .u32(ARRAY)
                .u64(1)
                .u32(U8)
                .u64(0)
                .data(9),
            P::NestedArray { place: place() },
        ),
        (
            one().key("k", ARRAY).u32(77).u64(0).data(9),
            P::UnknownValueType {
                place: place(),
                found: 77,
            },
        ),
        (
            one()
                .key("k", ARRAY)
                .u32(BOOL)
                .u64(3)
                .bytes(&[0, 1, 7])
                .data(9),
            P::BadBool {
                place: place(),
                found: 7,
            },
        ),
        // Halves of a character in two strings are two broken strings.
        (
            one()
                .key("k", ARRAY)
                .u32(STRING)
                .u64(2)
                .u64(1)
                .bytes(b"\xC3")
                .u64(1)
                .bytes(b"\xA4"),
            P::NotUtf8 { place: place() },
        ),
        (
            File::new(0, 2)
                .key("k", U8)
                .bytes(&[1])
                .key("k", U8)
                .bytes(&[1]),
            P::DuplicateKey { key: "k".into() },
        ),
    ];
    for (file, expected) in cases {
        assert_eq!(parse(&file.0).unwrap_err(), expected);
    }
}

/// Counts of elements that are possible, but not in this file, allocate nothing.
#[test]
fn arrays_longer_than_the_file_are_truncated() {
    for (element, bytes) in [(U8, 1), (U32, 4), (BOOL, 1), (12, 8), (STRING, 8)] {
        let file = File::new(0, 1)
            .key("k", ARRAY)
            .u32(element)
            .u64(MAX_HEADER_BYTES);
        let read = file.0.len() as u64;
        let found = parse(&file.clone().data(9).0).unwrap_err();
        let expected = P::Truncated {
            place: key("k"),
            needed: read + MAX_HEADER_BYTES * bytes,
            found: file.data(9).0.len() as u64,
        };
        assert_eq!(found, expected, "elements of type {element}");
    }
}

/// A file that is long enough for what its header claims, and a header beyond the limit.
#[test]
fn a_header_beyond_the_limit_is_refused_before_it_is_read() {
    let file = File::new(0, 1)
        .key("k", ARRAY)
        .u32(U32)
        .u64(MAX_HEADER_BYTES / 4)
        .0;
    let error = parse_header(file.as_slice(), 1 << 40, Path::new("model.gguf")).unwrap_err();
    let (place, limit) = (key("k"), MAX_HEADER_BYTES);
    let expected = P::TooLarge { place, limit };
    assert!(
        matches!(&error, FormatError::Gguf { problem, .. } if *problem == expected),
        "{error}"
    );
}
