//! Where a model's tokenizer, chat template and stop tokens are: a directory or a GGUF file (or the
//! header of one, in a model packed from it).

use std::path::{Path, PathBuf};

use moeflux_formats::gguf::{Metadata, is_gguf};
use moeflux_formats::{Checkpoint, PackedModel};

use super::{ChatTemplate, GenerationConfig, TextError, Tokenizer};
use crate::{Error, gguf};

/// What text needs of a model, found but not read yet.
#[derive(Debug)]
pub struct TextFiles {
    place: Place,
}

#[derive(Debug)]
enum Place {
    Directory(PathBuf),
    Gguf(Box<Metadata>),
}

impl TextFiles {
    /// Finds the text files of the model at `path`; of a GGUF file the header is read.
    ///
    /// # Errors
    /// A directory with several GGUF files, or a malformed header.
    pub fn open(path: &Path) -> Result<TextFiles, Error> {
        let path = gguf::model_path(path)?;
        let header = match is_gguf(&path) {
            true => Some(Checkpoint::open(&path)?),
            false => PackedModel::gguf_header(&path)?,
        };
        let place = match header.map(|header| header.gguf().cloned()) {
            Some(Some(metadata)) => Place::Gguf(Box::new(metadata)),
            Some(None) => return Err(Error::NotAModel { path }),
            None => Place::Directory(path),
        };
        Ok(TextFiles { place })
    }

    /// The model's tokenizer.
    ///
    /// # Errors
    /// It is missing, malformed or of an unsupported kind.
    pub fn tokenizer(&self) -> Result<Tokenizer, TextError> {
        match &self.place {
            Place::Directory(dir) => Tokenizer::open(dir),
            Place::Gguf(metadata) => gguf::tokenizer(metadata),
        }
    }

    /// The model's chat template.
    ///
    /// # Errors
    /// [`TextError::NoTemplate`] if it has none, or what is wrong with it.
    pub fn chat_template(&self) -> Result<ChatTemplate, TextError> {
        match &self.place {
            Place::Directory(dir) => ChatTemplate::open(dir),
            Place::Gguf(metadata) => gguf::chat_template(metadata),
        }
    }

    /// The model's stop tokens and suggested sampling.
    ///
    /// # Errors
    /// A file or key is malformed.
    pub fn generation_config(&self, tokenizer: &Tokenizer) -> Result<GenerationConfig, TextError> {
        match &self.place {
            Place::Directory(dir) => GenerationConfig::open(dir, Some(tokenizer)),
            Place::Gguf(metadata) => gguf::generation_config(metadata),
        }
    }
}
