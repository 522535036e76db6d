//! Which tensors make up a matrix in a checkpoint, and how it is coded.

mod fp4;
mod fp8;

use moeflux_formats::{
    AffineCodec, BlockCodec, CenteredCodec, Checkpoint, Codec, CodecError, DType, FormatError,
    TensorInfo,
};

use super::layout::Apart;
use crate::Error;

/// The tensors that make up a matrix, and its codec.
pub(crate) struct MatrixTensors<'a> {
    pub codec: Codec,
    /// Of 4-bit floats whose codes and scales have tensors of their own.
    pub apart: Option<Apart>,
    /// Weights, scales, biases, as many as the codec has; or codes, scales of groups and (of NVFP4)
    /// the matrix's scale.
    pub parts: Vec<&'a TensorInfo>,
    /// Their names.
    pub names: Vec<String>,
}

/// What integers with scales of their own are called beside `name`: MLX's affine groups
/// and compressed-tensors' packed integers.
const AFFINE: [&str; 3] = ["weight", "scales", "biases"];
const PACKED: [&str; 2] = ["weight_packed", "weight_scale"];

/// Tensors beside a matrix's, and the forms that they tell, which are not read.
const UNREAD: [(&str, &str); 5] = [
    ("weight_zero_point", "integers with zero points"),
    ("weight_g_idx", "integers in groups out of order"),
    ("qweight", "integers as GPTQ and AWQ pack them"),
    ("weight.absmax", "4- or 8-bit numbers of bitsandbytes"),
    ("pre_quant_scale", "4-bit numbers of scaled inputs (AWQ)"),
];

/// Finds the matrix `name` (without `.weight`) of `[rows, cols]` in any form.
pub(crate) fn find_matrix<'a>(
    files: &'a Checkpoint,
    name: &str,
    rows: usize,
    cols: usize,
) -> Result<MatrixTensors<'a>, Error> {
    find(files, name, &[rows], cols)
}

/// Finds the matrices of `[rows, cols]` that `experts` have in one tensor (or one a part).
pub(crate) fn find_stack<'a>(
    files: &'a Checkpoint,
    name: &str,
    experts: usize,
    (rows, cols): (usize, usize),
) -> Result<MatrixTensors<'a>, Error> {
    find(files, name, &[experts, rows], cols)
}

/// Finds the tensors of the table `name` (without `.weight`) of `[rows, cols]`: one, or several
/// whose rows follow one another.
pub(crate) fn find_table<'a>(
    files: &'a Checkpoint,
    name: &str,
    (rows, cols): (usize, usize),
) -> Result<Vec<(String, &'a TensorInfo)>, Error> {
    let whole = format!("{name}.weight");
    let shard = |part: usize| format!("{name}.shard_{part}.weight");
    let is_sharded = files.get(&whole).is_none() && files.get(&shard(0)).is_some();
    let (mut found, mut held) = (Vec::new(), 0);
    while held < rows {
        let tensor = match is_sharded {
            true => shard(found.len()),
            false => whole.clone(),
        };
        let info = files.require(&tensor)?;
        if !matches!(info.dtype, DType::F32 | DType::F16 | DType::Bf16) {
            return Err(wrong_dtype(files, &tensor, info, "F32, F16 or BF16").into());
        }
        let own = match info.shape[..] {
            [own, width] if width == cols && (1..=rows - held).contains(&own) => own,
            _ => return Err(wrong_shape(files, &tensor, info, &[rows - held], cols).into()),
        };
        if !is_sharded && own != rows {
            return Err(wrong_shape(files, &tensor, info, &[rows], cols).into());
        }
        held += own;
        found.push((tensor, info));
    }
    Ok(found)
}

