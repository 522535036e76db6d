//! The architectures that open from GGUF, and how the files of each differ.

use moeflux_formats::gguf::Metadata;

use super::ARCHITECTURE;
use super::fields::{
    Fields, deepseek2, deepseek4, glm4moe, gpt_oss, kimi_linear, llama, minimax_m2,
};
use super::fields::{olmoe, qwen2moe, qwen3moe, qwen3next, qwen35moe};
use crate::Error;

/// An architecture as GGUF files name it.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// Its name in metadata, which is also the first part of its keys.
    pub name: &'static str,
    /// Reads what it has beside the fields that all architectures share.
    pub fields: fn(&mut Fields<'_>) -> Result<(), Error>,
    /// What the norm before a layer's MLP is called.
    pub mlp_norm: &'static str,
    /// Whether only a part of each head may rotate.
    pub rotates_part: bool,
    /// Whether rows of queries and keys are in the order of interleaved pairs, where the
    /// checkpoint has them in halves.
    pub interleaves: bool,
    /// Whether value heads of linear attention are in tiled order, where the checkpoint groups
    /// the heads of a key head.
    pub tiles_heads: bool,
}

/// What most of them have in common.
const COMMON: Architecture = Architecture {
    name: "",
    fields: qwen3moe,
    mlp_norm: "ffn_norm.weight",
    rotates_part: false,
    interleaves: false,
    tiles_heads: false,
};
/// The name of the norm that follows attention, in architectures that say so.
const POST_NORM: &str = "post_attention_norm.weight";

static ALL: [Architecture; 12] = [
    Architecture {
        name: "qwen3moe",
        ..COMMON
    },
    Architecture {
        name: "qwen35moe",
        fields: qwen35moe,
        mlp_norm: POST_NORM,
        rotates_part: true,
        tiles_heads: true,
        ..COMMON
    },
    Architecture {
        name: "qwen3next",
        fields: qwen3next,
        mlp_norm: POST_NORM,
        rotates_part: true,
        ..COMMON
    },
    Architecture {
        name: "qwen2moe",
        fields: qwen2moe,
        ..COMMON
    },
    Architecture {
        name: "olmoe",
        fields: olmoe,
        ..COMMON
    },
    Architecture {
        name: "llama",
        fields: llama,
        interleaves: true,
        ..COMMON
    },
    Architecture {
        name: "glm4moe",
        fields: glm4moe,
        mlp_norm: POST_NORM,
        rotates_part: true,
        ..COMMON
    },
    Architecture {
        name: "minimax-m2",
        fields: minimax_m2,
        rotates_part: true,
        ..COMMON
    },
    Architecture {
        name: "deepseek2",
        fields: deepseek2,
        ..COMMON
    },
    Architecture {
        name: "deepseek4",
        fields: deepseek4,
        ..COMMON
    },
    Architecture {
        name: "gpt-oss",
        fields: gpt_oss,
        mlp_norm: POST_NORM,
        ..COMMON
    },
    Architecture {
        name: "kimi-linear",
        fields: kimi_linear,
        ..COMMON
    },
];

impl Architecture {
    /// The architecture that `general.architecture` names.
    pub fn of(metadata: &Metadata) -> Result<&'static Architecture, Error> {
        let name = metadata.string(ARCHITECTURE)?;
        let found = ALL.iter().find(|a| a.name == name);
        found.ok_or_else(|| Error::UnknownModelType {
            path: metadata.path().to_owned(),
            field: ARCHITECTURE,
            model_type: name.to_owned(),
            known: names().collect::<Vec<_>>().join(", "),
        })
    }

    /// The architecture of that name, for tests.
    #[cfg(test)]
    pub fn named(name: &str) -> Option<&'static Architecture> {
        ALL.iter().find(|a| a.name == name)
    }
}

/// The values of `general.architecture` that open.
fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|a| a.name)
}
