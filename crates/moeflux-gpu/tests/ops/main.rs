//! Operations on a device against the reference, and against themselves in other batches.

#[path = "../common/mod.rs"]
mod common;

mod attention;
mod entries;
mod exact;
mod latent;
mod rates;
mod recurrent;
mod routing;
mod rowwise;

use std::sync::Arc;

use moeflux_gpu::{DeviceBuffer, Gpu, Recorder, View, ops::SpanRows};

/// The first `len` words of a buffer.
fn view(buffer: &DeviceBuffer, len: usize) -> View<'_> {
    View {
        buffer,
        offset: 0,
        bytes: len as u64 * 4,
    }
}

/// A recorder for the tests' device.
fn recorder() -> (Arc<Gpu>, Recorder) {
    let gpu = common::gpu();
    (Arc::clone(&gpu), Recorder::new(gpu))
}

/// What a buffer holds when all that was recorded is done.
fn floats(r: &mut Recorder, buffer: &DeviceBuffer, len: usize) -> Vec<f32> {
    let bytes = r.read(&[view(buffer, len)]).expect("it can be read");
    bytemuck::pod_collect_to_vec(&bytes)
}

/// The same of u32.
fn words(r: &mut Recorder, buffer: &DeviceBuffer, len: usize) -> Vec<u32> {
    let bytes = r.read(&[view(buffer, len)]).expect("it can be read");
    bytemuck::pod_collect_to_vec(&bytes)
}

fn upload_words(gpu: &Gpu, values: &[u32]) -> DeviceBuffer {
    let bytes = bytemuck::cast_slice(values);
    gpu.buffer_with("test", bytes).expect("there is memory")
}

/// Requires the same bits.
fn same(found: &[f32], expected: &[f32], what: &str) {
    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert!(bits(found) == bits(expected), "{what}: other bits");
}

/// The spans that `lens` cut a timeline's rows into, from position `start` on; none is empty.
fn spans(start: usize, lens: &[usize]) -> Vec<SpanRows> {
    let mut first_row = 0;
    let span = lens.iter().filter(|&&len| len > 0).map(|&len| {
        let span = SpanRows {
            first_row,
            len,
            start: start + first_row,
        };
        first_row += len;
        span
    });
    span.collect()
}
