//! Tokenizers of SentencePiece's BPE kind: pieces with scores, no list of merges and no words. Any
//! two neighbours that together are a piece may merge, those of the highest score first; spaces are
//! written as U+2581, one before the text too; characters without a piece become bytes.
//!
//! `tokenizer.model` (`model_file.rs`) and GGUF files hold the same pieces. As conversions do, and
//! the original's own early wrappers, a space is also put before the text behind a token of the
//! model's own.

mod model_file;

use std::path::Path;

use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence as Decoders;
use tokenizers::decoders::strip::Strip;
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::replace::Replace;
use tokenizers::normalizers::utils::Sequence as Normalizers;
use tokenizers::normalizers::{NormalizerWrapper, Prepend};
use tokenizers::{AddedToken, Result};

use super::{TextError, Tokenizer};

/// How pieces spell a space.
const SPACE: &str = "\u{2581}";
/// Longer pieces are a mistake in the file; the time to find their halves grows with the square.
const MOST_PIECE_BYTES: usize = 1 << 12;

/// What a piece is, by its number in both files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Normal,
    /// Stands for what has no piece.
    Unknown,
    /// Written by templates only.
    Control,
    /// Found in the text before anything merges.
    UserDefined,
    Unused,
    Byte,
}

impl Kind {
    /// The kind of that number.
    pub(crate) fn of(number: i64) -> Option<Kind> {
        Some(match number {
            1 => Kind::Normal,
            2 => Kind::Unknown,
            3 => Kind::Control,
            4 => Kind::UserDefined,
            5 => Kind::Unused,
            6 => Kind::Byte,
            _ => return None,
        })
    }
}

/// A token; its id is its place among the others.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: Kind,
    /// Whether spaces before it and behind it are a part of it, of a token that files add.
    pub strips: [bool; 2],
}

/// The tokenizer of a directory with a `tokenizer.model`; `None` if it has none.
///
/// # Errors
/// A file that is none, or of another kind.
pub(super) fn open(dir: &Path) -> std::result::Result<Option<Tokenizer>, TextError> {
    let Some(model) = model_file::open(dir)? else {
        return Ok(None);
    };
    let built = build(&model.pieces, model.has_prefix);
    let inner = built.map_err(|error| TextError::Invalid {
        path: model.path.clone(),
        message: error.to_string(),
    })?;
    Ok(Some(Tokenizer::new(inner, model.path)))
}

/// A tokenizer of these pieces; `has_prefix` says whether a space is put before a text.
///
/// # Errors
/// A piece that is too long, or the library's reason.
pub(crate) fn build(pieces: &[Piece], has_prefix: bool) -> Result<tokenizers::Tokenizer> {
    let mut vocab = Vocab::default();
    let (mut added, mut unknown) = (Vec::new(), None);
    for (id, piece) in pieces.iter().enumerate() {
        let bytes = piece.text.len();
        if bytes > MOST_PIECE_BYTES {
            let problem = format!("token {id} has {bytes} bytes, more than {MOST_PIECE_BYTES}");
            return Err(problem.into());
        }
        let text = match piece.kind {
            Kind::Unused => continue,
            // Found in texts as people write them.
            Kind::UserDefined => piece.text.replace(SPACE, " "),
            _ => piece.text.clone(),
        };
        let is_special = matches!(piece.kind, Kind::Control | Kind::Unknown);
        if is_special || piece.kind == Kind::UserDefined {
            let [before, behind] = piece.strips;
            let token = AddedToken::from(text.clone(), is_special).normalized(false);
            added.push(token.lstrip(before).rstrip(behind));
        }
        if piece.kind == Kind::Unknown {
            unknown = unknown.or(Some(text.clone()));
        }
        // Ids are u32; a file's size keeps counts far below.
        vocab.entry(text).or_insert(id as u32);
    }
    let bytes = pieces.iter().filter(|piece| piece.kind == Kind::Byte);
    if unknown.is_none() && bytes.count() < 256 {
        return Err("no piece stands for unknown characters, nor one for each byte".into());
    }
    let merges = merges(pieces, &vocab);
    let mut model = BPE::builder().vocab_and_merges(vocab, merges);
    model = model.byte_fallback(true).fuse_unk(true);
    if let Some(unknown) = unknown {
        model = model.unk_token(unknown);
    }
    let mut tokenizer = tokenizers::Tokenizer::new(model.build()?);
    let prefix = has_prefix.then(|| Prepend::new(SPACE.to_owned()).into());
    let steps: Vec<NormalizerWrapper> = prefix
        .into_iter()
        .chain([Replace::new(" ", SPACE)?.into()])
        .collect();
    tokenizer.with_normalizer(Some(Normalizers::new(steps)))?;
    let mut steps: Vec<DecoderWrapper> = vec![
        Replace::new(SPACE, " ")?.into(),
        ByteFallback::new().into(),
        Fuse::new().into(),
    ];
    if has_prefix {
        steps.push(Strip::new(' ', 1, 0).into());
    }
    tokenizer.with_decoder(Some(Decoders::new(steps)));
    tokenizer.add_tokens(added)?;
    Ok(tokenizer)
}

/// All pairs of pieces that make another one, those that make the one of the highest score first.
fn merges(pieces: &[Piece], vocab: &Vocab) -> Merges {
    let merges = |piece: &&Piece| piece.kind == Kind::Normal;
    let mut ranked: Vec<&Piece> = pieces.iter().filter(merges).collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    let is_normal = |text: &str| {
        let piece = vocab.get(text).and_then(|&id| pieces.get(id as usize));
        piece.as_ref().is_some_and(merges)
    };
    let mut found = Merges::new();
    for piece in ranked {
        // Longer first halves first, as the conversion to `tokenizer.json` lists them.
        let places = piece.text.char_indices().map(|(at, _)| at).rev();
        let halves = places.map(|at| piece.text.split_at(at));
        let both = halves.filter(|(a, b)| is_normal(a) && is_normal(b));
        found.extend(both.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }
    found
}
