//! How fast weights are encoded: source bytes (bf16) a second of one core, by codec, from memory.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::sync::OnceLock;
use std::time::Instant;

use moeflux_formats::{AffineCodec, BlockCodec, Codec, EncodedMut, encode_into};

const ROWS: usize = 256;
const COLS: usize = 2048;
/// Long against the grain of the system's processor times.
const ROUNDS: usize = 10;

fn main() {
    let mut state = 1_u64;
    let mut value = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        ((state >> 32) as i32 as f32) * (0.1 / i32::MAX as f32)
    };
    let values: Vec<f32> = (0..ROWS * COLS).map(|_| value()).collect();
    println!("{:<16} {:>16}", "codec", "bf16 MB/s a core");
    for bits in [2, 3, 4, 5, 6, 8] {
        for group in [32, 64, 128] {
            measure(
                Codec::Affine(AffineCodec::new(bits, group).unwrap()),
                &values,
            );
        }
    }
    for block in [BlockCodec::Q4K, BlockCodec::Q5K, BlockCodec::Iq4Nl] {
        measure(Codec::Block(block), &values);
    }
    measure(Codec::Bf16, &values);
    measure(Codec::F16, &values);
}

fn measure(codec: Codec, values: &[f32]) {
    let bytes = codec.encoded_bytes(ROWS, COLS).unwrap();
    let mut weights = vec![1; bytes.weights];
    let (mut scales, mut biases) = (vec![1; bytes.scales], vec![1; bytes.scales]);
    let start = processor_seconds();
    for _ in 0..ROUNDS {
        let (weights, scales, biases) = (&mut weights, &mut scales, &mut biases);
        encode_into(
            codec,
            values,
            ROWS,
            COLS,
            EncodedMut {
                weights,
                scales,
                biases,
            },
        )
        .unwrap();
    }
    let seconds = processor_seconds() - start;
    let megabytes = (ROUNDS * ROWS * COLS * 2) as f64 / 1e6;
    println!("{:<16} {:>16.0}", codec.to_string(), megabytes / seconds);
}

/// Processor time of this thread where the system tells it, so that other programs' load does not
/// count; else time of day.
fn processor_seconds() -> f64 {
    static START: OnceLock<Instant> = OnceLock::new();
    let wall = START.get_or_init(Instant::now).elapsed().as_secs_f64();
    let schedule = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = schedule
        .split(' ')
        .next()
        .and_then(|field| field.parse::<f64>().ok());
    nanoseconds.map_or(wall, |count| count * 1e-9)
}
