//! FP8 with a scale to each square of 128 x 128.

use moeflux_formats::codec::f8::{self, ScaleType};
use moeflux_formats::{Checkpoint, Codec, DType, F8Codec};

use super::{MatrixTensors, check_rows, check_shape, unread, wrong_dtype};
use crate::Error;

/// Scales of other forms.
const OTHER_SCALES: &str = "weight_scale";

/// Finds the matrix `name` of E4M3.
pub(super) fn find<'a>(
    files: &'a Checkpoint,
    name: &str,
    outer: &[usize],
    cols: usize,
) -> Result<MatrixTensors<'a>, Error> {
    let weight = format!("{name}.weight");
    let info = files.require(&weight)?;
    let &[rows] = outer else {
        let form = "FP8 in tensors of all experts";
        return Err(unread(files, weight, info, form));
    };
    check_rows(files, &weight, info, outer, cols)?;
    let [scale, short, other] =
        [f8::SCALES, f8::SHORT_SCALES, OTHER_SCALES].map(|part| format!("{name}.{part}"));
    let scale = match (files.get(&scale), files.get(&short), files.get(&other)) {
        (None, Some(_), _) => short,
        (None, None, Some(found)) => {
            let form = "FP8 with a scale to each row or to a whole tensor";
            return Err(unread(files, other, found, form));
        }
        _ => scale,
    };
    let scales = files.require(&scale)?;
    let codec = match ScaleType::of_dtype(scales.dtype) {
        Some(scales) => F8Codec { scales },
        None if scales.dtype == DType::U8 => {
            return Err(unread(
                files,
                scale,
                scales,
                "MXFP8 (a scale to 32 elements)",
            ));
        }
        None => return Err(wrong_dtype(files, &scale, scales, "F32, BF16 or F8_E8M0").into()),
    };
    check_shape(files, &scale, scales, &codec.scale_shape(rows, cols))?;
    Ok(MatrixTensors {
        codec: Codec::F8(codec),
        apart: None,
        parts: vec![info, scales],
        names: vec![weight, scale],
    })
}
