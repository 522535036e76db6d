//! Codecs against an independent implementation, and their round trips.

#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests too

use std::path::Path;

use moeflux_formats::{
    AffineCodec, Checkpoint, Codec, CodecError, Encoded, FormatError, decode, encode,
};
use proptest::prelude::*;

const BITS: [u32; 6] = [2, 3, 4, 5, 6, 8];
const GROUPS: [usize; 3] = [32, 64, 128];

fn affine(bits: u32, group: usize) -> Codec {
    Codec::Affine(AffineCodec::new(bits, group).unwrap())
}

fn bytes(checkpoint: &Checkpoint, name: &str) -> Vec<u8> {
    let info = checkpoint.require(name).unwrap();
    let mut out = vec![0; info.bytes as usize];
    checkpoint.read(info, 0, &mut out).unwrap();
    out
}

fn squared_error(a: &[f32], b: &[f32]) -> f64 {
    a.iter()
        .zip(b)
        .map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2))
        .sum()
}

/// `tools/goldens/codecs/make_affine.py` made the fixture, and MLX decodes it to the same values.
#[test]
fn affine_decodes_as_an_independent_implementation() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/affine.safetensors");
    let fixture = Checkpoint::open_files(vec![path]).unwrap();
    for (bits, group) in BITS
        .into_iter()
        .flat_map(|bits| GROUPS.map(|group| (bits, group)))
    {
        let name = |part: &str| format!("b{bits}-g{group}.{part}");
        let shape = fixture.require(&name("values")).unwrap().shape.clone();
        let (rows, cols) = (shape[0], shape[1]);
        let values = fixture.read_f32(&name("values"), &shape).unwrap();
        let expected = fixture.read_f32(&name("decoded"), &shape).unwrap();
        let encoded = Encoded {
            weights: bytes(&fixture, &name("weight")),
            scales: bytes(&fixture, &name("scales")),
            biases: bytes(&fixture, &name("biases")),
        };
        let codec = affine(bits, group);
        assert_eq!(
            decode(codec, &encoded, rows, cols).unwrap(),
            expected,
            "{codec}"
        );

        // Ours tries the reference's fit among others, so it must not be worse.
        let ours = encode(codec, &values, rows, cols).unwrap();
        let ours = decode(codec, &ours, rows, cols).unwrap();
        let (ours, theirs) = (
            squared_error(&values, &ours),
            squared_error(&values, &expected),
        );
        assert!(
            ours <= theirs * 1.000_01,
            "{codec}: {ours} against {theirs}"
        );
    }
}

