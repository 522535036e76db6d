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
fn names_of_keys_are_checked() {
    let one = || File::new(0, 1);
    let place = Place::KeyName(0);
    let limit = 65_535;
    for found in [65_536, u64::MAX] {
        let place = place.clone();
        let expected = P::StringTooLong {
            place,
            found,
            limit,
        };
        assert_eq!(parse(&one().u64(found).data(70_000).0), Err(expected));
    }
    let longest = "x".repeat(65_535);
    assert!(parse(&one().key(&longest, U8).bytes(&[1]).0).is_ok());
    let broken = one().u64(2).bytes(b"\xC3(").data(9);
    let expected = P::NotUtf8 {
        place: place.clone(),
    };
    assert_eq!(parse(&broken.0), Err(expected));
    assert_eq!(
        parse(&one().key("", U8).data(9).0),
        Err(P::EmptyName { place })
    );
    let once = File::new(0, 2).key("k", U8).bytes(&[1]);
    let expected = P::DuplicateKey { key: "k".into() };
    assert_eq!(parse(&once.key("k", BOOL).bytes(&[1]).0), Err(expected));
}

#[test]
fn values_are_checked() {
    let refused = |value_type: u32, value: &[u8]| {
        let file = File::new(0, 1).key("k", value_type).bytes(value);
        parse(&file.data(9).0).unwrap_err()
    };
    let place = || key("k");
    let (found, limit) = (u64::MAX, MAX_HEADER_BYTES);
    let long = P::StringTooLong {
        place: place(),
        found,
        limit,
    };
    assert_eq!(refused(STRING, &found.to_le_bytes()), long);
    assert_eq!(
        refused(STRING, &File(vec![]).u64(1).bytes(b"\xFF").0),
        P::NotUtf8 { place: place() }
    );
    for found in [13, u32::MAX] {
        assert_eq!(
            refused(found, &[]),
            P::UnknownValueType {
                place: place(),
                found
            }
        );
    }
    for found in [2, 255] {
        assert_eq!(
            refused(BOOL, &[found]),
            P::BadBool {
                place: place(),
                found
            }
        );
    }
}

#[test]
fn arrays_are_checked() {
    let refused = |element: u32, count: u64, elements: &[u8]| {
        let file = File::new(0, 1)
            .key("k", ARRAY)
            .u32(element)
            .u64(count)
            .bytes(elements);
        parse(&file.data(9).0).unwrap_err()
    };
    let place = || key("k");
    let (found, limit) = (u64::MAX, MAX_HEADER_BYTES);
    for element in [U8, U32, BOOL, STRING, ARRAY, 13] {
        let expected = P::ArrayTooLong {
            place: place(),
            found,
            limit,
        };
        assert_eq!(refused(element, found, &[]), expected);
    }
    assert_eq!(
        refused(ARRAY, 1, &[0; 12]),
        P::NestedArray { place: place() }
    );
    assert_eq!(
        refused(77, 0, &[]),
        P::UnknownValueType {
            place: place(),
            found: 77
        }
    );
    assert_eq!(
        refused(BOOL, 3, &[0, 1, 7]),
        P::BadBool {
            place: place(),
            found: 7
        }
    );
    // Halves of a character in two strings are two broken strings.
    let halves = File(vec![]).u64(1).bytes(b"\xC3").u64(1).bytes(b"\xA4").0;
    assert_eq!(refused(STRING, 2, &halves), P::NotUtf8 { place: place() });
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
