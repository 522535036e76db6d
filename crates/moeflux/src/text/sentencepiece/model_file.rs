//! `tokenizer.model`: pieces and how text is prepared, as a message of protocol buffers
//! (`sentencepiece_model.proto`), with the tokens that the files beside it add.

use std::path::{Path, PathBuf};

use super::{Kind, Piece};
use crate::text::tiktoken::special_tokens;
use crate::text::{TextError, read_json};

const FILE: &str = "tokenizer.model";
const CONFIG: &str = "tokenizer_config.json";
const ADDED: &str = "added_tokens.json";

/// The number of the kind of model that is read here.
const BPE: u64 = 2;
/// More tokens are a mistake in the file.
const MOST_TOKENS: usize = 1 << 20;

/// What the file holds, as far as it is used.
pub(super) struct ModelFile {
    pub path: PathBuf,
    pub pieces: Vec<Piece>,
    /// Whether a space is put before a text.
    pub has_prefix: bool,
}

/// The file of a directory; `None` if it has none.
///
/// # Errors
/// It is malformed, or asks for something that is not implemented.
pub(super) fn open(dir: &Path) -> Result<Option<ModelFile>, TextError> {
    let path = dir.join(FILE);
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(TextError::Read { path, source }),
    };
    let mut model = parse(&bytes, &path)?;
    let config = read_json(&dir.join(CONFIG))?.unwrap_or_default();
    if let Some(prefix) = config.get("add_prefix_space").and_then(|v| v.as_bool()) {
        model.has_prefix = prefix;
    }
    let listed = read_json(&dir.join(ADDED))?.unwrap_or_default();
    for (text, id) in &listed {
        let Some(id) = id.as_u64() else {
            return Err(TextError::Invalid {
                path: dir.join(ADDED),
                message: format!("the id of {text} is {id}, not a number"),
            });
        };
        model.add(id as usize, text, Kind::UserDefined)?;
    }
    for (id, token) in special_tokens(&config) {
        let kind = match token.special {
            true => Kind::Control,
            false => Kind::UserDefined,
        };
        let id = id as usize;
        model.add(id, &token.content, kind)?;
        model.pieces[id].strips = [token.lstrip, token.rstrip];
    }
    Ok(Some(model))
}

impl ModelFile {
    /// Makes `id` the token `text`, whether the pieces go that far or not.
    fn add(&mut self, id: usize, text: &str, kind: Kind) -> Result<(), TextError> {
        if id >= MOST_TOKENS {
            let message = format!("{text} is given the id {id}, past any vocabulary");
            let path = self.path.clone();
            return Err(TextError::Invalid { path, message });
        }
        let unused = Piece {
            text: String::new(),
            score: 0.0,
            kind: Kind::Unused,
            strips: [false; 2],
        };
        self.pieces.resize(self.pieces.len().max(id + 1), unused);
        let keeps_kind = self.pieces[id].kind == Kind::Unknown;
        self.pieces[id].text = text.to_owned();
        if !keeps_kind {
            self.pieces[id].kind = kind;
        }
        Ok(())
    }
}

fn parse(bytes: &[u8], path: &Path) -> Result<ModelFile, TextError> {
    let invalid = |what: &str| TextError::Invalid {
        path: path.to_owned(),
        message: format!("{what} of the SentencePiece model is malformed"),
    };
    let mut pieces = Vec::new();
    let mut kind = 1;
    let mut text = Preparation::default();
    for field in fields(bytes) {
        match field.ok_or_else(|| invalid("the outline"))? {
            (1, Value::Bytes(piece)) => {
                let number = pieces.len();
                let read = read_piece(piece);
                pieces.push(read.ok_or_else(|| invalid(&format!("piece {number}")))?);
            }
            (2, Value::Bytes(trainer)) => {
                for field in fields(trainer) {
                    match field.ok_or_else(|| invalid("the trainer's part"))? {
                        (3, Value::Integer(number)) => kind = number,
                        (24, Value::Integer(on)) => text.space_behind = on != 0,
                        _ => {}
                    }
                }
            }
            (3, Value::Bytes(normalizer)) => {
                text.read(normalizer)
                    .ok_or_else(|| invalid("the normalizer"))?;
            }
            _ => {}
        }
    }
    if kind != BPE {
        return Err(TextError::Unsupported {
            path: path.to_owned(),
            key: "trainer_spec.model_type",
            found: kind.to_string(),
            known: "2 (BPE); others need a tokenizer.json".to_owned(),
        });
    }
    text.check(path)?;
    Ok(ModelFile {
        path: path.to_owned(),
        pieces,
        has_prefix: text.prefix,
    })
}

