//! A tokenizer from GGUF metadata: byte-level BPE, put together as the model's `tokenizer.json`
//! has it.
//!
//! Metadata holds tokens with their kinds, merges, and the name of a rule (`tokenizer.ggml.pre`)
//! that cuts text into words before merging (`words.rs`). What it does not hold follows from that
//! rule, too; bytes are spelled as printable characters. As with `tokenizer.json`, no token is
//! added that the text does not spell, whatever `tokenizer.ggml.add_bos_token` says: chat templates
//! write them themselves.

use moeflux_formats::FormatError;
use moeflux_formats::gguf::Metadata;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::words::Words;
use crate::text::{TextError, Tokenizer};

/// Kinds of tokens.
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// The tokenizer that `metadata` describes.
///
/// # Errors
/// [`TextError::NoTokenizer`] if there is none, [`TextError::Unsupported`] for another kind, or
/// what is wrong with the file.
pub(crate) fn tokenizer(metadata: &Metadata) -> Result<Tokenizer, TextError> {
    check_model(metadata)?;
    let words = word_rule(metadata)?;
    let types = metadata.optional(TYPES, Metadata::i32s)?;
    let tokens = metadata.strings(TOKENS)?;
    if let Some(types) = &types
        && types.len() != tokens.len()
    {
        let (types, tokens) = (types.len(), tokens.len());
        return Err(invalid(
            metadata,
            format!("{TYPES} has {types} entries for {tokens} tokens"),
        ));
    }
    let kind = |id: usize| types.as_ref().map_or(1, |types| types[id]);
    let mut vocab = Vocab::default();
    let mut added = Vec::new();
    for (id, token) in tokens
        .iter()
        .enumerate()
        .filter(|(id, _)| kind(*id) != UNUSED)
    {
        // Token ids are u32; a header's size keeps counts far below.
        vocab.entry(token.to_owned()).or_insert(id as u32);
        if matches!(kind(id), CONTROL | USER_DEFINED) {
            added.push(AddedToken::from(token, kind(id) == CONTROL).normalized(false));
        }
    }
    let build = |vocab, merges| -> tokenizers::Result<tokenizers::Tokenizer> {
        let model = BPE::builder().vocab_and_merges(vocab, merges);
        let model = model.ignore_merges(words.ignore_merges).build()?;
        let mut steps: Vec<PreTokenizerWrapper> = Vec::new();
        for &pattern in words.patterns {
            let pattern = SplitPattern::Regex(pattern.to_owned());
            let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?;
            steps.push(split.into());
        }
        steps.push(ByteLevel::new(false, true, false).into());
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        if words.nfc {
            tokenizer.with_normalizer(Some(NFC))?;
        }
        tokenizer.with_pre_tokenizer(Some(Sequence::new(steps)));
        tokenizer.with_decoder(Some(ByteLevel::default()));
        tokenizer.add_tokens(added)?;
        Ok(tokenizer)
    };
    let built = build(vocab, merges(metadata)?);
    let inner = built.map_err(|error| invalid(metadata, format!("its tokenizer: {error}")))?;
    Ok(Tokenizer::new(inner, metadata.path().to_owned()))
}

/// Whether the file holds a tokenizer, and of the kind that is built here.
fn check_model(metadata: &Metadata) -> Result<(), TextError> {
    let path = metadata.path().to_owned();
    match metadata.optional(MODEL, Metadata::string)? {
        Some("gpt2") => Ok(()),
        None | Some("no_vocab" | "none") => Err(TextError::NoTokenizer { path }),
        Some(found) => Err(TextError::Unsupported {
            path,
            key: MODEL,
            found: found.to_owned(),
            known: "gpt2 (byte-level BPE)".to_owned(),
        }),
    }
}

/// The rule that `tokenizer.ggml.pre` names.
fn word_rule(metadata: &Metadata) -> Result<&'static Words, TextError> {
    let name = metadata.string(PRE)?;
    Words::named(name).ok_or_else(|| TextError::Unsupported {
        path: metadata.path().to_owned(),
        key: PRE,
        found: name.to_owned(),
        known: Words::names(),
    })
}

/// The merges, each written as its two halves with a space between.
fn merges(metadata: &Metadata) -> Result<Merges, TextError> {
    let halves = |merge: &str| {
        let (first, second) = merge.split_once(' ')?;
        Some((first.to_owned(), second.to_owned()))
    };
    let read = |(index, merge): (usize, &str)| {
        let problem = || invalid(metadata, format!("{MERGES}: entry {index} is no pair"));
        halves(merge).ok_or_else(problem)
    };
    metadata
        .strings(MERGES)?
        .iter()
        .enumerate()
        .map(read)
        .collect()
}

/// The token of a key that holds an id, such as `tokenizer.ggml.eos_token_id`.
pub(super) fn token_of<'a>(
    metadata: &'a Metadata,
    key: &str,
) -> Result<Option<&'a str>, FormatError> {
    let Some(id) = metadata.optional(key, Metadata::u64)? else {
        return Ok(None);
    };
    let tokens = metadata.optional(TOKENS, Metadata::strings)?;
    let index = usize::try_from(id).ok();
    Ok(tokens
        .zip(index)
        .and_then(|(tokens, index)| tokens.get(index)))
}

fn invalid(metadata: &Metadata, message: String) -> TextError {
    TextError::Invalid {
        path: metadata.path().to_owned(),
        message,
    }
}
