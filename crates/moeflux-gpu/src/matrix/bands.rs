//! Matrices in buffers on the device.

use std::sync::Arc;

use moeflux_kernels::Matrix;

use super::{Form, TILE};
use crate::{DeviceBuffer, Gpu, GpuError};

/// Some rows of a matrix, in a buffer of their own.
#[derive(Debug)]
pub struct Band {
    /// The first row, a multiple of 16.
    pub first_row: usize,
    /// The rows' form.
    pub form: Form,
    /// Where they are, maybe beside other matrices.
    pub buffer: Arc<DeviceBuffer>,
    /// Their first byte there, a multiple of 16.
    pub start: usize,
}

/// A matrix on the device: in one piece if the device binds that much at once.
#[derive(Debug)]
pub struct DeviceMatrix {
    /// Its form.
    pub form: Form,
    /// Its rows, in order.
    pub bands: Vec<Band>,
}

impl DeviceMatrix {
    /// Uploads `matrix`.
    ///
    /// # Errors
    /// No device memory.
    pub fn upload(gpu: &Gpu, matrix: &Matrix<'_>) -> Result<DeviceMatrix, GpuError> {
        let form = Form::of(matrix);
        let mut packed = Vec::with_capacity(form.bytes());
        form.pack(matrix, &mut packed);
        let limit = gpu.most_bytes_bound() as usize;
        let row_tiles = form.rows.div_ceil(TILE);
        let most = (limit / (form.bytes() / row_tiles).max(1))
            .saturating_sub(1)
            .max(1);
        let mut bands = Vec::new();
        for first_tile in (0..row_tiles).step_by(most) {
            let first_row = first_tile * TILE;
            let rows = (form.rows - first_row).min(most * TILE);
            let part = Form { rows, ..form };
            let buffer = gpu.buffer("weights", part.bytes() as u64)?;
            let mut at = 0;
            for (whole, own, start) in part_ranges(&form, &part, first_row) {
                gpu.write(&buffer, at, &packed[whole + start..whole + start + own]);
                at += own as u64;
            }
            bands.push(Band {
                first_row,
                form: part,
                buffer: Arc::new(buffer),
                start: 0,
            });
        }
        Ok(DeviceMatrix { form, bands })
    }
}

/// For each part of `part`, rows from `first_row` of `whole`: where the whole's part begins, the
/// bytes of the band's, and where the band's begin in the whole's.
fn part_ranges(whole: &Form, part: &Form, first_row: usize) -> [(usize, usize, usize); 3] {
    let (all, own) = (whole.parts(), part.parts());
    let before = Form {
        rows: first_row,
        ..*whole
    };
    let before = if first_row == 0 {
        [0; 3]
    } else {
        before.parts()
    };
    [
        (0, own[0], before[0]),
        (all[0], own[1], before[1]),
        (all[0] + all[1], own[2], before[2]),
    ]
}
