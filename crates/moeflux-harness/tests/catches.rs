//! The harness notices what it is there to notice: a backend that gets one element of one
//! operation wrong, by a bit or by much, and one that loses state.

#![allow(clippy::panic)]

use moeflux::backend::{Backend, ExpertStage, Step};
use moeflux::graph::{BufferPool, Op};
use moeflux::weights::Weights;
use moeflux::{Activations, Error};
use moeflux_harness::backends::reference;
use moeflux_harness::run::{close_on, same_on};
use moeflux_harness::{HarnessError, cases};

/// The reference, except for what one kind of operation does.
struct Broken {
    inner: Box<dyn Backend>,
    op: &'static str,
    fault: Fault,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// The last bit of one element.
    Bit,
    /// All elements by half.
    Scale,
    /// The operation does not happen.
    Skip,
}

impl Backend for Broken {
    fn run(
        &mut self,
        op: &Op,
        step: &mut Step<'_>,
        weights: &Weights,
        buffers: &mut BufferPool,
        experts: &mut ExpertStage,
    ) -> Result<(), Error> {
        if op.name() == self.op && self.fault == Fault::Skip {
            return Ok(());
        }
        self.inner.run(op, step, weights, buffers, experts)?;
        if let (true, Some(&out)) = (op.name() == self.op, op.writes().last()) {
            let len = buffers.len(out);
            let mut memory = buffers.take(out);
            match self.fault {
                Fault::Bit => memory[len - 1] = f32::from_bits(memory[len - 1].to_bits() ^ 1),
                _ => memory[..len].iter_mut().for_each(|v| *v *= 1.5),
            }
            buffers.put(out, memory);
        }
        Ok(())
    }
}

fn broken(op: &'static str, fault: Fault) -> Box<dyn Backend> {
    Box::new(Broken {
        inner: reference(Activations::F32),
        op,
        fault,
    })
}

/// Requires a difference that names the operation.
fn names<T: std::fmt::Debug>(result: Result<T, HarnessError>, op: &str) {
    match result {
        Err(HarnessError::Difference { place, .. }) if place.contains(op) => {}
        other => panic!("a broken {op} gave {other:?}"),
    }
}

#[test]
fn a_wrong_bit_or_scale_in_any_operation_is_found() {
    for case in cases::one_op::cases(1).expect("cases can be made") {
        for op in case.graph.ops.iter().filter(|op| !op.writes().is_empty()) {
            // It writes numbers of entries, and a wrong one is refused by who reads it.
            if op.name() == "choose_entries" {
                continue;
            }
            let good = || reference(Activations::F32);
            names(
                same_on(&case, broken(op.name(), Fault::Bit), good()),
                op.name(),
            );
            let found = close_on(&case, broken(op.name(), Fault::Bit), good(), 1e-5);
            assert!(found.expect("a bit is close") > 0.0);
            let found = close_on(&case, broken(op.name(), Fault::Scale), good(), 1e-2);
            names(found, op.name());
        }
    }
}

#[test]
fn lost_state_is_found() {
    let cases = cases::one_op::cases(2).expect("cases can be made");
    let append = cases.iter().find(|c| c.name.starts_with("kv_append"));
    let append = append.expect("there is one");
    let good = || reference(Activations::F32);
    let found = same_on(append, broken("kv_append", Fault::Skip), good());
    names(found, "state 0");
    let found = close_on(append, broken("kv_append", Fault::Skip), good(), 1e-2);
    names(found, "state 0");
}
