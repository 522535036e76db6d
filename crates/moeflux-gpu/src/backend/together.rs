//! A layer's experts computed by the device and the processor together, for rows that are not of
//! prompts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use moeflux::Error;
use moeflux::backend::ExpertStage;
use moeflux_kernels::Coding;

use super::experts::{DeviceExperts, ExpertViews, Layer, choices};
use super::host_experts::{HostExperts, Wanted};
use crate::exactness::{experts_agree, scalar_functions_agree};
use crate::matrix::Elements;
use crate::ops::{self, ExpertSlots};
use crate::{GpuError, Recorder, View};

/// The processor's part, and what is known of the device's bits.
pub(super) struct Together {
    host: HostExperts,
    /// Whether experts of these codings have the processor's bits on the device.
    agreed: HashMap<(Coding, Coding), bool>,
}

impl Together {
    pub fn new() -> Result<Together, Error> {
        Ok(Together {
            host: HostExperts::new()?,
            agreed: HashMap::new(),
        })
    }

    /// Whether the layer's experts are computed with the processor's bits: asked of the device once
    /// for each pair of codings.
    fn is_exact(&mut self, r: &mut Recorder, layer: &Layer) -> Result<bool, GpuError> {
        let (gate, up, down) = (&layer.gate.0, &layer.up.0, &layer.down.0);
        let (Elements::Coded(first), Elements::Coded(last)) = (gate.elements, down.elements) else {
            return Ok(false);
        };
        if gate != up {
            return Ok(false);
        }
        if let Some(known) = self.agreed.get(&(first, last)) {
            return Ok(*known);
        }
        // The trial records on its own: what is recorded here waits.
        let trial = &mut Recorder::new(Arc::clone(r.gpu()));
        let agree = scalar_functions_agree(trial)? && experts_agree(trial, first, last)?;
        self.agreed.insert((first, last), agree);
        Ok(agree)
    }
}

impl DeviceExperts {
    /// Computes what the experts of a layer give, some of them here.
    pub(super) fn run_together(
        &mut self,
        together: &mut Together,
        r: &mut Recorder,
        (layer, views): (usize, &ExpertViews<'_>),
        weights: View<'_>,
        stage: &mut ExpertStage,
    ) -> Result<(), Error> {
        let is_exact = together.is_exact(r, self.layer(layer)?)?;
        self.set_exact(layer, is_exact);
        let chosen = match self.take_chosen(layer) {
            Some(chosen) => chosen,
            None => choices(r, layer, views.ids, weights)?,
        };
        stage.residency.note(layer, &chosen.ids, &chosen.weights)?;
        let (missing, free) = self.layer(layer)?.missing(&chosen.experts);
        let hosted = together.host.choose(layer, &missing, free);
        // Before the device is given anything to do: it would have to be waited for.
        let x = match hosted.is_empty() {
            true => Vec::new(),
            false => r.read(&[views.x])?,
        };
        let own = chosen.experts.iter().copied().filter(|id| !hosted.contains(id));
        let own: Vec<u32> = own.collect();
        for turn in own.chunks(self.layer(layer)?.slots()) {
            let started = Instant::now();
            let (missing, _) = self.layer(layer)?.missing(turn);
            self.ensure(r, stage, layer, turn)?;
            together.host.brought(missing.len(), started.elapsed());
            self.tell(r, layer, Some(turn));
            self.layer(layer)?.compute(r, views)?;
        }
        r.submit();
        if !hosted.is_empty() {
            let x: Vec<f32> = bytemuck::pod_collect_to_vec(&x);
            let n = chosen.ids.len() / views.top_k.max(1);
            let hidden = self.layer(layer)?.gate.0.cols;
            let wanted = Wanted {
                layer,
                experts: &hosted,
                ids: &chosen.ids,
                top_k: views.top_k,
                x: &x[..n * hidden],
                hidden,
                is_rounded: is_exact,
            };
            for (choice, row) in together.host.compute(stage, &wanted)? {
                let at = views.results.offset + (choice * hidden * 4) as u64;
                r.write(views.results.buffer, at, bytemuck::cast_slice(&row));
            }
            r.gpu().tier.on_host(hosted.len());
        }
        self.tell(r, layer, None);
        Ok(())
    }
}

/// What experts of integers give, with the processor's bits.
pub(super) fn compute_exact(
    r: &mut Recorder,
    experts: &ExpertSlots<'_>,
    layer: &Layer,
    v: &ExpertViews<'_>,
) -> Result<(), GpuError> {
    let (gate, up, down) = (&layer.gate, &layer.up, &layer.down);
    let act_bytes = (experts.n * gate.0.rows * 4) as u64;
    let act = r.scratch("experts: activations", act_bytes)?;
    let act = View::first(&act, act_bytes);
    let both = (&gate.0, gate.1, up.1);
    ops::expert_exact_swiglu(r, experts, both, (v.x, v.top_k), act)?;
    ops::expert_exact(r, experts, (&down.0, down.1), (act, 1), v.results)
}
