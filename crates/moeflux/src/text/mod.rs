//! Text at the edges of a model: tokenizer, chat templates, incremental decoding, stop tokens.
//!
//! Knows the Hugging Face files that describe these (`tokenizer.json`, `tiktoken.model` or
//! `tokenizer.model`, `tokenizer_config.json`, `chat_template.jinja`, `generation_config.json`) and
//! nothing of weights or sessions. What GGUF files have in their place is read in `gguf`.

mod files;
mod generation_config;
mod message;
pub(crate) mod sentencepiece;
mod stream;
mod template;
mod tiktoken;
mod tokenizer;

use std::path::{Path, PathBuf};

pub use files::TextFiles;
pub use generation_config::{GenerationConfig, SuggestedSampling};
pub use message::Message;
pub use stream::TextStream;
pub use template::{ChatTemplate, RenderOptions};
pub(crate) use tiktoken::KIMI_WORDS;
pub use tokenizer::Tokenizer;

/// What can go wrong between text and tokens.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A file the model directory needs is not there.
    #[error("{path}: not found; {hint}", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
        /// What to do about it.
        hint: &'static str,
    },
    /// A file exists but cannot be read.
    #[error("{path}: cannot be read ({source}); check the file's permissions", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("{path}: {message}; copy the file again from the model's source", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        message: String,
    },
    /// A GGUF file without a tokenizer.
    #[error(
        "{path}: the file has no tokenizer; convert the model again with its vocabulary, or give \
         token ids (eval logits --tokens, bench)", path = path.display()
    )]
    NoTokenizer {
        /// The file.
        path: PathBuf,
    },
    /// A file asks for a kind of tokenizer that is not there.
    #[error("{path}: {key} `{found}` is not supported; supported: {known}", path = path.display())]
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key that names the kind.
        key: &'static str,
        /// What it says.
        found: String,
        /// What would do.
        known: String,
    },
    /// A GGUF file cannot be read, or lacks a key.
    #[error(transparent)]
    Format(#[from] moeflux_formats::FormatError),
    /// The tokenizer refused a text or a list of tokens.
    #[error("{path}: cannot {action}: {message}", path = path.display())]
    Tokenize {
        /// The tokenizer's file.
        path: PathBuf,
        /// `encode text` or `decode tokens`.
        action: &'static str,
        /// The tokenizer's reason.
        message: String,
    },
    /// The model has no chat template.
    #[error(
        "{dir}: no chat template (chat_template.jinja, chat_template in tokenizer_config.json, or \
         tokenizer.chat_template of a GGUF file); use raw text completion, or add the template",
        dir = dir.display()
    )]
    NoTemplate {
        /// The model's directory or file.
        dir: PathBuf,
    },
    /// The chat template does not compile.
    #[error("{path}, line {line}: chat template syntax error: {message}; fix the template, or use \
             raw text completion", path = path.display())]
    TemplateSyntax {
        /// File that holds the template.
        path: PathBuf,
        /// Line in the template, from 1; 0 when unknown.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// The chat template failed on these messages.
    #[error("{path}, line {line}: chat template failed: {message}; check the messages and tools \
             against what this template accepts", path = path.display())]
    TemplateRender {
        /// File that holds the template.
        path: PathBuf,
        /// Line in the template, from 1; 0 when unknown.
        line: usize,
        /// What is wrong.
        message: String,
    },
}

/// Reads a file of a model directory; `None` when it does not exist.
fn read_optional(path: &Path) -> Result<Option<String>, TextError> {
    match std::fs::read(path) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(Some(text)),
            Err(_) => Err(TextError::Invalid {
                path: path.into(),
                message: "not UTF-8 text".into(),
            }),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TextError::Read {
            path: path.into(),
            source,
        }),
    }
}

/// Reads a JSON object of a model directory; `None` when the file does not exist.
fn read_json(path: &Path) -> Result<Option<serde_json::Map<String, serde_json::Value>>, TextError> {
    let Some(text) = read_optional(path)? else {
        return Ok(None);
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| TextError::Invalid {
            path: path.into(),
            message: error.to_string(),
        })
}
