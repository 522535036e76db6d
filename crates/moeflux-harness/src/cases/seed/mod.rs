//! The 33 cases of the project's seed (moeflux 0.1.0-pre.3, `batched_diff_oracle.rs`): the same
//! names, shapes, seeds, generator and order of drawing; synthetic data, no model needed. The
//! contracts are stricter than the seed's cosine of 0.9999: see [`Tolerance`](crate::Tolerance).

mod attention;
mod experts;
mod matmul;
mod rows;

use crate::{Case, HarnessError};

/// A case, and other cases that must give the same rows.
#[derive(Clone, Debug)]
pub struct SeedCase {
    /// The case; one session.
    pub case: Case,
    /// Set where the case is too large for plain code: the same with few of its rows.
    pub sample: Option<Twin>,
    /// Cases that compute the same in another arrangement. Twins and samples of the same name,
    /// also of different cases, are the same.
    pub twins: Vec<Twin>,
}

/// Another case with rows in common.
#[derive(Clone, Debug)]
pub struct Twin {
    /// The other case; one session.
    pub case: Case,
    /// Rows of the first case.
    pub rows: Vec<usize>,
    /// The same rows in the other case.
    pub twin_rows: Vec<usize>,
}

/// The names, in the seed's order.
pub const NAMES: [&str; 33] = [
    "bf16_matmul_n_tokens_matches_cpu",
    "bf16_matmul_n_tokens_n1_matches_single_matvec",
    "dequant_matvec_4bit_n_tokens_v3_matches_cpu",
    "dequant_matvec_4bit_n_tokens_fast_matches_cpu",
    "dequant_matvec_4bit_n_tokens_v3_n1_matches_single",
    "sdpa_va_causal_flash_n1_single_block",
    "sdpa_va_causal_flash_n1_multi_block",
    "sdpa_va_causal_flash_n4_tokenwise",
    "sdpa_va_causal_flash_m512_square_causal",
    "sdpa_va_causal_flash_m1500_deep_chunk",
    "sdpa_gqa2_causal_flash_n1_single_block",
    "sdpa_gqa2_causal_flash_n1_multi_block",
    "sdpa_gqa2_causal_flash_n4_tokenwise",
    "sdpa_gqa2_causal_flash_m512_square_causal",
    "sdpa_gqa2_causal_flash_m1500_deep_chunk",
    "sdpa_gqa2_dd_causal_flash_n1_single_block",
    "sdpa_gqa2_dd_causal_flash_n1_multi_block",
    "sdpa_gqa2_dd_causal_flash_n4_tokenwise",
    "sdpa_gqa2_dd_causal_flash_m512_square_causal",
    "sdpa_gqa2_dd_causal_flash_m1500_deep_chunk",
    "sdpa_vb_causal_flash_n1_single_block",
    "sdpa_vb_causal_flash_n1_multi_block",
    "sdpa_vb_causal_flash_n4_tokenwise",
    "sdpa_vb_causal_flash_m512_square_causal",
    "sdpa_vb_causal_flash_m1500_deep_chunk",
    "moe_permute_fuse_n_tokens_matches_tokenwise",
    "moe_router_gpu_matches_cpu_a3b_n1",
    "moe_router_gpu_matches_cpu_a3b_n8",
    "moe_router_gpu_matches_cpu_a3b_n256",
    "moe_router_gpu_matches_cpu_e128_k8",
    "moe_router_gpu_matches_cpu_e512_k10",
    "rms_norm_bf16_fused_n_tokens_matches_cpu",
    "residual_add_n_tokens_matches_cpu",
];

/// The case of that name.
///
/// # Errors
/// [`HarnessError::Case`] if there is none.
pub fn case(name: &str) -> Result<SeedCase, HarnessError> {
    let found = match name {
        "rms_norm_bf16_fused_n_tokens_matches_cpu" => Some(rows::rms_norm(name)),
        "residual_add_n_tokens_matches_cpu" => Some(rows::residual_add(name)),
        "moe_permute_fuse_n_tokens_matches_tokenwise" => Some(experts::permute_fuse(name)),
        _ => None,
    };
    let found = found
        .or_else(|| matmul::case(name))
        .or_else(|| attention::case(name))
        .or_else(|| rows::router(name));
    found.ok_or_else(|| HarnessError::Case {
        case: name.to_owned(),
        problem: "there is no such case; NAMES lists them".to_owned(),
    })
}

impl SeedCase {
    /// A case of its own.
    fn alone(case: Case) -> SeedCase {
        SeedCase {
            case,
            sample: None,
            twins: Vec::new(),
        }
    }

    /// Adds a case that has the first `rows` rows in common.
    fn with_twin(mut self, case: Case, rows: usize) -> SeedCase {
        self.twins.push(Twin {
            case,
            rows: (0..rows).collect(),
            twin_rows: (0..rows).collect(),
        });
        self
    }
}