fn groups(count: usize) -> impl Strategy<Value = Vec<f32>> {
    let magnitude = prop_oneof![
        Just(1e-30_f32),
        Just(1e-3),
        Just(1.0),
        Just(1e4),
        Just(1e30)
    ];
    let offset = prop_oneof![Just(0.0_f32), Just(0.7), Just(-3.0)];
    let values = prop::collection::vec(-1.0_f32..1.0, count);
    (values, magnitude, offset).prop_map(|(mut values, magnitude, offset)| {
        values
            .iter_mut()
            .for_each(|value| *value = (*value + offset) * magnitude);
        values
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// The squared error of a group is at most that of half a step everywhere, plus what rounding
    /// scale and bias to bf16 costs.
    #[test]
    fn affine_round_trip_is_within_half_a_step(
        bits in prop::sample::select(&BITS[..]),
        group in prop::sample::select(&GROUPS[..]),
        mut values in groups(2 * 256),
    ) {
        // As in checkpoints: the values are bf16, so least and largest are exact.
        let (rows, cols) = (2, 256);
        let bf16 = encode(Codec::Bf16, &values, rows, cols).unwrap();
        values = decode(Codec::Bf16, &bf16, rows, cols).unwrap();
        let codec = affine(bits, group);
        let encoded = encode(codec, &values, rows, cols).unwrap();
        let decoded = decode(codec, &encoded, rows, cols).unwrap();
        for (values, decoded) in values.chunks(group).zip(decoded.chunks(group)) {
            let least = values.iter().copied().fold(f32::INFINITY, f32::min);
            let most = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let range = f64::from(most) - f64::from(least);
            let half_step = range / f64::from((1_u32 << bits) - 1) / 2.0;
            let bound = half_step + range / 256.0 + f64::from(f32::EPSILON * most.abs());
            // In units of the range: squares of the smallest would underflow in f32, not in f64.
            prop_assert!(
                squared_error(values, decoded) <= bound * bound * group as f64,
                "{} of {bound} in {codec}: {values:?}", squared_error(values, decoded).sqrt()
            );
        }
    }

    #[test]
    fn affine_values_on_a_grid_are_exact(
        bits in prop::sample::select(&BITS[..]),
        codes in prop::collection::vec(any::<u8>(), 64),
    ) {
        let levels = ((1_u32 << bits) - 1) as u8;
        let value = |code: u8| f32::from(code & levels) * 0.25 - 2.0;
        let mut values: Vec<f32> = codes.into_iter().map(value).collect();
        (values[0], values[63]) = (value(0), value(levels));
        let codec = affine(bits, 64);
        let encoded = encode(codec, &values, 1, 64).unwrap();
        prop_assert_eq!(decode(codec, &encoded, 1, 64).unwrap(), values);
    }

    #[test]
    fn plain_codecs_keep_what_they_can_hold(values in prop::collection::vec(any::<f32>(), 8)) {
        let exact = encode(Codec::F32, &values, 2, 4).unwrap();
        let decoded = decode(Codec::F32, &exact, 2, 4).unwrap();
        for (a, b) in values.iter().zip(&decoded) {
            prop_assert_eq!(a.to_bits(), b.to_bits());
        }
        for (codec, half) in [
            (Codec::F16, (|x| half::f16::from_f32(x).to_f32()) as fn(f32) -> f32),
            (Codec::Bf16, |x| half::bf16::from_f32(x).to_f32()),
        ] {
            let lost = values.iter().any(|&x| x.is_finite() && !half(x).is_finite());
            match encode(codec, &values, 2, 4) {
                Ok(encoded) => {
                    prop_assert!(!lost);
                    for (&a, b) in values.iter().zip(decode(codec, &encoded, 2, 4).unwrap()) {
                        prop_assert!(half(a) == b || (a.is_nan() && b.is_nan()));
                    }
                }
                Err(FormatError::Codec(CodecError::Value { .. })) => prop_assert!(lost),
                Err(other) => prop_assert!(false, "{}", other),
            }
        }
    }
}

#[test]
fn extreme_groups_decode_to_finite_values() {
    let cases: [(&str, Vec<f32>); 6] = [
        ("zeros", vec![0.0; 64]),
        ("constant", vec![0.3125; 64]),
        (
            "one subnormal",
            (0..64).map(|i| if i == 3 { 1e-40 } else { 0.0 }).collect(),
        ),
        (
            "huge",
            (0..64)
                .map(|i| if i % 2 == 0 { 1e38 } else { -1e38 })
                .collect(),
        ),
        (
            "outlier",
            (0..64)
                .map(|i| if i == 9 { -900.0 } else { 0.01 })
                .collect(),
        ),
        ("negative zero", vec![-0.0; 64]),
    ];
    for (name, values) in cases {
        for bits in BITS {
            let codec = affine(bits, 64);
            let decoded = decode(codec, &encode(codec, &values, 1, 64).unwrap(), 1, 64).unwrap();
            let range = values
                .iter()
                .fold(0.0_f32, |most, &value| most.max(value.abs()));
            for (&value, &found) in values.iter().zip(&decoded) {
                let error = (f64::from(value) - f64::from(found)).abs();
                assert!(
                    found.is_finite() && error <= f64::from(range),
                    "{name} {bits}: {found}"
                );
            }
        }
    }
    let codec = affine(4, 32);
    assert_eq!(encode(codec, &[0.0; 32], 1, 32).unwrap().scales, [0, 0]);
}

#[test]
fn values_that_do_not_fit_are_named() {
    for bad in [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::MAX,
        -f32::MAX,
    ] {
        let mut values = vec![0.5; 128];
        values[70] = bad;
        let found = encode(affine(4, 64), &values, 1, 128);
        let Err(FormatError::Codec(CodecError::Value { index, value, .. })) = found else {
            panic!("{bad} was encoded: {found:?}");
        };
        assert_eq!((index, value.to_bits()), (70, bad.to_bits()));
    }
    let found = encode(Codec::F16, &[1.0, 70_000.0], 1, 2);
    assert!(matches!(
        found,
        Err(FormatError::Codec(CodecError::Value { index: 1, .. }))
    ));
}

#[test]
fn shapes_and_names_are_checked() {
    let codec = affine(4, 64);
    let columns = encode(codec, &[0.0; 96], 1, 96);
    assert!(matches!(
        columns,
        Err(FormatError::Codec(CodecError::Columns {
            cols: 96,
            group: 64
        }))
    ));
    let length = encode(codec, &[0.0; 64], 2, 64);
    assert!(matches!(
        length,
        Err(FormatError::Codec(CodecError::Length { .. }))
    ));
    let short = Encoded {
        weights: vec![0; 31],
        scales: vec![0; 2],
        biases: vec![0; 2],
    };
    assert!(matches!(
        decode(codec, &short, 1, 64),
        Err(FormatError::Codec(CodecError::Length {
            expected: 32,
            found: 31,
            ..
        }))
    ));
    let huge = Codec::F32.encoded_bytes(usize::MAX, 2);
    assert!(matches!(huge, Err(CodecError::TooLarge { .. })));
    assert_eq!(AffineCodec::new(7, 64), Err(CodecError::Bits(7)));
    assert_eq!(AffineCodec::new(4, 16), Err(CodecError::Group(16)));
    for codec in [Codec::F32, Codec::F16, Codec::Bf16, affine(3, 128)] {
        assert_eq!(codec.to_string().parse(), Ok(codec));
    }
    for name in [
        "",
        "q4",
        "affine",
        "affine-b4",
        "affine-bx-g64",
        "affine-b4-g",
    ] {
        assert_eq!(
            name.parse::<Codec>(),
            Err(CodecError::UnknownName(name.to_owned()))
        );
    }
    assert_eq!("affine-b9-g64".parse::<Codec>(), Err(CodecError::Bits(9)));
}
