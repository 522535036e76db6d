//! GGUF headers whose tensors are wrong, and changed bytes.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests too

#[path = "common/gguf_file.rs"]
mod gguf_file;

use gguf_file::{F32, File, Q4_K, U32, assert_consistent, parse, valid};
use moeflux_formats::gguf::{GgufProblem as P, Place};
use moeflux_formats::{BlockCodec, DType};
use proptest::prelude::*;

#[test]
fn the_alignment_is_checked() {
    let aligned = |value_type: u32, value: &[u8]| {
        let file = File::new(1, 1)
            .key("general.alignment", value_type)
            .bytes(value);
        parse(&file.tensor("t", &[1], F32, 0).data(64).0)
    };
    assert!(aligned(U32, &8_u32.to_le_bytes()).is_ok());
    for (value_type, value, found) in [
        (U32, 0_u64, "0"),
        (U32, 24, "24"),
        (10, 32, "of type u64"),
        (5, 32, "of type i32"),
    ] {
        let bytes = if value_type == 10 { 8 } else { 4 };
        let error = aligned(value_type, &value.to_le_bytes()[..bytes]).unwrap_err();
        assert_eq!(
            error,
            P::Alignment {
                found: found.into()
            }
        );
    }
    // The largest one pushes the data behind the end of the file.
    let error = aligned(U32, &(1_u32 << 31).to_le_bytes()).unwrap_err();
    assert!(
        matches!(
            error,
            P::DataTruncated {
                needed: 0x8000_0004,
                ..
            }
        ),
        "{error}"
    );
}

/// What is wrong with a file of one tensor, which is called `t`, and 4,096 bytes of data.
fn refused(sizes: &[u64], tensor_type: u32, offset: u64) -> P {
    let file = File::new(1, 0).tensor("t", sizes, tensor_type, offset);
    parse(&file.data(4096).0).unwrap_err()
}

#[test]
fn shapes_are_checked() {
    let tensor = || "t".to_owned();
    for (sizes, found) in [(&[][..], 0), (&[1; 5], 5)] {
        assert_eq!(
            refused(sizes, F32, 0),
            P::Rank {
                tensor: tensor(),
                found
            }
        );
    }
    for dimension in 0..4 {
        let mut sizes = [1; 4];
        sizes[dimension] = 0;
        let expected = P::ZeroDimension {
            tensor: tensor(),
            dimension,
        };
        assert_eq!(refused(&sizes, F32, 0), expected);
    }
    for (sizes, tensor_type) in [([1 << 33, 1 << 31], F32), ([u64::MAX - 255, 3], Q4_K)] {
        let shape = vec![sizes[1], sizes[0]];
        let expected = P::TensorTooLarge {
            tensor: tensor(),
            shape,
        };
        assert_eq!(refused(&sizes, tensor_type, 0), expected);
    }
    let expected = P::RowLength {
        tensor: tensor(),
        dtype: DType::Block(BlockCodec::Q4K),
        cols: 384,
        block: 256,
    };
    assert_eq!(refused(&[384, 2], Q4_K, 0), expected);
}

#[test]
fn places_are_checked() {
    let tensor = || "t".to_owned();
    let (offset, alignment) = (8, 32);
    let expected = P::Misaligned {
        tensor: tensor(),
        offset,
        alignment,
    };
    assert_eq!(refused(&[4], F32, offset), expected);
    let found = 64 + 4096;
    for (offset, needed) in [(4096, found + 16), (u64::MAX - 31, u64::MAX)] {
        let expected = P::DataTruncated {
            tensor: tensor(),
            needed,
            found,
        };
        assert_eq!(refused(&[4], F32, offset), expected);
    }
    // The second tensor of nine elements ends behind the first's start, or starts where it does.
    for (first, second, overlap) in [(32, 0, ["u", "t"]), (0, 0, ["t", "u"])] {
        let file = File::new(2, 0)
            .tensor("t", &[4], F32, first)
            .tensor("u", &[9], F32, second);
        let [first, second] = overlap.map(str::to_owned);
        assert_eq!(parse(&file.data(64).0), Err(P::Overlap { first, second }));
    }
}

#[test]
fn names_of_tensors_are_checked() {
    let file = File::new(1, 0).tensor("", &[4], F32, 0);
    let place = Place::TensorName(0);
    assert_eq!(parse(&file.data(64).0), Err(P::EmptyName { place }));
    let file = File::new(2, 0)
        .tensor("t", &[4], F32, 0)
        .tensor("t", &[4], F32, 32);
    let tensor = "t".to_owned();
    assert_eq!(parse(&file.data(64).0), Err(P::DuplicateTensor { tensor }));
}

#[test]
fn types_that_are_not_supported_are_named_with_those_that_are() {
    for (number, name) in [
        (16, "IQ2_XXS (16)"),
        (40, "NVFP4 (40)"),
        (777, "an unknown type (777)"),
    ] {
        let file = File::new(1, 0)
            .tensor("blk.0.ffn_up", &[256], number, 0)
            .data(999);
        let message = parse(&file.0).unwrap_err().to_string();
        for part in [
            "blk.0.ffn_up",
            name,
            "F32, F16, BF16, Q4_0, Q4_1,",
            "IQ4_XS and MXFP4",
        ] {
            assert!(message.contains(part), "{message}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_change_of_bytes_makes_a_header_that_lies(
        changes in prop::collection::vec((0_usize..400, any::<u8>()), 1..6),
        cut in 0_usize..800,
    ) {
        let mut file = valid().0;
        for (place, byte) in changes {
            file[place] = byte;
        }
        file.truncate(file.len().min(cut.max(200)));
        if let Ok(header) = parse(&file) {
            assert_consistent(&header, file.len() as u64);
        }
    }
}
