//! Resident weights on the device, uploaded when first used.

use std::collections::HashMap;
use std::sync::Arc;

use moeflux::Error;
use moeflux::graph::WeightId;
use moeflux::weights::Weights;

use crate::matrix::{Band, DeviceMatrix, Form};
use crate::{DeviceBuffer, Gpu, View};

/// Weights by their number.
#[derive(Default)]
pub(super) struct DeviceWeights {
    matrices: HashMap<usize, DeviceMatrix>,
    vectors: HashMap<usize, (DeviceBuffer, usize)>,
    pairs: HashMap<(usize, usize), DeviceBuffer>,
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

    /// Uploads matrices into one buffer, if that is not too large and none of them is there yet.
    pub fn together(
        &mut self,
        gpu: &Gpu,
        weights: &Weights,
        ids: impl Iterator<Item = WeightId>,
    ) -> Result<(), Error> {
        let mut forms = Vec::new();
        for id in ids {
            if self.matrices.contains_key(&id.index()) {
                return Ok(());
            }
            let form = Form::of(&weights.matrix(id)?);
            forms.push((id, form));
        }
        let bytes: usize = forms.iter().map(|(_, form)| form.bytes()).sum();
        if bytes as u64 > gpu.most_bytes_bound() {
            return Ok(());
        }
        let buffer = Arc::new(gpu.buffer("weights", bytes as u64)?);
        let mut start = 0;
        for (id, form) in forms {
            let mut packed = Vec::with_capacity(form.bytes());
            form.pack(&weights.matrix(id)?, &mut packed);
            gpu.write(&buffer, start as u64, &packed);
            let band = Band {
                first_row: 0,
                form,
                buffer: Arc::clone(&buffer),
                start,
            };
            let bands = vec![band];
            self.matrices
                .insert(id.index(), DeviceMatrix { form, bands });
            start += form.bytes();
        }
        Ok(())
    }

    /// A matrix that is here already.
    pub fn known_matrix(&self, id: WeightId) -> Result<&DeviceMatrix, Error> {
        self.matrices.get(&id.index()).ok_or_else(|| missing(id))
    }

    /// Two vectors one behind the other.
    pub fn pair(
        &mut self,
        gpu: &Gpu,
        weights: &Weights,
        (a, b): (WeightId, WeightId),
    ) -> Result<(), Error> {
        use std::collections::hash_map::Entry;
        if let Entry::Vacant(place) = self.pairs.entry((a.index(), b.index())) {
            let both = [weights.vector(a)?, weights.vector(b)?].concat();
            place.insert(gpu.buffer_with("weights", bytemuck::cast_slice(&both))?);
        }
        Ok(())
    }

    /// Two vectors that [`DeviceWeights::pair`] has put together.
    pub fn known_pair(&self, (a, b): (WeightId, WeightId)) -> Result<View<'_>, Error> {
        let pair = self.pairs.get(&(a.index(), b.index()));
        Ok(pair.ok_or_else(|| missing(a))?.into())
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
        let (buffer, _) = self.vectors.get(&id.index()).ok_or_else(|| missing(id))?;
        Ok(buffer.into())
    }
}

fn missing(id: WeightId) -> Error {
    Error::Internal(format!("weight {id:?} is not on the device"))
}
