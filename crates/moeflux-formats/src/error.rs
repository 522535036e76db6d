//! What can go wrong with files and formats. Every message names the file or tensor and what to do.

use std::io;
use std::path::{Path, PathBuf};

mod problem;

pub use problem::{CodecError, HeaderProblem, PlanProblem};

use crate::DType;
pub use crate::gguf::GgufProblem;

/// Result of this crate's functions.
pub type Result<T, E = FormatError> = std::result::Result<T, E>;

/// An error about a file, a tensor or a packed model directory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FormatError {
    /// A file that should be there is not.
    #[error("{path} is missing ({needed_for}); download or copy it again", path = path.display())]
    MissingFile {
        /// The absent file.
        path: PathBuf,
        /// What asked for it.
        needed_for: String,
    },
    /// The directory holds no safetensors checkpoint.
    #[error(
        "{dir} holds neither model.safetensors.index.json nor model.safetensors; give the \
         directory of a Hugging Face model in safetensors format, or a GGUF file",
        dir = dir.display()
    )]
    NotACheckpoint {
        /// The directory that was given.
        dir: PathBuf,
    },
    /// The operating system refused an operation.
    #[error("cannot {action} {path}: {source}", path = path.display())]
    Io {
        /// What was being done: `read`, `write`, `create`, ...
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file ended before the bytes that were to be read.
    #[error(
        "{path} ends before byte {needed}: it is truncated or still being downloaded; get it again",
        path = path.display()
    )]
    Truncated {
        /// The short file.
        path: PathBuf,
        /// The length it should at least have.
        needed: u64,
    },
    /// A safetensors header is malformed.
    #[error("{path} is not a valid safetensors file: {problem}", path = path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        problem: HeaderProblem,
    },
    /// A GGUF header is malformed.
    #[error("{path} cannot be read as a GGUF file: {problem}", path = path.display())]
    Gguf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        problem: GgufProblem,
    },
    /// A GGUF file lacks a key that the model needs.
    #[error(
        "{path} has no key {key}; convert the model again with a current converter",
        path = path.display()
    )]
    MissingKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
    },
    /// A key of a GGUF file has another type or value than it must.
    #[error(
        "{path}: key {key} is {found}, expected {expected}; convert the model again with a current \
         converter",
        path = path.display()
    )]
    WrongKeyType {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// The type that would do, for reading by a person.
        expected: &'static str,
        /// The type, and value, found.
        found: String,
    },
    /// A JSON file of a checkpoint or packed model does not say what it should.
    #[error("{path} is malformed: {reason}; get the file again", path = path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Two files define a tensor of the same name.
    #[error(
        "tensor {tensor} is defined both by {first} and by {second}; remove the file that does not \
         belong to the model",
        first = first.display(), second = second.display()
    )]
    DuplicateTensor {
        /// The tensor's name.
        tensor: String,
        /// One file.
        first: PathBuf,
        /// The other file.
        second: PathBuf,
    },
    /// A tensor that the model needs is in none of its files.
    #[error(
        "{place} has no tensor {tensor}{}; check that the model is complete and of the type that \
         its config.json states",
        similar_names(.close), place = place.display()
    )]
    MissingTensor {
        /// The checkpoint's directory or file.
        place: PathBuf,
        /// The name that was looked for.
        tensor: String,
        /// Names that are there and look alike.
        close: Vec<String>,
    },
    /// A tensor has another shape than the model's configuration implies.
    #[error(
        "tensor {tensor} in {path} has shape {found:?}, expected {expected:?}; check that the file \
         and config.json belong to the same model",
        path = path.display()
    )]
    WrongShape {
        /// The tensor's name.
        tensor: String,
        /// Its file.
        path: PathBuf,
        /// The shape asked for.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor has an element type that cannot be used here.
    #[error(
        "tensor {tensor} in {path} has element type {found}, expected {expected}; use a version of \
         the model in that type",
        path = path.display()
    )]
    WrongDType {
        /// The tensor's name.
        tensor: String,
        /// Its file.
        path: PathBuf,
        /// The types that would do, for reading by a person.
        expected: &'static str,
        /// The type in the file.
        found: DType,
    },
    /// A read past a tensor's end was asked for.
    #[error(
        "bytes {first}..{end} were asked of a tensor of {bytes} bytes in {path}",
        path = path.display()
    )]
    ReadOutOfRange {
        /// The file.
        path: PathBuf,
        /// First byte asked for, from the tensor's start.
        first: u64,
        /// One past the last byte asked for.
        end: u64,
        /// The tensor's length in bytes.
        bytes: u64,
    },
    /// Data given to a writer does not fit what was declared.
    #[error("{path}: {reason}", path = path.display())]
    WriterMisuse {
        /// The file being written.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A matrix cannot be encoded or decoded.
    #[error("{0}")]
    Codec(#[from] CodecError),
    /// A matrix of a named tensor cannot be encoded.
    #[error("tensor {tensor} cannot be packed: {problem}")]
    Encode {
        /// The source tensor.
        tensor: String,
        /// Why not.
        #[source]
        problem: CodecError,
    },
    /// A pack plan contradicts itself or its source.
    #[error("cannot pack {name}: {problem}")]
    Plan {
        /// The tensor, file or layer.
        name: String,
        /// What is wrong.
        #[source]
        problem: PlanProblem,
    },
    /// The destination of a pack exists.
    #[error("{dst} exists already; remove it or choose another destination", dst = dst.display())]
    DestinationExists {
        /// The destination.
        dst: PathBuf,
    },
    /// Another process is packing to the same destination.
    #[error(
        "{partial} is being written by another process; wait for it to end",
        partial = partial.display()
    )]
    PackInProgress {
        /// The unfinished directory.
        partial: PathBuf,
    },
    /// There is no room for a file.
    #[error(
        "no room left to write {path} ({source}); free some space and run the same command again: \
         it goes on where it stopped",
        path = path.display()
    )]
    DiskFull {
        /// The file being written.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A directory was left by a pack that did not finish.
    #[error(
        "{dir} was left by a pack that did not finish; run the same `pack` command again to \
         complete it, or remove it",
        dir = dir.display()
    )]
    UnfinishedPack {
        /// The directory.
        dir: PathBuf,
    },
    /// A packed model of a format that this version does not know.
    #[error(
        "{path} has format version {found}, this program reads version {known}; update the program \
         or pack the model again",
        path = path.display()
    )]
    UnknownVersion {
        /// The manifest.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The version read here.
        known: u64,
    },
    /// A packed file's structure is not that of a packed model.
    #[error(
        "{path} is not a packed layer file: {reason}; pack the model again",
        path = path.display()
    )]
    BadLayerFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A file's bytes are not those that were written.
    #[error(
        "{path} is corrupt: {reason}; copy it again or pack the model again",
        path = path.display()
    )]
    CorruptFile {
        /// The file.
        path: PathBuf,
        /// The length or checksum that differs.
        reason: String,
    },
    /// An expert's record is not the one that was written.
    #[error(
        "{path}: the record of layer {layer}, expert {expert} is corrupt (checksum \
         {found:016x}, expected {expected:016x}); copy the file again or pack the model again",
        path = path.display()
    )]
    CorruptRecord {
        /// The layer file.
        path: PathBuf,
        /// Layer number.
        layer: usize,
        /// Expert number.
        expert: usize,
        /// Checksum in the file.
        expected: u64,
        /// Checksum of the bytes.
        found: u64,
    },
}

/// Wraps a system error, telling apart what deserves an error of its own.
pub(crate) fn io_error(action: &'static str, path: &Path, source: io::Error) -> FormatError {
    use io::ErrorKind::{FileTooLarge, NotFound, QuotaExceeded, StorageFull};
    let path = path.to_path_buf();
    match source.kind() {
        NotFound if action == "read" => FormatError::MissingFile {
            path,
            needed_for: "it was to be read".to_owned(),
        },
        StorageFull | QuotaExceeded | FileTooLarge => FormatError::DiskFull { path, source },
        _ => FormatError::Io {
            action,
            path,
            source,
        },
    }
}

fn similar_names(close: &[String]) -> String {
    if close.is_empty() {
        String::new()
    } else {
        format!(" (similar: {})", close.join(", "))
    }
}
