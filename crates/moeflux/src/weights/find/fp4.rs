//! 4-bit floats (E2M1) as checkpoints are published: codes, two a byte, and scales in tensors of
//! their own.
//!
//! | form, from | codes | scales of groups | the matrix's scale |
//! |---|---|---|---|
//! | MXFP4, DeepSeek-V4 | `weight` I8 | `scale` F8_E8M0 | |
//! | MXFP4, compressed-tensors | `weight_packed` U8 | `weight_scale` U8 | |
//! | NVFP4, ModelOpt | `weight` U8 | `weight_scale` F8_E4M3 | `weight_scale_2` F32 |
//! | NVFP4, compressed-tensors | `weight_packed` U8 | `weight_scale` F8_E4M3 | `weight_global_scale` F32 |
//!
//! Groups have 32 elements in MXFP4 and 16 in NVFP4; the last scale divides those of groups.

use moeflux_formats::codec::{block::mxfp4, f8, nvfp4};
use moeflux_formats::{BlockCodec, Checkpoint, Codec, DType, TensorInfo};

use super::{MatrixTensors, check_shape, not_coded, unread, wrong_dtype, wrong_shape};
use crate::Error;
use crate::weights::layout::Apart;

const SCALES: [&str; 2] = ["weight_scale", f8::SHORT_SCALES];
/// Finds the matrix `name` whose codes are in the tensor `codes` beside it.
pub(super) fn find<'a>(
    files: &'a Checkpoint,
    name: &str,
    codes: &str,
    (outer, cols): (&[usize], usize),
) -> Result<MatrixTensors<'a>, Error> {
    let is_packed = codes != "weight";
    let codes = format!("{name}.{codes}");
    let info = files.require(&codes)?;
    let &[rows] = outer else {
        let form = "4-bit numbers in tensors of all experts";
        return Err(unread(files, codes, info, form));
    };
    let is_there = |scale: &String| files.get(scale).is_some();
    let [first, second] = SCALES.map(|part| format!("{name}.{part}"));
    let scale = if is_there(&first) || !is_there(&second) {
        first
    } else {
        second
    };
    let scales = files.require(&scale)?;
    let (codec, scale_bytes) = match scales.dtype {
        DType::F8E8M0 | DType::U8 => (Codec::Block(BlockCodec::Mxfp4), mxfp4::SCALES),
        DType::F8E4M3 => (Codec::Nvfp4, nvfp4::SCALES),
        _ => {
            let known = "F8_E8M0 or U8 (MXFP4), or F8_E4M3 (NVFP4)";
            return Err(wrong_dtype(files, &scale, scales, known).into());
        }
    };
    let sizes = codec.encoded_bytes(rows, cols);
    sizes.map_err(|problem| not_coded(&codes, problem))?;
    check_shape(files, &codes, info, &[rows, cols / 2])?;
    let groups = cols / mxfp4::ELEMENTS * scale_bytes;
    check_shape(files, &scale, scales, &[rows, groups])?;
    let mut found = MatrixTensors {
        codec,
        apart: Some(Apart { divides: false }),
        parts: vec![info, scales],
        names: vec![codes, scale],
    };
    if codec == Codec::Nvfp4 {
        let (part, divides) = match is_packed {
            false => ("weight_scale_2", false),
            true => ("weight_global_scale", true),
        };
        let tensor = format!("{name}.{part}");
        found.apart = Some(Apart { divides });
        found.parts.push(one_scale(files, &tensor)?);
        found.names.push(tensor);
    }
    Ok(found)
}

/// The scale of a whole matrix.
fn one_scale<'a>(files: &'a Checkpoint, tensor: &str) -> Result<&'a TensorInfo, Error> {
    let info = files.require(tensor)?;
    if info.dtype != DType::F32 {
        return Err(wrong_dtype(files, tensor, info, "F32").into());
    }
    if info.elements() != 1 {
        return Err(wrong_shape(files, tensor, info, &[], 1).into());
    }
    Ok(info)
}
