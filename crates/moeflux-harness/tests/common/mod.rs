//! What every case is held to, whatever it is.
#![allow(dead_code, reason = "each test program uses a part")]

use moeflux::kernels::KvType;
use moeflux::{Activations, Isa};
use moeflux_harness::backends::{cpu, processors, reference};
use moeflux_harness::compare::{close, identical, identical_timelines};
use moeflux_harness::{Case, Trace, oracle, run::run};

/// The activations that make a difference to the case.
pub fn activations(case: &Case) -> &'static [Activations] {
    match case.has_integer_weights() {
        true => &[Activations::F32, Activations::Int8],
        false => &[Activations::F32],
    }
}

/// Runs on the best instruction set with two threads.
pub fn best(case: &Case, activations: Activations) -> Trace {
    let backend = cpu(Isa::detect(), 2, activations).expect("this machine has it");
    agreed(case, run(case, backend))
}

/// The reference's trace, after every instruction set and thread count gave its bits, and exact
/// arithmetic was near.
pub fn reference_trace(case: &Case, activations: Activations) -> Trace {
    let expected = agreed(case, run(case, reference(activations)));
    for (isa, threads) in processors() {
        let backend = cpu(isa, threads, activations).expect("this machine has it");
        let found = agreed(case, run(case, backend));
        let same = identical(&found, &expected);
        agreed(
            case,
            same.map_err(|e| (format!("{isa}, {threads} threads"), e)),
        );
    }
    let tolerance = match activations {
        Activations::Int8 => case.tolerance.int8,
        Activations::F32 => case.tolerance.f32,
    };
    if tolerance.is_infinite() {
        return expected;
    }
    let exact = agreed(case, oracle::run(case));
    let error = close(&expected, &exact, tolerance);
    let error = agreed(
        case,
        error.map_err(|e| (format!("{activations} against exact"), e)),
    );
    println!(
        "{}, {activations}: error {error:.2e}, allowed {tolerance:.0e}",
        case.name
    );
    expected
}

/// The same in other steps, and beside strangers.
pub fn same_in_any_company(case: &Case, activations: Activations, expected: &Trace) {
    for lengths in [&[1][..], &[2, 3, 1]] {
        let cut = agreed(case, case.in_steps(lengths));
        agreed(&cut, identical(&best(&cut, activations), expected));
    }
    let wide = agreed(case, case.beside_strangers());
    let found = best(&wide, activations);
    for (number, expected) in expected.sessions.iter().enumerate() {
        agreed(
            &wide,
            identical_timelines(&found.sessions[3 * number + 1], expected),
        );
    }
}

/// The value, or a panic that names the case.
pub fn agreed<T, E: std::fmt::Debug>(case: &Case, result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{}: {error:?}", case.name),
    }
}

/// The types of keys and values that make a difference to the case.
pub fn kv_types(case: &Case) -> &'static [KvType] {
    match case.has_keys() {
        true => &[KvType::F16, KvType::F32],
        false => &[KvType::F16],
    }
}

/// Everything that a case of ordinary size is held to.
pub fn check(case: &Case) {
    for &kv_type in kv_types(case) {
        let case = case.clone().keeping(kv_type);
        for &activations in activations(&case) {
            let expected = reference_trace(&case, activations);
            same_in_any_company(&case, activations, &expected);
        }
    }
}
