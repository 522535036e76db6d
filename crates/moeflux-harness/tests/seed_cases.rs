//! The seed's 33 cases: on the reference and on every instruction set and thread count (bit for
//! bit), against exact arithmetic, in other steps, beside strangers, and in every arrangement
//! that the seed has variants for.

#![allow(clippy::panic, clippy::print_stdout)]

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use common::{activations, agreed, best, kv_types, reference_trace, same_in_any_company};
use moeflux::Activations;
use moeflux::kernels::KvType;
use moeflux_harness::cases::seed::{NAMES, SeedCase, Twin, case};
use moeflux_harness::compare::identical_timelines;
use moeflux_harness::{Case, Trace};

/// Held by a case that takes much memory.
static LARGE: Mutex<()> = Mutex::new(());
/// What the plain code gave for samples, and the best for twins: several cases share them.
static SAMPLES: Traces = Mutex::new(BTreeMap::new());
static TWINS: Traces = Mutex::new(BTreeMap::new());

type Traces = Mutex<BTreeMap<String, Arc<Trace>>>;

/// The case's trace, made once.
fn once(
    traces: &Traces,
    case: &Case,
    activations: Activations,
    make: fn(&Case, Activations) -> Trace,
) -> Arc<Trace> {
    let mut traces = traces.lock().unwrap_or_else(PoisonError::into_inner);
    let name = format!("{}, {activations}, {}", case.name, case.kv_type);
    let trace = traces.entry(name);
    Arc::clone(trace.or_insert_with(|| Arc::new(make(case, activations))))
}

/// Compares the rows that a case and another have in common.
fn same_rows(trace: &Trace, twin: &Twin, twin_trace: &Trace) {
    let rows = trace.sessions[0].rows(&twin.rows);
    let same = identical_timelines(&twin_trace.sessions[0].rows(&twin.twin_rows), &rows);
    agreed(&twin.case, same);
}

fn check(name: &str) {
    let seed_case = case(name).expect("the case is listed");
    let _alone = seed_case
        .sample
        .as_ref()
        .map(|_| LARGE.lock().unwrap_or_else(PoisonError::into_inner));
    for &kv_type in kv_types(&seed_case.case) {
        check_keeping(seed_case.clone(), kv_type);
    }
}

fn check_keeping(seed_case: SeedCase, kv_type: KvType) {
    let SeedCase {
        case,
        sample,
        twins,
    } = seed_case;
    let case = case.keeping(kv_type);
    for &activations in activations(&case) {
        let whole = match &sample {
            Some(sample) => {
                let few = sample.case.clone().keeping(kv_type);
                let expected = once(&SAMPLES, &few, activations, reference_trace);
                if kv_type != KvType::default() {
                    continue;
                }
                let whole = best(&case, activations);
                same_rows(&whole, sample, &expected);
                whole
            }
            None => {
                let expected = reference_trace(&case, activations);
                same_in_any_company(&case, activations, &expected);
                expected
            }
        };
        for twin in &twins {
            let other = twin.case.clone().keeping(kv_type);
            let trace = once(&TWINS, &other, activations, best);
            same_rows(&whole, twin, &trace);
        }
    }
}

/// A test for each case, and the list of their names.
macro_rules! seed_tests {
    ($($name:ident)*) => {
        $(#[test] fn $name() { check(stringify!($name)); })*
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

seed_tests! {
    bf16_matmul_n_tokens_matches_cpu
    bf16_matmul_n_tokens_n1_matches_single_matvec
    dequant_matvec_4bit_n_tokens_v3_matches_cpu
    dequant_matvec_4bit_n_tokens_fast_matches_cpu
    dequant_matvec_4bit_n_tokens_v3_n1_matches_single
    sdpa_va_causal_flash_n1_single_block
    sdpa_va_causal_flash_n1_multi_block
    sdpa_va_causal_flash_n4_tokenwise
    sdpa_va_causal_flash_m512_square_causal
    sdpa_va_causal_flash_m1500_deep_chunk
    sdpa_gqa2_causal_flash_n1_single_block
    sdpa_gqa2_causal_flash_n1_multi_block
    sdpa_gqa2_causal_flash_n4_tokenwise
    sdpa_gqa2_causal_flash_m512_square_causal
    sdpa_gqa2_causal_flash_m1500_deep_chunk
    sdpa_gqa2_dd_causal_flash_n1_single_block
    sdpa_gqa2_dd_causal_flash_n1_multi_block
    sdpa_gqa2_dd_causal_flash_n4_tokenwise
    sdpa_gqa2_dd_causal_flash_m512_square_causal
    sdpa_gqa2_dd_causal_flash_m1500_deep_chunk
    sdpa_vb_causal_flash_n1_single_block
    sdpa_vb_causal_flash_n1_multi_block
    sdpa_vb_causal_flash_n4_tokenwise
    sdpa_vb_causal_flash_m512_square_causal
    sdpa_vb_causal_flash_m1500_deep_chunk
    moe_permute_fuse_n_tokens_matches_tokenwise
    moe_router_gpu_matches_cpu_a3b_n1
    moe_router_gpu_matches_cpu_a3b_n8
    moe_router_gpu_matches_cpu_a3b_n256
    moe_router_gpu_matches_cpu_e128_k8
    moe_router_gpu_matches_cpu_e512_k10
    rms_norm_bf16_fused_n_tokens_matches_cpu
    residual_add_n_tokens_matches_cpu
}

#[test]
fn all_of_the_seed_is_tested() {
    assert_eq!(TESTED, NAMES);
}
