//! Models in several files, `NAME-00001-of-00003.gguf` and so on.
//!
//! Each part is a GGUF file with its own tensors; the first has the model's keys. In every
//! part, `split.no` counts parts from 0, and `split.count` and `split.tensors.count` are of all.

use std::path::{Path, PathBuf};

use super::metadata::Metadata;
use super::problem::GgufProblem;
use crate::error::{FormatError, Result};

const NUMBER: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// The files of the model that the file of `metadata` is a part of, in order; `None` if it is all
/// in one file.
///
/// # Errors
/// A name that does not lead to the other parts, or a part that is not there.
pub(crate) fn parts(metadata: &Metadata) -> Result<Option<Vec<PathBuf>>> {
    let count = metadata.optional(COUNT, Metadata::u64)?.unwrap_or(1);
    if count <= 1 {
        return Ok(None);
    }
    let path = metadata.path();
    let part = metadata.u64(NUMBER)?.saturating_add(1);
    let ending = |part: u64| format!("-{part:05}-of-{count:05}.gguf");
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let Some(stem) = name.strip_suffix(&ending(part)) else {
        let problem = GgufProblem::PartName { part, parts: count };
        return Err(wrong(path, problem));
    };
    let mut found = Vec::new();
    for other in 1..=count {
        let file = path.with_file_name(format!("{stem}{}", ending(other)));
        if !file.exists() {
            return Err(FormatError::MissingFile {
                path: file,
                needed_for: format!("part {other} of {count} of the model of {}", path.display()),
            });
        }
        found.push(file);
    }
    Ok(Some(found))
}

/// Checks that the files of `parts`, in order, are the parts of one model of `tensors` tensors.
///
/// # Errors
/// One of them states something else.
pub(crate) fn check_parts(parts: &[&Metadata], tensors: u64) -> Result<()> {
    for (index, metadata) in parts.iter().enumerate() {
        check(metadata, NUMBER, index as u64)?;
        check(metadata, COUNT, parts.len() as u64)?;
    }
    parts
        .iter()
        .try_for_each(|metadata| check(metadata, TENSORS, tensors))
}

fn check(metadata: &Metadata, key: &'static str, expected: u64) -> Result<()> {
    let found = metadata.u64(key)?;
    if found == expected {
        return Ok(());
    }
    let problem = GgufProblem::PartMismatch {
        key,
        expected,
        found,
    };
    Err(wrong(metadata.path(), problem))
}

fn wrong(path: &Path, problem: GgufProblem) -> FormatError {
    FormatError::Gguf {
        path: path.to_path_buf(),
        problem,
    }
}
