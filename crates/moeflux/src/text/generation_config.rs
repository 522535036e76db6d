//! What a model's files say about ending and sampling a generation.
//!
//! Stop tokens come from `generation_config.json`, else `config.json`, else the tokenizer's
//! `eos_token`. Sampling values found are offered and never applied unasked: greedy is the default.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{TextError, Tokenizer, read_json};

/// Sampling values that the model's author suggests; each is `None` where the file is silent.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SuggestedSampling {
    /// Whether to draw tokens at all, rather than take the most likely one.
    pub do_sample: Option<bool>,
    /// Divides the logits.
    pub temperature: Option<f32>,
    /// Number of most likely tokens to keep.
    pub top_k: Option<usize>,
    /// Probability that the kept tokens reach together.
    pub top_p: Option<f32>,
    /// Least probability of a kept token, relative to the most likely one's.
    pub min_p: Option<f32>,
    /// Penalty on tokens seen before; 1 is none.
    pub repetition_penalty: Option<f32>,
}

/// Stop tokens and suggested sampling of a model directory.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GenerationConfig {
    /// Tokens that end a generation; empty when no file names one.
    pub stop_tokens: Vec<u32>,
    /// The author's sampling values.
    pub suggested: SuggestedSampling,
}

impl GenerationConfig {
    /// Reads the files of a model directory; the tokenizer resolves `eos_token` to its id.
    ///
    /// # Errors
    /// A file is unreadable, not JSON, or a field has the wrong type.
    pub fn open(dir: &Path, tokenizer: Option<&Tokenizer>) -> Result<Self, TextError> {
        let path = dir.join("generation_config.json");
        let generation = read_json(&path)?.unwrap_or_default();
        let mut found = Self {
            stop_tokens: Vec::new(),
            suggested: suggested(&path, &generation)?,
        };
        found.stop_tokens = token_ids(&path, &generation)?;
        if found.stop_tokens.is_empty() {
            let path = dir.join("config.json");
            let config = read_json(&path)?.unwrap_or_default();
            found.stop_tokens = token_ids(&path, &config)?;
            if let (true, Some(Value::Object(text))) =
                (found.stop_tokens.is_empty(), config.get("text_config"))
            {
                found.stop_tokens = token_ids(&path, text)?;
            }
        }
        if let (true, Some(tokenizer)) = (found.stop_tokens.is_empty(), tokenizer) {
            let config = read_json(&dir.join("tokenizer_config.json"))?.unwrap_or_default();
            let id = config.get("eos_token").and_then(token_text);
            found
                .stop_tokens
                .extend(id.and_then(|token| tokenizer.token_to_id(token)));
        }
        Ok(found)
    }
}

/// A token's text in `tokenizer_config.json`: a string, or an object with `content`.
pub(super) fn token_text(value: &Value) -> Option<&str> {
    value
        .as_str()
        .or_else(|| value.get("content").and_then(Value::as_str))
}

fn token_ids(path: &Path, config: &Map<String, Value>) -> Result<Vec<u32>, TextError> {
    let one = |value: &Value| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| wrong_type(path, "eos_token_id", "a token id or a list of them", value))
    };
    match config.get("eos_token_id") {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(values)) => values.iter().map(one).collect(),
        Some(value) => Ok(vec![one(value)?]),
    }
}

fn suggested(path: &Path, config: &Map<String, Value>) -> Result<SuggestedSampling, TextError> {
    let number = |name: &str| match config.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64() {
            Some(number) => Ok(Some(number as f32)),
            None => Err(wrong_type(path, name, "a number", value)),
        },
    };
    let top_k = match config.get("top_k") {
        None | Some(Value::Null) => None,
        Some(value) => match value.as_u64().and_then(|k| usize::try_from(k).ok()) {
            Some(k) => Some(k),
            None => return Err(wrong_type(path, "top_k", "a count", value)),
        },
    };
    Ok(SuggestedSampling {
        do_sample: config.get("do_sample").and_then(Value::as_bool),
        temperature: number("temperature")?,
        top_k,
        top_p: number("top_p")?,
        min_p: number("min_p")?,
        repetition_penalty: number("repetition_penalty")?,
    })
}

fn wrong_type(path: &Path, field: &str, expected: &str, found: &Value) -> TextError {
    let message = format!("field \"{field}\" must be {expected}, found {found}");
    TextError::Invalid {
        path: PathBuf::from(path),
        message,
    }
}
