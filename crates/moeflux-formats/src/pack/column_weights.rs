//! How much errors weigh by column, where a matrix is rounded by that.

use std::sync::Arc;

use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::plan::PlannedMatrix;
use crate::error::CodecError;

/// How much the error of an element weighs by its column: finite and positive, one number a column,
/// or none for columns alike. Matrices may share them.
#[derive(Clone, Debug, Default)]
pub struct ColumnWeights(Arc<[f32]>);

impl ColumnWeights {
    /// Weights of a matrix's columns.
    #[must_use]
    pub fn new(weights: Vec<f32>) -> Self {
        Self(weights.into())
    }

    /// Whether all columns weigh the same.
    #[must_use]
    pub fn are_alike(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn get(&self) -> &[f32] {
        &self.0
    }

    pub(super) fn check(&self, matrix: &PlannedMatrix) -> Result<(), CodecError> {
        let (rows, cols, found) = (matrix.rows, matrix.cols, self.0.len());
        if found != 0 && found != cols {
            return Err(CodecError::Length {
                what: "the importance",
                rows,
                cols,
                expected: cols,
                found,
            });
        }
        let bad = self.0.iter().find(|x| !(x.is_finite() && **x > 0.0));
        bad.map_or(Ok(()), |&weight| Err(CodecError::Importance { weight }))
    }

    fn bits(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().map(|x| x.to_bits())
    }
}

impl PartialEq for ColumnWeights {
    fn eq(&self, other: &Self) -> bool {
        self.bits().eq(other.bits())
    }
}

impl Eq for ColumnWeights {}

/// A plan is told from others by a checksum of the weights.
impl Serialize for ColumnWeights {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let bytes: Vec<u8> = self.bits().flat_map(u32::to_le_bytes).collect();
        serializer.serialize_u64(xxh3_64(&bytes))
    }
}
