//! How fast a device is at best: its memory, its products, and the way from the host's memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moeflux_kernels::{Coded, Coding, Matrix, MatrixData};

use crate::matrix::DeviceMatrix;
use crate::ops::matmul::{self, Tile, Vectors};
use crate::ops::{PART_WORDS, word_sums};
use crate::pinned::Pinned;
use crate::{DeviceBuffer, Gpu, GpuError, Recorder, View};

/// Far more than caches hold, and what will do where memory is short.
const READ_BYTES: u64 = 512 << 20;
const LEAST_BYTES: u64 = 32 << 20;
/// Copied from the host's memory at a time.
const COPY_BYTES: u64 = 64 << 20;
/// A pass at least this long is timed well.
const PASS: Duration = Duration::from_millis(5);
/// Clocks rise with the load, which takes a while.
const TIME: Duration = Duration::from_millis(250);
const CODING: Coding = Coding::Affine { bits: 4, group: 64 };

/// What a device does at best.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct DeviceRates {
    /// Bytes a second that a kernel reads from the device's memory.
    pub memory_bytes_per_second: f64,
    /// Multiply-adds a second of products with many vectors, weights of 4 bits.
    pub multiply_adds_per_second: f64,
    /// Bytes a second copied from the host's memory to the device's.
    pub transfer_bytes_per_second: f64,
}

/// Measures a device for about a second.
///
/// # Errors
/// Less than 32 MiB of memory left, or a lost device.
pub fn rates(gpu: &Arc<Gpu>) -> Result<DeviceRates, GpuError> {
    let memory = memory(gpu)?;
    let most = memory.bytes();
    let parts = gpu.buffer("sums", most.div_ceil(PART_WORDS as u64))?;
    let read_seconds = seconds(gpu, |r| word_sums(r, (&memory).into(), (&parts).into()))?;
    let copied = most.min(COPY_BYTES);
    let copy_seconds = match Pinned::new(&gpu.device, copied) {
        Some(host) => copy(gpu, host.buffer(), copied, &memory)?,
        None => {
            let host = gpu.mapped(copied)?;
            host.unmap();
            copy(gpu, &host, copied, &memory)?
        }
    };
    drop(memory);
    Ok(DeviceRates {
        memory_bytes_per_second: most as f64 / read_seconds,
        multiply_adds_per_second: products(gpu)?,
        transfer_bytes_per_second: copied as f64 / copy_seconds,
    })
}

/// As much memory as there is to read from.
fn memory(gpu: &Gpu) -> Result<DeviceBuffer, GpuError> {
    let mut bytes = READ_BYTES.min(gpu.most_bytes_bound());
    loop {
        match gpu.buffer("what is read to measure", bytes) {
            Err(GpuError::OutOfMemory { .. }) if bytes / 2 >= LEAST_BYTES => bytes /= 2,
            made => return made,
        }
    }
}

/// The seconds that `bytes` take from the host's memory, of the kind that experts come from.
fn copy(
    gpu: &Arc<Gpu>,
    from: &wgpu::Buffer,
    bytes: u64,
    to: &DeviceBuffer,
) -> Result<f64, GpuError> {
    seconds(gpu, |r| {
        r.copy_host(from, bytes, to, 0);
        Ok(())
    })
}

/// Multiply-adds a second of a large product.
fn products(gpu: &Arc<Gpu>) -> Result<f64, GpuError> {
    let (n, rows, cols) = match gpu.line().is_software {
        true => (64, 256, 512),
        false => (2048, 8192, 2048),
    };
    let wrong = |problem: moeflux_kernels::KernelError| GpuError::Refused {
        problem: problem.to_string(),
    };
    let lengths = CODING.part_lengths(rows, cols).map_err(wrong)?;
    // The time does not depend on the numbers.
    let (weights, scales) = (vec![0x53; lengths[0]], vec![0x3c23; lengths[1]]);
    let biases = vec![0xbda4; lengths[2]];
    let coded = Coded {
        coding: CODING,
        weights: &weights,
        scales: &scales,
        biases: &biases,
        global: 1.0,
    };
    let matrix = Matrix::new(rows, cols, MatrixData::Coded(coded)).map_err(wrong)?;
    let matrix = DeviceMatrix::upload(gpu, &matrix)?;
    let x = gpu.buffer("vectors", (n * cols * 4) as u64)?;
    let out = gpu.buffer("products", (n * rows * 4) as u64)?;
    let tile = Tile::of(gpu, false);
    let mut r = Recorder::new(Arc::clone(gpu));
    let vectors = matmul::vectors(&mut r, tile, Vectors::INPUTS, (&x).into(), (0, n), cols)?;
    r.submit();
    let seconds = seconds(gpu, |r| {
        matmul::matmul(r, tile, &matrix, &vectors, (&out).into())
    })?;
    Ok((n * rows * cols) as f64 / seconds)
}

/// The seconds of what is recorded, in the best of several passes of enough of them.
fn seconds(
    gpu: &Arc<Gpu>,
    mut record: impl FnMut(&mut Recorder) -> Result<(), GpuError>,
) -> Result<f64, GpuError> {
    let mut r = Recorder::new(Arc::clone(gpu));
    let end = gpu.buffer("end", 16)?;
    // The kernel is compiled for the first one.
    record(&mut r)?;
    r.read(&[View::from(&end)])?;
    let (mut runs, mut best) = (1, f64::INFINITY);
    let begin = Instant::now();
    let mut is_timed_well = false;
    while !is_timed_well || begin.elapsed() < TIME {
        let start = Instant::now();
        for _ in 0..runs {
            record(&mut r)?;
        }
        r.read(&[View::from(&end)])?;
        let spent = start.elapsed();
        best = best.min(spent.as_secs_f64() / f64::from(runs));
        is_timed_well = spent >= PASS;
        if !is_timed_well {
            runs *= 2;
        }
    }
    Ok(best)
}
