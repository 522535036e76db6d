//! Tensors of integers: tables of numbers of things.

use crate::checkpoint::Checkpoint;
use crate::error::{FormatError, Result};
use crate::{DType, TensorInfo};

impl Checkpoint {
    /// The tensor of that name, which must be of signed integers of 32 or 64 bits.
    ///
    /// # Errors
    /// No such tensor, or another type.
    pub fn require_integers(&self, name: &str) -> Result<&TensorInfo> {
        let info = self.require(name)?;
        if matches!(info.dtype, DType::I32 | DType::I64) {
            return Ok(info);
        }
        Err(FormatError::WrongDType {
            tensor: name.to_owned(),
            path: self.files()[info.file].clone(),
            expected: "I64 or I32",
            found: info.dtype,
        })
    }

    /// All values of a tensor of integers, which must have the shape.
    ///
    /// # Errors
    /// No such tensor, another type or shape, or a failed read.
    pub fn read_integers(&self, name: &str, expected_shape: &[usize]) -> Result<Vec<i64>> {
        let info = self.require_integers(name)?;
        if info.shape != expected_shape {
            return Err(FormatError::WrongShape {
                tensor: name.to_owned(),
                path: self.files()[info.file].clone(),
                expected: expected_shape.to_vec(),
                found: info.shape.clone(),
            });
        }
        let mut bytes = vec![0; info.bytes as usize];
        self.read(info, 0, &mut bytes)?;
        Ok(match info.dtype {
            DType::I32 => {
                let words = bytes.as_chunks::<4>().0.iter();
                words.map(|b| i64::from(i32::from_le_bytes(*b))).collect()
            }
            _ => {
                let words = bytes.as_chunks::<8>().0.iter();
                words.map(|b| i64::from_le_bytes(*b)).collect()
            }
        })
    }
}