fn find<'a>(
    files: &'a Checkpoint,
    name: &str,
    outer: &[usize],
    cols: usize,
) -> Result<MatrixTensors<'a>, Error> {
    let mut weight = format!("{name}.weight");
    // Some small matrices are called by their name alone.
    if files.get(&weight).is_none() && files.get(name).is_some() {
        weight = name.to_owned();
    }
    let Some(info) = files.get(&weight) else {
        refuse_unread(files, name)?;
        match files.get(&format!("{name}.{}", PACKED[0])) {
            Some(info) if info.dtype == DType::U8 => {
                return fp4::find(files, name, PACKED[0], (outer, cols));
            }
            Some(_) => return packed(files, name, outer, cols),
            None => {}
        }
        if let &[rows] = outer
            && let Some(found) = blocks(files, name, rows, cols)?
        {
            return Ok(found);
        }
        files.require(&weight)?;
        return Err(Error::Internal(format!("{weight} is there after all")));
    };
    if Codec::of_dtype(info.dtype).is_none() {
        refuse_unread(files, name)?;
    }
    match info.dtype {
        DType::U32 => affine(files, name, outer, cols),
        DType::F8E4M3 => fp8::find(files, name, outer, cols),
        DType::U8 | DType::I8 => fp4::find(files, name, "weight", (outer, cols)),
        _ => {
            let codec = plain_codec(files, &weight, info)?;
            check_rows(files, &weight, info, outer, cols)?;
            Ok(MatrixTensors {
                codec,
                apart: None,
                parts: vec![info],
                names: vec![weight],
            })
        }
    }
}

/// Refuses a matrix beside which there are tensors of forms that are not read.
fn refuse_unread(files: &Checkpoint, name: &str) -> Result<(), Error> {
    for (part, form) in UNREAD {
        let tensor = format!("{name}.{part}");
        if let Some(found) = files.get(&tensor) {
            return Err(unread(files, tensor, found, form));
        }
    }
    Ok(())
}

fn unread(files: &Checkpoint, tensor: String, info: &TensorInfo, form: &'static str) -> Error {
    Error::Form {
        path: files.files()[info.file].clone(),
        tensor,
        form,
    }
}

/// Integers in groups with scale and bias, as MLX stores them.
fn affine<'a>(
    files: &'a Checkpoint,
    name: &str,
    outer: &[usize],
    cols: usize,
) -> Result<MatrixTensors<'a>, Error> {
    let names = AFFINE.map(|part| format!("{name}.{part}"));
    let parts = [files.require(&names[0])?, files.require(&names[1])?];
    let [info, scales] = parts;
    let biases = files.require(&names[2])?;
    let (bits, group) = bits_and_group(info, scales, cols)
        .ok_or_else(|| wrong_shape(files, &names[0], info, outer, cols))?;
    let codec = AffineCodec::new(bits, group);
    let codec = codec.map_err(|problem| not_coded(&names[0], problem))?;
    check_rows(files, &names[0], info, outer, codec.row_bytes(cols) / 4)?;
    for (name, part) in names[1..].iter().zip([scales, biases]) {
        check_rows(files, name, part, outer, cols / group)?;
        if part.dtype != DType::Bf16 {
            return Err(wrong_dtype(files, name, part, "BF16").into());
        }
    }
    Ok(MatrixTensors {
        codec: Codec::Affine(codec),
        apart: None,
        parts: vec![info, scales, biases],
        names: names.to_vec(),
    })
}

/// Symmetric integers in groups, as compressed-tensors stores them.
fn packed<'a>(
    files: &'a Checkpoint,
    name: &str,
    outer: &[usize],
    cols: usize,
) -> Result<MatrixTensors<'a>, Error> {
    let names = PACKED.map(|part| format!("{name}.{part}"));
    let (info, scales) = (files.require(&names[0])?, files.require(&names[1])?);
    let (bits, group) = bits_and_group(info, scales, cols)
        .ok_or_else(|| wrong_shape(files, &names[0], info, outer, cols))?;
    let codec = CenteredCodec::new(bits, group);
    let codec = codec.map_err(|problem| not_coded(&names[0], problem))?;
    check_rows(files, &names[0], info, outer, codec.row_bytes(cols) / 4)?;
    check_rows(files, &names[1], scales, outer, cols / group)?;
    for (name, part, expected) in [
        (&names[0], info, DType::I32),
        (&names[1], scales, DType::Bf16),
    ] {
        if part.dtype != expected {
            return Err(wrong_dtype(files, name, part, expected.name()).into());
        }
    }
    Ok(MatrixTensors {
        codec: Codec::Centered(codec),
        apart: None,
        parts: vec![info, scales],
        names: names.to_vec(),
    })
}