fn read_piece(bytes: &[u8]) -> Option<Piece> {
    let mut piece = Piece {
        text: String::new(),
        score: 0.0,
        kind: Kind::Normal,
        strips: [false; 2],
    };
    for field in fields(bytes) {
        match field? {
            (1, Value::Bytes(text)) => piece.text = String::from_utf8(text.to_vec()).ok()?,
            (2, Value::Word(bits)) => piece.score = f32::from_bits(bits),
            (3, Value::Integer(number)) => piece.kind = Kind::of(i64::try_from(number).ok()?)?,
            _ => {}
        }
    }
    Some(piece)
}

/// What happens to a text before it is cut into pieces.
struct Preparation {
    name: String,
    has_table: bool,
    prefix: bool,
    drops_spaces: bool,
    marks_spaces: bool,
    space_behind: bool,
}

impl Default for Preparation {
    /// What a file means that does not say.
    fn default() -> Self {
        Preparation {
            name: String::new(),
            has_table: false,
            prefix: true,
            drops_spaces: true,
            marks_spaces: true,
            space_behind: false,
        }
    }
}

impl Preparation {
    fn read(&mut self, bytes: &[u8]) -> Option<()> {
        for field in fields(bytes) {
            match field? {
                (1, Value::Bytes(name)) => self.name = String::from_utf8(name.to_vec()).ok()?,
                (2, Value::Bytes(table)) => self.has_table = !table.is_empty(),
                (3, Value::Integer(on)) => self.prefix = on != 0,
                (4, Value::Integer(on)) => self.drops_spaces = on != 0,
                (5, Value::Integer(on)) => self.marks_spaces = on != 0,
                _ => {}
            }
        }
        Some(())
    }

    /// Refuses whatever changes a text beyond its spaces.
    fn check(&self, path: &Path) -> Result<(), TextError> {
        let (key, found, known) = match self {
            Preparation {
                has_table: true, ..
            } => ("normalizer_spec.name", self.name.as_str(), "identity"),
            Preparation {
                drops_spaces: true, ..
            } => ("normalizer_spec.remove_extra_whitespaces", "true", "false"),
            Preparation {
                marks_spaces: false,
                ..
            } => ("normalizer_spec.escape_whitespaces", "false", "true"),
            Preparation {
                space_behind: true, ..
            } => ("trainer_spec.treat_whitespace_as_suffix", "true", "false"),
            _ => return Ok(()),
        };
        Err(TextError::Unsupported {
            path: path.to_owned(),
            key,
            found: found.to_owned(),
            known: format!("{known}; others need a tokenizer.json"),
        })
    }
}

/// A field's value on the wire.
enum Value<'a> {
    Integer(u64),
    Word(u32),
    Bytes(&'a [u8]),
    /// Of eight bytes, which nothing here has.
    Other,
}

/// The fields of a message with their numbers; `None`, then nothing more, where it is malformed.
fn fields(mut bytes: &[u8]) -> impl Iterator<Item = Option<(u64, Value<'_>)>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let field = field(&mut bytes);
        if field.is_none() {
            bytes = &[];
        }
        Some(field)
    })
}

fn field<'a>(bytes: &mut &'a [u8]) -> Option<(u64, Value<'a>)> {
    let key = integer(bytes)?;
    let value = match key & 7 {
        0 => Value::Integer(integer(bytes)?),
        1 => {
            bytes.split_off(..8)?;
            Value::Other
        }
        2 => {
            let len = usize::try_from(integer(bytes)?).ok()?;
            Value::Bytes(bytes.split_off(..len)?)
        }
        5 => Value::Word(u32::from_le_bytes(bytes.split_off(..4)?.try_into().ok()?)),
        _ => return None,
    };
    Some((key >> 3, value))
}

/// Seven bits a byte, the lowest first.
fn integer(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(value);
        }
    }
    None
}
