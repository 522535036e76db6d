//! Everything that ends the command early, and the exit code of each class.

use std::path::PathBuf;

use moeflux::Error;
use moeflux::experts::ExpertError;
use moeflux::formats::{FormatError, GgufProblem, HeaderProblem};
use moeflux::kernels::KernelError;
use moeflux::sampling::SamplingError;
use moeflux::text::TextError;
use moeflux_hub::HubError;
use moeflux_server::ServerError;

use crate::device::{self, FaultClass};

/// The part of `--help` about exit codes.
pub const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  a defect of moeflux itself
    2  a flag, value or combination that cannot be used
    3  a model or file is missing, malformed, or of an unsupported kind
    4  the memory budget is too small
    5  corrupt or truncated data: weights or a saved session
    6  the system failed to read or write, a device failed, or a server to answer
    7  the tokenizer or the chat template failed
    8  tokens outside the vocabulary, or more of them than the context holds
    9  the output exists already, or there is no room for it
  130  stopped by Ctrl-C";

/// Why the command ended.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A flag or value that cannot be used.
    #[error("{0}")]
    Usage(String),
    /// An input file that is missing or not what it should be.
    #[error("{}: {problem}", path.display())]
    Input { path: PathBuf, problem: String },
    /// A saved session that is damaged.
    #[error("{}: {problem}", path.display())]
    SessionFile { path: PathBuf, problem: String },
    /// A file could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    /// Standard input, standard output or the terminal failed.
    #[error("{0}")]
    Terminal(String),
    /// The reader of our output is gone.
    #[error("the output was closed")]
    BrokenPipe,
    /// The user stopped the command.
    #[error("stopped")]
    Interrupted,
    /// The server could not run.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A download failed.
    #[error(transparent)]
    Hub(#[from] HubError),
    /// A server that was asked could not be reached, or refused.
    #[error("{server}: {problem}")]
    Remote { server: String, problem: String },
    /// The library failed.
    #[error(transparent)]
    Engine(#[from] Error),
}

impl From<TextError> for Failure {
    fn from(error: TextError) -> Self {
        Error::from(error).into()
    }
}

impl From<SamplingError> for Failure {
    fn from(error: SamplingError) -> Self {
        Error::from(error).into()
    }
}

impl From<FormatError> for Failure {
    fn from(error: FormatError) -> Self {
        Error::from(error).into()
    }
}

impl From<ExpertError> for Failure {
    fn from(error: ExpertError) -> Self {
        Error::from(error).into()
    }
}

const DEFECT: u8 = 1;
const USAGE: u8 = 2;
const INPUT: u8 = 3;
const MEMORY: u8 = 4;
const CORRUPT: u8 = 5;
const SYSTEM: u8 = 6;
const TEXT: u8 = 7;
const TOKENS: u8 = 8;
const OUTPUT: u8 = 9;
const INTERRUPTED: u8 = 130;

impl Failure {
    /// The process's exit code, as documented in [`EXIT_CODES`].
    pub fn exit_code(&self) -> u8 {
        match self {
            Failure::Usage(_) => USAGE,
            Failure::Input { .. } => INPUT,
            Failure::SessionFile { .. } => CORRUPT,
            Failure::File { source, .. } => io_code(source),
            Failure::Terminal(_) | Failure::Remote { .. } => SYSTEM,
            Failure::BrokenPipe => 0,
            Failure::Interrupted => INTERRUPTED,
            Failure::Server(ServerError::Open(_)) => USAGE,
            Failure::Server(_) => SYSTEM,
            Failure::Hub(error) => hub_code(error),
            Failure::Engine(error) => engine_code(error),
        }
    }
}

fn io_code(error: &std::io::Error) -> u8 {
    use std::io::ErrorKind::{AlreadyExists, NotFound, QuotaExceeded, StorageFull};
    match error.kind() {
        NotFound => INPUT,
        AlreadyExists | QuotaExceeded | StorageFull => OUTPUT,
        _ => SYSTEM,
    }
}

fn hub_code(error: &HubError) -> u8 {
    match error {
        HubError::Name(_) | HubError::Endpoint(_) | HubError::Several { .. } => USAGE,
        HubError::File { source, .. } => io_code(source),
        HubError::Length { .. } | HubError::Checksum { .. } => CORRUPT,
        HubError::Connection { .. } | HubError::Answer { .. } | HubError::NoEncryption => SYSTEM,
        _ => INPUT,
    }
}

fn engine_code(error: &Error) -> u8 {
    match error {
        Error::Format(error) => format_code(error),
        Error::Expert(error) => expert_code(error),
        Error::Text(error) => match error {
            TextError::Missing { .. }
            | TextError::Invalid { .. }
            | TextError::NoTokenizer { .. }
            | TextError::Unsupported { .. } => INPUT,
            TextError::Read { source, .. } => io_code(source),
            TextError::Format(error) => format_code(error),
            _ => TEXT,
        },
        Error::Sampling(SamplingError::OutOfRange { .. }) => USAGE,
        Error::Sampling(_) => CORRUPT,
        Error::File { source, .. } => io_code(source),
        Error::Config { .. }
        | Error::UnknownModelType { .. }
        | Error::Importance { .. }
        | Error::Form { .. }
        | Error::NotAModel { .. }
        | Error::SeveralModels { .. } => INPUT,
        Error::Weight { .. } => CORRUPT,
        Error::MemoryBudget { .. } | Error::MemoryFull { .. } | Error::NoMemory { .. } => MEMORY,
        Error::Token { .. } | Error::ContextExceeded { .. } => TOKENS,
        Error::Snapshot { .. } | Error::ForeignSession => CORRUPT,
        Error::Device(error) => match device::fault_class(error.as_ref()) {
            Some(FaultClass::Unusable) => USAGE,
            Some(FaultClass::Memory) => MEMORY,
            Some(FaultClass::Machine) => SYSTEM,
            None => DEFECT,
        },
        Error::Option { .. } | Error::Kernel(KernelError::IsaUnavailable { .. }) => USAGE,
        _ => DEFECT,
    }
}

fn format_code(error: &FormatError) -> u8 {
    match error {
        FormatError::Truncated { .. }
        | FormatError::CorruptFile { .. }
        | FormatError::CorruptRecord { .. } => CORRUPT,
        FormatError::Header {
            problem: HeaderProblem::Truncated { .. } | HeaderProblem::ShorterThanHeader { .. },
            ..
        }
        | FormatError::Gguf {
            problem: GgufProblem::Truncated { .. } | GgufProblem::DataTruncated { .. },
            ..
        } => CORRUPT,
        FormatError::Io { source, .. } => io_code(source),
        FormatError::DestinationExists { .. }
        | FormatError::DiskFull { .. }
        | FormatError::PackInProgress { .. } => OUTPUT,
        FormatError::ReadOutOfRange { .. } | FormatError::WriterMisuse { .. } => DEFECT,
        _ => INPUT,
    }
}

fn expert_code(error: &ExpertError) -> u8 {
    match error {
        ExpertError::ArenaTooSmall { .. } | ExpertError::Arena { .. } => MEMORY,
        ExpertError::Corrupt { .. } | ExpertError::Truncated { .. } => CORRUPT,
        ExpertError::Read { .. } => SYSTEM,
        ExpertError::Open { source, .. } | ExpertError::TraceFile { source, .. } => io_code(source),
        ExpertError::Catalog { .. } | ExpertError::Trace { .. } => INPUT,
        ExpertError::MixedTraces { .. } => USAGE,
        ExpertError::DirectUnsupported { .. } | ExpertError::UnknownName { .. } => USAGE,
        ExpertError::Threads { .. } => SYSTEM,
        _ => DEFECT,
    }
}
