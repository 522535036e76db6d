//! The architectures: one file each, named after its Hugging Face `model_type`, and one line in
//! `REGISTRY`. A model file turns a configuration into a [`Blueprint`]; it sees no tensors.

mod attention;
mod blueprint;
mod compressed;
mod decoder;
mod deepseek_v2;
mod deepseek_v3;
mod deepseek_v4;
mod fields;
mod gated_streams;
mod glm4_moe;
mod glm5_next;
mod gpt_oss;
mod hybrid;
mod indexed;
mod indexed_latent;
mod kda;
mod kimi_linear;
mod latent;
mod lookahead;
mod minimax_m2;
mod mixtral;
mod ngram;
mod olmoe;
mod qwen2_moe;
mod qwen3_5_moe;
mod qwen3_moe;
mod qwen3_next;
mod qwen4_exp;
mod rotation;
mod routing;
mod streams;

pub use blueprint::{
    Blueprint, BlueprintBuilder, ExpertLayer, MatrixClass, VectorFold, WeightDecl, WeightKind,
};

use crate::Error;
use crate::config::Config;

/// Builds the blueprint of one architecture from its configuration.
type Build = fn(&Config) -> Result<Blueprint, Error>;

/// `model_type` of the configuration, and who builds it.
const REGISTRY: &[(&str, Build)] = &[
    ("deepseek_v2", deepseek_v2::build),
    ("deepseek_v3", deepseek_v3::build),
    ("deepseek_v4", deepseek_v4::build),
    ("glm4_moe", glm4_moe::build),
    ("glm4_moe_lite", deepseek_v3::build),
    ("glm5_next", glm5_next::build),
    ("gpt_oss", gpt_oss::build),
    ("kimi_k2", deepseek_v3::build),
    ("kimi_k25", deepseek_v3::build),
    ("kimi_linear", kimi_linear::build),
    ("minimax_m2", minimax_m2::build),
    ("mixtral", mixtral::build),
    ("olmoe", olmoe::build),
    ("qwen2_moe", qwen2_moe::build),
    ("qwen3_5_moe", qwen3_5_moe::build),
    ("qwen3_5_moe_text", qwen3_5_moe::build),
    ("qwen3_moe", qwen3_moe::build),
    ("qwen3_next", qwen3_next::build),
    ("qwen4_exp", qwen4_exp::build),
    ("qwen4_exp_text", qwen4_exp::build),
];

/// The supported values of `model_type`.
pub fn known() -> impl Iterator<Item = &'static str> {
    REGISTRY.iter().map(|&(name, _)| name)
}

/// The blueprint of the model that `config` describes.
///
/// # Errors
/// [`Error::UnknownModelType`], or [`Error::Config`] for a field that is missing or asks for
/// something that the architecture's file does not implement.
pub fn blueprint(config: &Config) -> Result<Blueprint, Error> {
    let model_type = config
        .text("model_type")
        .ok_or_else(|| config.error("model_type", "is missing; it names the architecture"))?;
    let Some((_, build)) = REGISTRY.iter().find(|(name, _)| *name == model_type) else {
        return Err(Error::UnknownModelType {
            path: config.path().to_owned(),
            field: "model_type",
            model_type: model_type.to_owned(),
            known: known().collect::<Vec<_>>().join(", "),
        });
    };
    build(config)
}
