//! What a dispatch is made of: a vector from its sources, matrices from their buffers.

use moeflux::Error;
use moeflux::graph::{BufferId, BufferPool, WeightId};
use moeflux::weights::Weights;

use super::super::buffers::DeviceBuffers;
use super::super::plan::Source;
use super::super::weights::DeviceWeights;
use crate::DeviceBuffer;
use crate::ops::decode::{Input, MAX_SEGMENTS, Segment};

/// What a source's buffers and weights are on the device.
pub(in crate::backend) fn input<'a>(
    source: &Source,
    buffers: &'a DeviceBuffers,
    (held, weights): (&'a DeviceWeights, &Weights),
    pool: &BufferPool,
) -> Result<Input<'a>, Error> {
    let view = |id: BufferId| buffers.view(pool, id);
    Ok(match *source {
        Source::Plain(x) => Input::Plain(view(x)?),
        Source::Norm { x, weight, eps } => Input::Norm {
            x: view(x)?,
            weight: held.known_vector(weight)?,
            eps,
        },
        Source::GatedNorm {
            x,
            gate,
            weight,
            eps,
        } => Input::GatedNorm {
            x: view(x)?,
            gate: view(gate)?,
            weight: held.known_vector(weight)?,
            len: weights.vector(weight)?.len(),
            eps,
        },
        Source::SigmoidMul { x, gate, pairs } => Input::SigmoidMul {
            x: view(x)?,
            gate: view(gate)?,
            pairs,
        },
        Source::Swiglu { gate, up } => Input::Swiglu {
            gate: view(gate)?,
            up: view(up)?,
        },
    })
}

/// Matrices that one dispatch can take each, with their buffer.
pub(super) fn batches<'a>(
    outputs: &[(WeightId, BufferId)],
    buffers: &DeviceBuffers,
    held: &'a DeviceWeights,
) -> Result<Vec<(&'a DeviceBuffer, Vec<Segment>)>, Error> {
    let mut all: Vec<(&DeviceBuffer, Vec<Segment>)> = Vec::new();
    for (weight, out) in outputs {
        let matrix = held.known_matrix(*weight)?;
        let (_, start) = buffers.set_view(*out)?;
        for band in &matrix.bands {
            let segment = Segment {
                form: band.form,
                place: band.form.place(band.start),
                stride: matrix.form.rows,
                out: start + band.first_row,
            };
            match all.last_mut() {
                Some((buffer, segments))
                    if buffer.id == band.buffer.id && fits(segments, &segment) =>
                {
                    segments.push(segment);
                }
                _ => all.push((&band.buffer, vec![segment])),
            }
        }
    }
    Ok(all)
}

/// Whether a dispatch takes another matrix.
fn fits(segments: &[Segment], more: &Segment) -> bool {
    let mut codings = vec![more.form.elements];
    for segment in segments {
        if !codings.contains(&segment.form.elements) {
            codings.push(segment.form.elements);
        }
    }
    segments.len() < MAX_SEGMENTS && codings.len() <= 2
}
