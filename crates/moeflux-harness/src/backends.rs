//! The host's backends: the plain reference, and the optimized kernels on every instruction set
//! of this machine.

use moeflux::backend::{Backend, HostBackend, Reference};
use moeflux::kernels::Cpu;
use moeflux::{Activations, Error, Isa};

use crate::HarnessError;

/// The plain kernels that specify every bit.
pub fn reference(activations: Activations) -> Box<dyn Backend> {
    Box::new(HostBackend::new(Reference, activations))
}

/// The optimized kernels.
///
/// # Errors
/// If this machine does not have the instruction set.
pub fn cpu(
    isa: Isa,
    threads: usize,
    activations: Activations,
) -> Result<Box<dyn Backend>, HarnessError> {
    let cpu = Cpu::new(isa, threads).map_err(Error::from)?;
    Ok(Box::new(HostBackend::new(cpu, activations)))
}

/// Every instruction set of this machine, with one thread and with two.
pub fn processors() -> Vec<(Isa, usize)> {
    let pair = |isa| [(isa, 1), (isa, 2)];
    Isa::available().into_iter().flat_map(pair).collect()
}
