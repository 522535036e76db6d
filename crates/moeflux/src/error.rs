//! Every way in which the engine can fail, each with what to do next.

use std::path::PathBuf;

use moeflux_experts::ExpertError;
use moeflux_formats::FormatError;
use moeflux_kernels::KernelError;

/// The forms of matrices that are read.
const FORMS: &str = "F32, F16, BF16, FP8 (E4M3) with a scale to each 128 x 128, MXFP4, NVFP4, \
                     symmetric integers of 4 or 8 bits in groups (compressed-tensors), MLX's \
                     groups and the types of GGUF";

/// An engine error. The session a failed step worked on is as it was before that step.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file of the checkpoint is missing, damaged or not what the model needs.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// An expert could not be brought into memory.
    #[error(transparent)]
    Expert(#[from] ExpertError),
    /// A kernel refused its arguments.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The tokenizer failed.
    #[error(transparent)]
    Text(#[from] crate::text::TextError),
    /// A sampling parameter is out of range, or the logits are not finite.
    #[error(transparent)]
    Sampling(#[from] crate::sampling::SamplingError),
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried: "read", "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A field of a configuration file is missing or has a value that the engine cannot use.
    #[error("{}: field `{field}` {problem}", path.display())]
    Config {
        /// The configuration file.
        path: PathBuf,
        /// The field, with the names of the sections around it.
        field: String,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// The model's architecture is not one that the engine knows.
    #[error("{}: {field} `{model_type}` is not supported; supported are {known}", path.display())]
    UnknownModelType {
        /// The configuration file.
        path: PathBuf,
        /// The field that names the architecture.
        field: &'static str,
        /// What it says.
        model_type: String,
        /// The model types that would do.
        known: String,
    },
    /// There is no model.
    #[error(
        "{}: not a model: neither a GGUF file nor a directory with config.json; pass a GGUF file, \
         or a packed or Hugging Face directory", path.display()
    )]
    NotAModel {
        /// The file or directory.
        path: PathBuf,
    },
    /// A directory holds more than one model.
    #[error("{}: holds {} GGUF files; pass one of them, as {}", path.display(), files.len(),
            files.first().map(|f| f.display().to_string()).unwrap_or_default())]
    SeveralModels {
        /// The directory.
        path: PathBuf,
        /// The files.
        files: Vec<PathBuf>,
    },
    /// A weight holds values that it cannot have.
    #[error("{}: tensor {tensor}: {problem}; convert or download the model again", path.display())]
    Weight {
        /// The file or directory.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A matrix is coded in a form that is not read.
    #[error(
        "{}: tensor {tensor} holds {form}, which is not supported; supported are {FORMS}; use a \
         version of the model in one of these", path.display()
    )]
    Form {
        /// The file or directory.
        path: PathBuf,
        /// The tensor that tells.
        tensor: String,
        /// The form, for reading by a person.
        form: &'static str,
    },
    /// The memory budget does not hold the model's resident part.
    #[error(
        "a memory budget of {} is too small for this model and its sessions: the smallest workable \
         one is {}; pass --memory {}MiB or more",
        bytes(*given), bytes(*needed), needed.div_ceil(1 << 20)
    )]
    MemoryBudget {
        /// The budget, in bytes.
        given: u64,
        /// The smallest budget that works, in bytes.
        needed: u64,
    },
    /// Sessions cannot have more tokens within the memory budget.
    #[error(
        "{tokens} more tokens do not fit in the memory budget of {}: there is room for {fit}; \
         pass --memory {}MiB or more, or end a session", bytes(*given), needed.div_ceil(1 << 20)
    )]
    MemoryFull {
        /// Tokens that were to be added.
        tokens: usize,
        /// Tokens that can be added to each session of the step.
        fit: usize,
        /// The budget now, in bytes.
        given: u64,
        /// A budget that would do, in bytes.
        needed: u64,
    },
    /// The system has no memory for the resident weights.
    #[error("the system refuses {} for the resident weights: {source}", bytes(*bytes_wanted))]
    NoMemory {
        /// Bytes asked for.
        bytes_wanted: u64,
        /// Why it refused.
        source: std::io::Error,
    },
    /// A token id is not in the vocabulary.
    #[error(
        "token {token} at position {position} is not in the vocabulary; give ids from 0 to {}",
        vocab.saturating_sub(1)
    )]
    Token {
        /// The token id.
        token: u32,
        /// Its position in the session.
        position: usize,
        /// Number of tokens in the vocabulary.
        vocab: usize,
    },
    /// More tokens than the model's context holds.
    #[error(
        "{tokens} tokens do not fit in the context of {limit}: shorten the prompt, start a new \
         session, or raise the limit (--context) if the model allows it"
    )]
    ContextExceeded {
        /// Tokens that the session would hold.
        tokens: usize,
        /// Tokens that it may hold.
        limit: usize,
    },
    /// A step without tokens, or with more than the scratch memory holds.
    #[error("a step takes 1 to {limit} tokens, not {tokens}")]
    StepSize {
        /// Tokens asked for.
        tokens: usize,
        /// The most that one step takes.
        limit: usize,
    },
    /// A session cannot go back (or forward) to that position.
    #[error("cannot rewind to position {position}: {}", rewind_problem(*position, *len, *nearest))]
    Rewind {
        /// Where the caller wanted to go.
        position: usize,
        /// Tokens in the session.
        len: usize,
        /// The nearest earlier position that can be reached, besides the start.
        nearest: Option<usize>,
    },
    /// A session of one model was given to another.
    #[error("this session belongs to another model; start one with this engine")]
    ForeignSession,
    /// A snapshot cannot be restored.
    #[error("cannot restore the session{}: {problem}", path.as_ref().map_or_else(String::new, |p| format!(" from {}", p.display())))]
    Snapshot {
        /// The file, when it came from one.
        path: Option<PathBuf>,
        /// What is wrong.
        problem: String,
    },
    /// An option's value cannot be used.
    #[error("{flag}: {problem}")]
    Option {
        /// The option, spelled as the command's flag.
        flag: &'static str,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// A file of importances is not one, or damaged.
    #[error("{}: {problem}; make it again with moeflux eval importance", path.display())]
    Importance {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// What runs the operations failed: a graphics processor, its driver or its memory.
    #[error(transparent)]
    Device(Box<dyn std::error::Error + Send + Sync>),
    /// The engine contradicts itself; this is a defect of moeflux.
    #[error("internal error: {0}; please report it")]
    Internal(String),
}

fn rewind_problem(position: usize, len: usize, nearest: Option<usize>) -> String {
    if position > len {
        return format!("the session holds {len} tokens");
    }
    let near = match nearest {
        Some(nearest) => format!("the nearest checkpoint before it is at {nearest}"),
        None => "start a new session".to_owned(),
    };
    format!("the recurrent state was not kept there; {near}")
}

/// A number of bytes for people: `1.50 GiB`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.2} {}", UNITS[unit])
}
