//! What the tests share: a device, and how results are compared.

#![allow(dead_code)]

pub mod random_matrix;

use std::sync::{Arc, OnceLock};

use moeflux_gpu::{DeviceBuffer, DeviceChoice, Gpu};

/// The machine's best device, software included.
pub fn gpu() -> Arc<Gpu> {
    static GPU: OnceLock<Arc<Gpu>> = OnceLock::new();
    let open = || Gpu::open(DeviceChoice::Any).expect("a device; lavapipe serves");
    Arc::clone(GPU.get_or_init(open))
}

/// Random numbers in -1..1, the same for the same seed.
pub fn random(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

/// A buffer with these values.
pub fn upload(gpu: &Gpu, values: &[f32]) -> DeviceBuffer {
    let bytes = bytemuck::cast_slice(values);
    gpu.buffer_with("test", bytes).expect("there is memory")
}

/// A buffer of NaN, so that what is not written shows.
pub fn poisoned(gpu: &Gpu, len: usize) -> DeviceBuffer {
    upload(gpu, &vec![f32::NAN; len])
}

/// The relative L2 error.
pub fn error(found: &[f32], expected: &[f32]) -> f64 {
    let square = |v: f64| v * v;
    let norm: f64 = expected.iter().map(|&v| square(f64::from(v))).sum();
    let pairs = found.iter().zip(expected);
    let off: f64 = pairs
        .map(|(&a, &b)| square(f64::from(a) - f64::from(b)))
        .sum();
    (off / norm).sqrt()
}

/// Requires finite results that are not all zero, a relative L2 error of at most `tolerance`, and
/// no element farther off than ten times the mean error allowed.
pub fn close(found: &[f32], expected: &[f32], tolerance: f64, what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: another length");
    assert!(found.iter().all(|v| v.is_finite()), "{what}: not finite");
    let square = |v: f64| v * v;
    let norm: f64 = expected
        .iter()
        .map(|&v| square(f64::from(v)))
        .sum::<f64>()
        .sqrt();
    let pairs = || {
        found
            .iter()
            .zip(expected)
            .map(|(&a, &b)| f64::from(a) - f64::from(b))
    };
    let error = pairs().map(square).sum::<f64>().sqrt();
    let largest = pairs().map(f64::abs).fold(0.0, f64::max);
    let allowed = tolerance * norm;
    assert!(
        norm > 0.0 && error <= allowed,
        "{what}: error {error:e} of norm {norm:e}"
    );
    let each = 10.0 * allowed / (expected.len() as f64).sqrt();
    assert!(
        largest <= each,
        "{what}: one element is off by {largest:e}, allowed {each:e}"
    );
}
