//! A tokenizer from `tiktoken.model`, where a directory has no `tokenizer.json`: Kimi's models.
//!
//! The file has a line a token: its bytes in base 64, and its rank. Any two neighbours whose bytes
//! together are a token may merge, those of the lowest rank first. Which words merging is kept
//! within is code in the published repositories; the patterns here are those of the tokenizer class
//! that they name. Special tokens are those that `tokenizer_config.json` lists.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::{TextError, Tokenizer, read_json, read_optional};

const FILE: &str = "tiktoken.model";
const CONFIG: &str = "tokenizer_config.json";
/// The tokenizer class whose words are known.
const KIMI: &str = "TikTokenTokenizer";

/// Words of Kimi's models: Han characters by themselves, upper and lower case apart, numbers in
/// threes.
pub(crate) const KIMI_WORDS: &str = concat!(
    r"[\p{Han}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+",
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// The tokenizer of a directory with a `tiktoken.model`; `None` if it has none.
///
/// # Errors
/// A line that is no token, or a tokenizer class whose words are not known.
pub(super) fn open(dir: &Path) -> Result<Option<Tokenizer>, TextError> {
    let path = dir.join(FILE);
    let Some(text) = read_optional(&path)? else {
        return Ok(None);
    };
    let config_path = dir.join(CONFIG);
    let config = read_json(&config_path)?.unwrap_or_default();
    check_class(&config, &config_path)?;
    let invalid = |message: String| TextError::Invalid {
        path: path.clone(),
        message,
    };
    let tokens = tokens(&text).map_err(invalid)?;
    let special = special_tokens(&config);
    let built = build(&tokens, special).map_err(|error| invalid(error.to_string()))?;
    Ok(Some(Tokenizer::new(built, path.clone())))
}

fn check_class(config: &Map<String, Value>, path: &Path) -> Result<(), TextError> {
    let class = config.get("tokenizer_class").and_then(Value::as_str);
    match class {
        Some(KIMI) => Ok(()),
        other => Err(TextError::Unsupported {
            path: path.to_owned(),
            key: "tokenizer_class",
            found: other.unwrap_or("(missing)").to_owned(),
            known: format!("{KIMI} (Kimi) for {FILE}; others need a tokenizer.json"),
        }),
    }
}

/// Each token's bytes, by rank.
fn tokens(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .enumerate()
        .map(|(index, line)| {
            let wrong = || format!("line {} is no token with rank {index}", index + 1);
            let (bytes, rank) = line.split_once(' ').ok_or_else(wrong)?;
            match rank.trim().parse::<usize>() {
                Ok(rank) if index == rank => from_base64(bytes).ok_or_else(wrong),
                _ => Err(wrong()),
            }
        })
        .collect()
}

/// The bytes that `text` spells in base 64.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let (mut bits, mut held, mut bytes) = (0_u32, 0, Vec::new());
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        held += 6;
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held & 255) as u8);
        }
    }
    (!bytes.is_empty()).then_some(bytes)
}

/// The tokens that `tokenizer_config.json` lists beside those of the file, with their ids.
pub(super) fn special_tokens(config: &Map<String, Value>) -> Vec<(u32, AddedToken)> {
    let Some(listed) = config
        .get("added_tokens_decoder")
        .and_then(Value::as_object)
    else {
        return Vec::new();
    };
    let mut tokens: Vec<(u32, AddedToken)> = listed
        .iter()
        .filter_map(|(id, token)| {
            let content = token.get("content")?.as_str()?;
            let is_special = token.get("special").and_then(Value::as_bool);
            let flag = |name: &str| token.get(name).and_then(Value::as_bool).unwrap_or(false);
            let token = AddedToken::from(content, is_special.unwrap_or(true))
                .normalized(false)
                .single_word(flag("single_word"))
                .lstrip(flag("lstrip"))
                .rstrip(flag("rstrip"));
            Some((id.parse().ok()?, token))
        })
        .collect();
    tokens.sort_by_key(|(id, _)| *id);
    tokens
}

fn build(
    tokens: &[Vec<u8>],
    special: Vec<(u32, AddedToken)>,
) -> tokenizers::Result<tokenizers::Tokenizer> {
    let letters = letters();
    let spell = |bytes: &[u8]| -> String { bytes.iter().map(|&b| letters[b as usize]).collect() };
    let mut vocab = Vocab::default();
    for (rank, bytes) in (0..).zip(tokens) {
        vocab.insert(spell(bytes), rank);
    }
    for (id, token) in &special {
        vocab.insert(token.content.clone(), *id);
    }
    let model = BPE::builder().vocab_and_merges(vocab, merges(tokens, &spell));
    let mut tokenizer = tokenizers::Tokenizer::new(model.ignore_merges(true).build()?);
    let pattern = SplitPattern::Regex(KIMI_WORDS.to_owned());
    let steps: [PreTokenizerWrapper; 2] = [
        Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?.into(),
        ByteLevel::new(false, true, false).into(),
    ];
    tokenizer.with_pre_tokenizer(Some(Sequence::new(steps.to_vec())));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    tokenizer.add_tokens(special.into_iter().map(|(_, token)| token))?;
    Ok(tokenizer)
}

/// The ranks of the two parts of a token, and the parts.
type Halves<'a> = (usize, usize, (&'a [u8], &'a [u8]));

/// All pairs of tokens that make another one, in order of its rank.
fn merges(tokens: &[Vec<u8>], spell: &dyn Fn(&[u8]) -> String) -> Merges {
    let ranks: HashMap<&[u8], usize> = tokens.iter().map(Vec::as_slice).zip(0..).collect();
    let mut merges = Vec::new();
    for token in tokens {
        let splits = (1..token.len()).map(|at| token.split_at(at));
        let mut pairs: Vec<Halves<'_>> = splits
            .filter_map(|(a, b)| Some((*ranks.get(a)?, *ranks.get(b)?, (a, b))))
            .collect();
        pairs.sort_unstable();
        let spelled = |(_, _, (a, b)): Halves<'_>| (spell(a), spell(b));
        merges.extend(pairs.into_iter().map(spelled));
    }
    merges
}

/// How byte-level vocabularies spell each byte: printable characters as themselves, the others as
/// characters from U+0100 on.
fn letters() -> [char; 256] {
    let mut letters = ['\0'; 256];
    let mut others = (0x100..).filter_map(char::from_u32);
    for (byte, letter) in (0..=255_u8).zip(&mut letters) {
        let printable = matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        *letter = match printable {
            true => char::from(byte),
            false => others.next().unwrap_or_default(),
        };
    }
    letters
}
