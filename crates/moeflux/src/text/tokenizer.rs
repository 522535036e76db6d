//! Text to token ids and back, by the model's `tokenizer.json` or what stands in its place.
//!
//! Special tokens written in the text are recognised and none are added, as transformers does with
//! `add_special_tokens=False`: the chat template writes them itself.

use std::path::{Path, PathBuf};

use tokenizers::Decoder;
use tokenizers::decoders::DecoderWrapper;

use super::TextError;

/// A model's tokenizer.
#[derive(Debug, Clone)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    path: PathBuf,
}

impl Tokenizer {
    /// A tokenizer that was put together from the file `path`.
    pub(crate) fn new(inner: tokenizers::Tokenizer, path: PathBuf) -> Self {
        Self { inner, path }
    }

    /// Opens `tokenizer.json` in a model directory, or `tiktoken.model` or `tokenizer.model` where
    /// there is none.
    ///
    /// # Errors
    /// The file is missing, unreadable, or not a tokenizer.
    pub fn open(dir: &Path) -> Result<Self, TextError> {
        let path = dir.join("tokenizer.json");
        let Some(text) = super::read_optional(&path)? else {
            if let Some(tokenizer) = super::tiktoken::open(dir)? {
                return Ok(tokenizer);
            }
            if let Some(tokenizer) = super::sentencepiece::open(dir)? {
                return Ok(tokenizer);
            }
            let hint = "copy tokenizer.json from the model's source, or give token ids";
            return Err(TextError::Missing { path, hint });
        };
        match tokenizers::Tokenizer::from_bytes(text.as_bytes()) {
            Ok(mut inner) => {
                // A file may carry the limits of whoever saved it; a prompt is never cut silently.
                inner.with_padding(None);
                if inner.with_truncation(None).is_err() {
                    let message = "its truncation cannot be turned off".into();
                    return Err(TextError::Invalid { path, message });
                }
                Ok(Self { inner, path })
            }
            Err(error) => Err(TextError::Invalid {
                path,
                message: error.to_string(),
            }),
        }
    }

    /// Token ids of `text`.
    ///
    /// # Errors
    /// The tokenizer's model refuses the text (for example no unknown token in a word model).
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        match self.inner.encode_fast(text, false) {
            Ok(encoding) => Ok(encoding.get_ids().to_vec()),
            Err(error) => Err(self.error("encode text", &*error)),
        }
    }

    /// Text of `tokens`; ids without a token give nothing. Bytes that are not UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// The tokenizer's decoder refuses the tokens.
    pub fn decode(&self, tokens: &[u32], skip_special: bool) -> Result<String, TextError> {
        let decoded = match self.inner.get_decoder() {
            Some(decoder) if has_bytes(decoder) => {
                decoder.decode(self.spelled(tokens, skip_special))
            }
            _ => self.inner.decode(tokens, skip_special),
        };
        decoded.map_err(|error| self.error("decode tokens", &*error))
    }

    /// The spellings of tokens, and in place of runs of bytes the characters that they spell: the
    /// library's own step gives a whole run up where its last character is not complete yet.
    fn spelled(&self, tokens: &[u32], skip_special: bool) -> Vec<String> {
        let added = self.inner.get_added_vocabulary();
        let (mut spelled, mut bytes) = (Vec::with_capacity(tokens.len()), Vec::new());
        let end = |bytes: &mut Vec<u8>, spelled: &mut Vec<String>| {
            let text = String::from_utf8_lossy(bytes);
            spelled.extend(text.chars().map(String::from));
            bytes.clear();
        };
        for token in tokens.iter().filter_map(|&id| self.inner.id_to_token(id)) {
            match byte_of(&token) {
                _ if skip_special && added.is_special_token(&token) => {}
                Some(byte) => bytes.push(byte),
                None => {
                    end(&mut bytes, &mut spelled);
                    spelled.push(token);
                }
            }
        }
        end(&mut bytes, &mut spelled);
        spelled
    }

    /// Number of tokens, added ones included. A model may have more output rows than that.
    pub fn vocab_size(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// The id of a token given exactly as the vocabulary spells it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The vocabulary's spelling of a token.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Whether a token is a mark of the model's own, which no text becomes by itself.
    pub fn is_special(&self, id: u32) -> bool {
        let added = self.inner.get_added_tokens_decoder();
        added.get(&id).is_some_and(|token| token.special)
    }

    fn error(&self, action: &'static str, error: &dyn std::error::Error) -> TextError {
        TextError::Tokenize {
            path: self.path.clone(),
            action,
            message: error.to_string(),
        }
    }
}

/// Whether tokens like `<0x0A>` stand for bytes.
fn has_bytes(decoder: &DecoderWrapper) -> bool {
    match decoder {
        DecoderWrapper::ByteFallback(_) => true,
        DecoderWrapper::Sequence(steps) => steps.get_decoders().iter().any(has_bytes),
        _ => false,
    }
}

/// The byte that a token stands for, if it does.
fn byte_of(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    let byte = u8::from_str_radix(digits, 16).ok()?;
    (digits.len() == 2).then_some(byte)
}
