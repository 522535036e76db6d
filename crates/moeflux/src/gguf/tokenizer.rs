//! A tokenizer from GGUF metadata, put together as the model's `tokenizer.json` has it.
//!
//! Of SentencePiece vocabularies metadata holds pieces with scores and kinds
//! (`text/sentencepiece.rs`); of byte-level BPE tokens with their kinds, merges, and the name of a
//! rule (`tokenizer.ggml.pre`) that cuts text into words before merging (`words.rs`). What it does
//! not hold follows from that rule, too; bytes are spelled as printable characters. As with
//! `tokenizer.json`, no token is added that the text does not spell, whatever
//! `tokenizer.ggml.add_bos_token` says: chat templates write them themselves.

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
use crate::text::sentencepiece::{self, Kind, Piece};
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
const SCORES: &str = "tokenizer.ggml.scores";
const PREFIX: &str = "tokenizer.ggml.add_space_prefix";

/// Kinds of tokenizers that are built here.
const BYTE_LEVEL: &str = "gpt2";
const SENTENCE_PIECE: &str = "llama";

/// The tokenizer that `metadata` describes.
///
/// # Errors
/// [`TextError::NoTokenizer`] if there is none, [`TextError::Unsupported`] for another kind, or
/// what is wrong with the file.
pub(crate) fn tokenizer(metadata: &Metadata) -> Result<Tokenizer, TextError> {
    match metadata.optional(MODEL, Metadata::string)? {
        Some(BYTE_LEVEL) => byte_level(metadata),
        Some(SENTENCE_PIECE) => sentence_piece(metadata),
        None | Some("no_vocab" | "none") => Err(TextError::NoTokenizer {
            path: metadata.path().to_owned(),
        }),
        Some(found) => Err(TextError::Unsupported {
            path: metadata.path().to_owned(),
            key: MODEL,
            found: found.to_owned(),
            known: format!("{BYTE_LEVEL} (byte-level BPE), {SENTENCE_PIECE} (SentencePiece BPE)"),
        }),
    }
}

/// Pieces with scores.
fn sentence_piece(metadata: &Metadata) -> Result<Tokenizer, TextError> {
    let tokens = metadata.strings(TOKENS)?;
    let (scores, types) = (metadata.f32s(SCORES)?, metadata.i32s(TYPES)?);
    for (key, entries) in [(SCORES, scores.len()), (TYPES, types.len())] {
        check_entries(metadata, key, entries, tokens.len())?;
    }
    let piece = |((text, &score), number): ((&str, &f32), i32)| -> Result<Piece, TextError> {
        let kind = Kind::of(i64::from(number));
        let problem = || invalid(metadata, format!("{TYPES} has {number}, which is no kind"));
        Ok(Piece {
            text: text.to_owned(),
            score,
            kind: kind.ok_or_else(problem)?,
            strips: [false; 2],
        })
    };
    let pieces = tokens.iter().zip(scores).zip(types).map(piece);
    let pieces = pieces.collect::<Result<Vec<_>, _>>()?;
    let has_prefix = metadata.optional(PREFIX, Metadata::bool)?.unwrap_or(true);
    let built = sentencepiece::build(&pieces, has_prefix);
    let inner = built.map_err(|error| invalid(metadata, format!("its tokenizer: {error}")))?;
    Ok(Tokenizer::new(inner, metadata.path().to_owned()))
}

fn check_entries(
    metadata: &Metadata,
    key: &str,
    entries: usize,
    tokens: usize,
) -> Result<(), TextError> {
    if entries == tokens {
        return Ok(());
    }
    let problem = format!("{key} has {entries} entries for {tokens} tokens");
    Err(invalid(metadata, problem))
}

/// Tokens and merges of bytes.
fn byte_level(metadata: &Metadata) -> Result<Tokenizer, TextError> {
    let words = word_rule(metadata)?;
    let types = metadata.optional(TYPES, Metadata::i32s)?;
    let tokens = metadata.strings(TOKENS)?;
    if let Some(types) = &types {
        check_entries(metadata, TYPES, types.len(), tokens.len())?;
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
