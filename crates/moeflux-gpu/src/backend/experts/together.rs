//! Experts that are in the host's memory and not on the device, computed by the processor while the
//! device computes its own: of steps that are not of prompts, from activations in 8 bits on both.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use moeflux::backend::{ExpertStage, RoutedTokens};
use moeflux::graph::ExpertForm;
use moeflux::{Activations, Error, Isa};
use moeflux_kernels::{Coding, Cpu};

use super::super::budget;
use super::costs::Costs;
use super::single_op::ExpertViews;
use super::{DeviceExperts, choices};
use crate::exactness::{experts_agree, scalar_functions_agree};
use crate::matrix::Elements;
use crate::{CpuExperts, Gpu, GpuError, Recorder, View};

/// The processor's part, and what is known of the device's bits.
#[derive(Default)]
pub(in crate::backend) struct Together {
    when: CpuExperts,
    cpu: Option<Cpu>,
    costs: Costs,
    /// Whether experts of these codings come out with the processor's bits on the device.
    agreed: Vec<((Coding, Coding), bool)>,
    /// For each layer that was asked for whether the processor takes part.
    layers: BTreeMap<usize, bool>,
}

impl Together {
    pub fn new(when: CpuExperts) -> Together {
        Together {
            when,
            ..Together::default()
        }
    }

    /// What was asked for.
    pub fn when(&self) -> CpuExperts {
        self.when
    }

    /// Whether the processor takes part in a layer: the same on every step, whatever is where.
    ///
    /// # Errors
    /// [`GpuError::CpuExperts`] where it is asked for and the experts are not such; what the device
    /// reports when it is tried.
    pub fn takes_part(
        &mut self,
        gpu: &Arc<Gpu>,
        stage: &ExpertStage,
        (layer, form): (usize, &ExpertForm),
    ) -> Result<bool, Error> {
        if let Some(known) = self.layers.get(&layer) {
            return Ok(*known);
        }
        let takes_part = match (self.when, codings(stage, layer, form)?) {
            (CpuExperts::Off, _) | (CpuExperts::Auto, None) => false,
            (CpuExperts::On, None) => return Err(GpuError::CpuExperts { layer }.into()),
            (CpuExperts::On, Some(codings)) => {
                self.agree(gpu, codings)?;
                true
            }
            (CpuExperts::Auto, Some(codings)) => self.agree(gpu, codings)?,
        };
        self.layers.insert(layer, takes_part);
        Ok(takes_part)
    }

    /// Whether experts of these codings have the processor's bits on the device: tried once.
    fn agree(&mut self, gpu: &Arc<Gpu>, codings: (Coding, Coding)) -> Result<bool, GpuError> {
        if let Some((_, known)) = self.agreed.iter().find(|(known, _)| *known == codings) {
            return Ok(*known);
        }
        // A recorder of its own: what is recorded for the step waits.
        let trial = &mut Recorder::new(Arc::clone(gpu));
        let scalars = scalar_functions_agree(trial)?;
        let agree = scalars && experts_agree(trial, codings.0, codings.1)?;
        self.agreed.push((codings, agree));
        Ok(agree)
    }

    /// Computes the experts `own` of a layer and writes their results where the device's are.
    fn compute(
        &mut self,
        r: &mut Recorder,
        stage: &mut ExpertStage,
        (layer, own): (usize, &[u32]),
        tokens: RoutedTokens<'_>,
        results: View<'_>,
    ) -> Result<(), Error> {
        if self.cpu.is_none() {
            let threads = std::thread::available_parallelism().map_or(1, usize::from);
            self.cpu = Some(Cpu::new(Isa::detect(), threads)?);
        }
        let Some(cpu) = &self.cpu else {
            return Ok(());
        };
        let (started, waited) = (Instant::now(), stage.residency.waited());
        stage.compute_some(
            cpu,
            Activations::Int8,
            (layer, own),
            tokens,
            &mut |at, row| {
                let place = results.offset + (at * row.len() * 4) as u64;
                r.write(results.buffer, place, bytemuck::cast_slice(row));
                Ok(())
            },
        )?;
        let waited = stage.residency.waited().saturating_sub(waited);
        let time = started.elapsed().saturating_sub(waited);
        self.costs.computed(own.len(), time);
        r.gpu().tier.beside(own.len());
        Ok(())
    }
}

/// The codings of gate and up and of down, where the device has kernels with the processor's order.
fn codings(
    stage: &ExpertStage,
    layer: usize,
    form: &ExpertForm,
) -> Result<Option<(Coding, Coding)>, Error> {
    let [gate, up, down] = budget::forms(stage.layout(layer)?)?;
    Ok(match (gate.elements, down.elements) {
        (Elements::Coded(first), Elements::Coded(last))
            if gate == up && *form == ExpertForm::default() =>
        {
            Some((first, last))
        }
        _ => None,
    })
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
        let chosen = match self.take_chosen(layer) {
            Some(chosen) => chosen,
            None => choices(r, layer, views.ids, weights)?,
        };
        stage.residency.note(layer, &chosen.ids, &chosen.weights)?;
        let (missing, free) = self.layer(layer)?.missing(&chosen.experts);
        let hosted = together.costs.choose(layer, &missing, free);
        // Before the device is given anything to do: it would have to be waited for.
        let x: Vec<f32> = match hosted.is_empty() {
            true => Vec::new(),
            false => bytemuck::pod_collect_to_vec(&r.read(&[views.x])?),
        };
        r.submit();
        let own = chosen.experts.iter().copied();
        let own: Vec<u32> = own.filter(|id| !hosted.contains(id)).collect();
        let room = self.layer(layer)?.slots();
        for turn in own.chunks(room) {
            let (started, waited) = (Instant::now(), stage.residency.waited());
            let brought = self.ensure(r, stage, layer, turn)?;
            let waited = stage.residency.waited().saturating_sub(waited);
            let time = started.elapsed().saturating_sub(waited);
            together.costs.brought(brought, time);
            self.tell(r, layer, (own.len() > room).then_some(turn));
            self.layer(layer)?.compute(r, views)?;
        }
        r.submit();
        if !hosted.is_empty() {
            self.has_missed = true;
            let hidden = self.layer(layer)?.gate.0.cols;
            let tokens = RoutedTokens {
                x: &x[..views.n * hidden],
                ids: &chosen.ids,
                weights: &chosen.weights,
                top_k: views.top_k,
            };
            together.compute(r, stage, (layer, &hosted), tokens, views.results)?;
        }
        self.tell(r, layer, None);
        Ok(())
    }
}
