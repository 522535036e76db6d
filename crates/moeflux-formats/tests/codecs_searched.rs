//! Codecs whose scales are searched: nearer than others' rounding, by weighted error too.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout)] // helpers of tests too

use moeflux_formats::{
    AffineCodec, BlockCodec, Codec, CodecError, EncodedMut, FormatError, decode, encode,
    encode_weighted,
};

fn affine(bits: u32, group: usize) -> Codec {
    Codec::Affine(AffineCodec::new(bits, group).unwrap())
}

/// The value at a place.
type Value = Box<dyn Fn(usize) -> f32>;

fn squared_error(a: &[f32], b: &[f32]) -> f64 {
    let pairs = a.iter().zip(b);
    pairs
        .map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2))
        .sum()
}

/// Sums of 12 uniform numbers: near enough to a normal distribution.
fn normal_values() -> Vec<f32> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32
    };
    (0..64 * 1024)
        .map(|_| (0..12).map(|_| uniform()).sum::<f32>() - 6.0)
        .collect()
}

/// Relative errors of others on the same values (`tools/quantization/others.py`): of the plain
/// range, of MLX's rule, and of llama.cpp's quantizer.
#[test]
fn fits_are_better_than_others_on_normal_weights() {
    let values = normal_values();
    let energy: f64 = values.iter().map(|&value| f64::from(value).powi(2)).sum();
    for (codec, theirs) in [
        (affine(2, 64), 0.3851),
        (affine(3, 64), 0.1859),
        (affine(4, 64), 0.0880),
        (affine(5, 64), 0.0425),
        (affine(8, 64), 0.005_276),
        (Codec::Block(BlockCodec::Q4K), 0.0701),
        (Codec::Block(BlockCodec::Q5K), 0.0355),
        (Codec::Block(BlockCodec::Iq4Nl), 0.0750),
    ] {
        let encoded = encode(codec, &values, 64, 1024).unwrap();
        let decoded = decode(codec, &encoded, 64, 1024).unwrap();
        let relative = (squared_error(&values, &decoded) / energy).sqrt();
        println!("{codec}: {relative:.5}, others {theirs}");
        assert!(relative < theirs, "{codec}: {relative}");
        assert!(relative > theirs / 2.0, "{codec}: {relative}");
    }
}

/// Columns that weigh more are nearer, and the weighted error is less.
#[test]
fn errors_are_weighted_by_column() {
    let values = normal_values();
    let (rows, cols) = (64, 1024);
    let importance: Vec<f32> = (0..cols)
        .map(|c| if c % 8 == 3 { 50.0 } else { 1.0 })
        .collect();
    let weighted_error = |decoded: &[f32]| {
        let errors = values.iter().zip(decoded).enumerate();
        let error = |(at, (a, b)): (usize, (&f32, &f32))| {
            f64::from(importance[at % cols]) * f64::from(a - b).powi(2)
        };
        errors.map(error).sum::<f64>()
    };
    for codec in [
        affine(2, 64),
        affine(3, 32),
        affine(4, 128),
        Codec::Block(BlockCodec::Q4K),
        Codec::Block(BlockCodec::Q5K),
        Codec::Block(BlockCodec::Iq4Nl),
    ] {
        let plain = encode(codec, &values, rows, cols).unwrap();
        let mut weighted = plain.clone();
        let out = EncodedMut {
            weights: &mut weighted.weights,
            scales: &mut weighted.scales,
            biases: &mut weighted.biases,
        };
        encode_weighted(codec, &values, (rows, cols), &importance, out).unwrap();
        let [plain, weighted] = [plain, weighted]
            .map(|encoded| weighted_error(&decode(codec, &encoded, rows, cols).unwrap()));
        assert!(
            weighted < 0.95 * plain,
            "{codec}: {weighted} against {plain}"
        );
    }
    let (mut weights, mut maps) = ([0; 32], [[0; 2]; 2]);
    let [scales, biases] = &mut maps;
    let out = EncodedMut {
        weights: &mut weights,
        scales,
        biases,
    };
    let short = encode_weighted(affine(4, 64), &[0.5; 64], (1, 64), &[1.0; 63], out);
    assert!(matches!(
        short,
        Err(CodecError::Length { expected: 64, .. })
    ));
}

/// Blocks of values that are hard on a search: none gets farther away than its largest value.
#[test]
fn blocks_of_odd_values_stay_finite() {
    let spike = |at: usize, value: f32| move |i: usize| if i == at { value } else { 0.01 };
    let cases: [(&str, Value); 8] = [
        ("zeros", Box::new(|_| 0.0)),
        ("negative zeros", Box::new(|_| -0.0)),
        ("ones", Box::new(|_| 1.0)),
        ("minus ones", Box::new(|_| -1.0)),
        ("a spike", Box::new(spike(9, -900.0))),
        ("another spike", Box::new(spike(200, 900.0))),
        ("tiny", Box::new(|i| (i as f32 - 128.0) * 1e-9)),
        ("huge", Box::new(|i| (i as f32 - 100.0) * 100.0)),
    ];
    for (name, value) in cases {
        let values: Vec<f32> = (0..256).map(value).collect();
        let most = values.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        for block in [BlockCodec::Q4K, BlockCodec::Q5K, BlockCodec::Iq4Nl] {
            let codec = Codec::Block(block);
            let encoded = encode(codec, &values, 1, 256).unwrap();
            for (a, b) in values.iter().zip(decode(codec, &encoded, 1, 256).unwrap()) {
                assert!(
                    b.is_finite() && (a - b).abs() <= most,
                    "{name} {codec}: {a} {b}"
                );
            }
        }
    }
    for block in [BlockCodec::Q4K, BlockCodec::Q5K, BlockCodec::Iq4Nl] {
        for bad in [f32::NAN, f32::INFINITY, 3e38] {
            let mut values = vec![0.5; 512];
            values[300] = bad;
            let found = encode(Codec::Block(block), &values, 1, 512);
            let Err(FormatError::Codec(CodecError::Value { index, .. })) = found else {
                panic!("{bad} was encoded: {found:?}");
            };
            assert_eq!(index, 300, "{block}: {bad}");
        }
    }
}