/// Blocks under the name of their codec, as packed models have them.
fn blocks<'a>(
    files: &'a Checkpoint,
    name: &str,
    rows: usize,
    cols: usize,
) -> Result<Option<MatrixTensors<'a>>, Error> {
    let blocks = BlockCodec::ALL.into_iter().map(Codec::Block);
    for codec in blocks.chain([Codec::Nvfp4]) {
        let tensor = format!("{name}.{codec}");
        if files.get(&tensor).is_none() {
            continue;
        }
        codec
            .encoded_bytes(rows, cols)
            .map_err(|problem| not_coded(&tensor, problem))?;
        let (mut parts, mut names) = (Vec::new(), Vec::new());
        for part in codec.tensors(rows, cols) {
            let tensor = format!("{name}.{}", part.name);
            let info = files.require(&tensor)?;
            check_shape(files, &tensor, info, &part.shape)?;
            if info.dtype != part.dtype {
                return Err(wrong_dtype(files, &tensor, info, part.dtype.name()).into());
            }
            parts.push(info);
            names.push(tensor);
        }
        return Ok(Some(MatrixTensors {
            codec,
            apart: None,
            parts,
            names,
        }));
    }
    Ok(None)
}

/// Bits of an integer and elements of a group, if 32-bit words and scales of these shapes make up
/// rows of `cols` elements.
fn bits_and_group(words: &TensorInfo, scales: &TensorInfo, cols: usize) -> Option<(u32, usize)> {
    let last = |info: &TensorInfo| info.shape.last().copied();
    let (row_bits, groups) = (last(words)?.checked_mul(32)?, last(scales)?);
    if !cols.is_multiple_of(groups) || !row_bits.is_multiple_of(cols) {
        return None;
    }
    let bits = u32::try_from(row_bits.checked_div(cols)?).ok()?;
    Some((bits, cols.checked_div(groups)?))
}

/// The codec of a tensor that is a whole matrix: plain floats or quantized blocks.
pub(crate) fn plain_codec(
    files: &Checkpoint,
    name: &str,
    info: &TensorInfo,
) -> Result<Codec, Error> {
    const KNOWN: &str = "F32, F16 or BF16";
    Codec::of_dtype(info.dtype).ok_or_else(|| wrong_dtype(files, name, info, KNOWN).into())
}

/// Checks that a tensor has `cols` columns and as many rows as `outer` multiplies to: GGUF files
/// store a matrix of one row as a vector, and one a head as a stack.
fn check_rows(
    files: &Checkpoint,
    name: &str,
    info: &TensorInfo,
    outer: &[usize],
    cols: usize,
) -> Result<(), Error> {
    let rows = |sizes: &[usize]| sizes.iter().product::<usize>();
    let fits = match info.shape.split_last() {
        Some((&last, leading)) if outer.len() == 1 => last == cols && rows(leading) == outer[0],
        Some((&last, leading)) => last == cols && leading == outer,
        None => false,
    };
    if fits {
        return Ok(());
    }
    Err(wrong_shape(files, name, info, outer, cols).into())
}

fn wrong_shape(
    files: &Checkpoint,
    name: &str,
    info: &TensorInfo,
    outer: &[usize],
    cols: usize,
) -> FormatError {
    FormatError::WrongShape {
        tensor: name.to_owned(),
        path: files.files()[info.file].clone(),
        expected: [outer, &[cols]].concat(),
        found: info.shape.clone(),
    }
}

fn not_coded(tensor: &str, problem: CodecError) -> Error {
    FormatError::Encode {
        tensor: tensor.to_owned(),
        problem,
    }
    .into()
}

fn wrong_dtype(
    files: &Checkpoint,
    name: &str,
    info: &TensorInfo,
    expected: &'static str,
) -> FormatError {
    FormatError::WrongDType {
        tensor: name.to_owned(),
        path: files.files()[info.file].clone(),
        expected,
        found: info.dtype,
    }
}

pub(super) fn check_shape(
    files: &Checkpoint,
    name: &str,
    info: &TensorInfo,
    expected: &[usize],
) -> Result<(), Error> {
    if info.shape == expected {
        return Ok(());
    }
    Err(FormatError::WrongShape {
        tensor: name.to_owned(),
        path: files.files()[info.file].clone(),
        expected: expected.to_vec(),
        found: info.shape.clone(),
    }
    .into())
}
