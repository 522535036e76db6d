//! How far codecs are from a checkpoint's matrices: relative squared error by codec and number of
//! columns.
//!
//! `pack_error DIR CODEC...`: DIR has plain floats, a codec is named as `affine-b4-g64` or `q4_k`.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use moeflux_formats::{Checkpoint, Codec, decode, encode};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let files = Checkpoint::open(Path::new(&args[0])).unwrap();
    for name in &args[1..] {
        let codec: Codec = name.parse().unwrap();
        let mut sums: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
        for tensor in files.names() {
            let info = files.require(tensor).unwrap();
            let &[rows, cols] = info.shape.as_slice() else {
                continue;
            };
            if codec.encoded_bytes(rows, cols).is_err() {
                continue;
            }
            let values = files.read_f32(tensor, &info.shape).unwrap();
            let encoded = encode(codec, &values, rows, cols).unwrap();
            let decoded = decode(codec, &encoded, rows, cols).unwrap();
            let error = values
                .iter()
                .zip(&decoded)
                .map(|(a, b)| f64::from(a - b).powi(2));
            let size = values.iter().map(|&value| f64::from(value).powi(2));
            let sum = sums.entry(cols).or_default();
            sum.0 += error.sum::<f64>() / size.sum::<f64>() * values.len() as f64;
            sum.1 += values.len() as f64;
        }
        for (cols, (error, count)) in sums {
            println!("{name:<16} {cols:>6} columns: {:.6}", error / count);
        }
    }
}
