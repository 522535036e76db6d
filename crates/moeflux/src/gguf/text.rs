//! Chat template, stop tokens and suggested sampling from GGUF metadata.

use moeflux_formats::gguf::Metadata;
use serde_json::Map;

use super::tokenizer::{TOKENS, token_of};
use crate::text::{ChatTemplate, GenerationConfig, SuggestedSampling, TextError};

const TEMPLATE: &str = "tokenizer.chat_template";
/// The template for conversations with tools, where it is another.
const TOOL_TEMPLATE: &str = "tokenizer.chat_template.tool_use";

/// Keys of tokens that templates name, and how they name them.
const NAMED_TOKENS: [(&str, &str); 4] = [
    ("tokenizer.ggml.bos_token_id", "bos_token"),
    ("tokenizer.ggml.eos_token_id", "eos_token"),
    ("tokenizer.ggml.unknown_token_id", "unk_token"),
    ("tokenizer.ggml.padding_token_id", "pad_token"),
];
/// Keys of tokens that end a generation.
const STOP_KEYS: [&str; 3] = [
    "tokenizer.ggml.eos_token_id",
    "tokenizer.ggml.eot_token_id",
    "tokenizer.ggml.eom_token_id",
];
/// Tokens that end a generation whatever the keys say: files often name one of them only.
const STOP_TOKENS: [&str; 5] = [
    "<|im_end|>",
    "<|endoftext|>",
    // gpt-oss.
    "<|return|>",
    "<|call|>",
    // Kimi.
    "[EOS]",
];

/// The chat template that `metadata` holds.
///
/// # Errors
/// [`TextError::NoTemplate`] if there is none, or what is wrong with it.
pub(crate) fn chat_template(metadata: &Metadata) -> Result<ChatTemplate, TextError> {
    let path = metadata.path().to_owned();
    let Some(default) = metadata.optional(TEMPLATE, Metadata::string)? else {
        return Err(TextError::NoTemplate { dir: path });
    };
    let mut tokens = Map::new();
    for (key, name) in NAMED_TOKENS {
        if let Some(token) = token_of(metadata, key)? {
            tokens.insert(name.to_owned(), token.into());
        }
    }
    let with_tools = metadata.optional(TOOL_TEMPLATE, Metadata::string)?;
    ChatTemplate::from_sources(path, default, with_tools, tokens)
}

/// Stop tokens and suggested sampling that `metadata` holds.
///
/// # Errors
/// A key of the wrong type.
pub(crate) fn generation_config(metadata: &Metadata) -> Result<GenerationConfig, TextError> {
    let mut stop_tokens: Vec<u32> = Vec::new();
    let mut stop = |id: u64| {
        if let Ok(id) = u32::try_from(id)
            && !stop_tokens.contains(&id)
        {
            stop_tokens.push(id);
        }
    };
    for key in STOP_KEYS {
        metadata.optional(key, Metadata::u64)?.map(&mut stop);
    }
    if let Some(tokens) = metadata.optional(TOKENS, Metadata::strings)? {
        for (id, token) in tokens.iter().enumerate() {
            if STOP_TOKENS.contains(&token) {
                stop(id as u64);
            }
        }
    }
    let number = |name: &str| {
        let key = format!("general.sampling.{name}");
        metadata.optional(&key, Metadata::f32)
    };
    let top_k = metadata.optional("general.sampling.top_k", Metadata::u64)?;
    Ok(GenerationConfig {
        stop_tokens,
        suggested: SuggestedSampling {
            do_sample: None,
            temperature: number("temp")?,
            top_k: top_k.and_then(|k| usize::try_from(k).ok()),
            top_p: number("top_p")?,
            min_p: number("min_p")?,
            repetition_penalty: number("penalty_repeat")?,
        },
    })
}
