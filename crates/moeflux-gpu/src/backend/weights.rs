//! Resident weights on the device, uploaded when first used.

use std::collections::HashMap;

use moeflux::Error;
use moeflux::graph::WeightId;
use moeflux::weights::Weights;

use crate::matrix::DeviceMatrix;
use crate::{DeviceBuffer, Gpu, View};

/// Weights by their number.
#[derive(Default)]
pub(super) struct DeviceWeights {
    matrices: HashMap<usize, DeviceMatrix>,
    vectors: HashMap<usize, (DeviceBuffer, usize)>,
}

impl DeviceWeights {
    pub fn matrix(
        &mut self,
        gpu: &Gpu,
        weights: &Weights,
        id: WeightId,
    ) -> Result<&DeviceMatrix, Error> {
        use std::collections::hash_map::Entry;
        Ok(match self.matrices.entry(id.index()) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(place) => place.insert(DeviceMatrix::upload(gpu, &weights.matrix(id)?)?),
        })
    }

    /// A vector and its length.
    pub fn vector(
        &mut self,
        gpu: &Gpu,
        weights: &Weights,
        id: WeightId,
    ) -> Result<(View<'_>, usize), Error> {
        use std::collections::hash_map::Entry;
        let (buffer, len) = match self.vectors.entry(id.index()) {
            Entry::Occupied(held) => held.into_mut(),
            Entry::Vacant(place) => {
                let values = weights.vector(id)?;
                let buffer = gpu.buffer_with("weights", bytemuck::cast_slice(values))?;
                place.insert((buffer, values.len()))
            }
        };
        Ok(((&*buffer).into(), *len))
    }

    /// A vector that is here already.
    pub fn known_vector(&self, id: WeightId) -> Result<View<'_>, Error> {
        let missing = || Error::Internal(format!("weight {id:?} is not on the device"));
        let (buffer, _) = self.vectors.get(&id.index()).ok_or_else(missing)?;
        Ok(buffer.into())
    }
}
