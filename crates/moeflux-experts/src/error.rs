//! The errors of expert residency. Each names the file or option at fault and what to do next.

use std::io;
use std::path::PathBuf;

/// Why experts could not be made resident.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExpertError {
    /// The arena holds less than one expert.
    #[error(
        "the expert arena is too small: one expert needs {needed} bytes, but only {given} are \
         left for experts; raise the memory budget by at least {} bytes", needed - given
    )]
    ArenaTooSmall {
        /// Bytes of one slot.
        needed: u64,
        /// Bytes that the options allow.
        given: u64,
    },
    /// The catalog contradicts itself.
    #[error("the expert catalog is not usable: {reason}; the model directory must be made again")]
    Catalog {
        /// What is wrong, with file, layer and expert where known.
        reason: String,
    },
    /// A file of experts could not be opened.
    #[error("cannot open the expert file {}: {source}; check the model directory", file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The system lets this process open no more files.
    #[error(
        "cannot open the expert file {}: this process may have {limit} files open at once, and \
         has; allow more with `ulimit -n {}`, then run again",
        file.display(), limit.saturating_mul(4).max(1024)
    )]
    TooManyFiles {
        /// The file.
        file: PathBuf,
        /// The limit in force (`RLIMIT_NOFILE`).
        limit: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// A file was replaced, cut or written to since it was opened.
    #[error(
        "the expert file {} has changed since it was opened ({what}); load the model again",
        file.display()
    )]
    Changed {
        /// The file.
        file: PathBuf,
        /// What about it changed.
        what: &'static str,
    },
    /// A file ends before the last record that the catalog places in it.
    #[error(
        "the expert file {} is truncated: it has {found} bytes, but its records end at byte \
         {needed}; copy or pack the model again", file.display()
    )]
    Truncated {
        /// The file.
        file: PathBuf,
        /// Bytes that the catalog needs.
        needed: u64,
        /// Bytes that the file has.
        found: u64,
    },
    /// Direct reads were asked for by name where the file system has none.
    #[error(
        "direct reads do not work for {}: {source}; use the reader `auto` or `buffered`",
        file.display()
    )]
    DirectUnsupported {
        /// The file that was probed.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The arena could not be mapped.
    #[error("cannot reserve {bytes} bytes for the expert arena: {source}; lower the memory budget")]
    Arena {
        /// Bytes asked for.
        bytes: u64,
        /// The system's reason.
        source: io::Error,
    },
    /// A reader thread could not be started.
    #[error("cannot start {threads} reader threads: {source}; ask for fewer")]
    Threads {
        /// Threads asked for.
        threads: usize,
        /// The system's reason.
        source: io::Error,
    },
    /// A lease named a layer that the catalog does not have.
    #[error("layer {layer} has no experts in this model")]
    UnknownLayer {
        /// The layer asked for.
        layer: usize,
    },
    /// A lease named an expert beyond its layer's last.
    #[error("layer {layer} has {experts} experts, so there is no expert {expert}")]
    UnknownExpert {
        /// The layer.
        layer: usize,
        /// The expert asked for.
        expert: u32,
        /// How many experts the layer has.
        experts: u32,
    },
    /// A lease named an expert twice.
    #[error("expert {expert} of layer {layer} is named twice in one lease")]
    DuplicateExpert {
        /// The layer.
        layer: usize,
        /// The expert named twice.
        expert: u32,
    },
    /// A read failed, and failed again when repeated.
    #[error(
        "cannot read expert {expert} of layer {layer} from {}: {source}; check the disk, then \
         run again", file.display()
    )]
    Read {
        /// The file.
        file: PathBuf,
        /// The layer.
        layer: usize,
        /// The expert.
        expert: u32,
        /// The system's reason.
        source: io::Error,
    },
    /// A record's bytes do not match its checksum, and did not when read again.
    #[error(
        "expert {expert} of layer {layer} in {} is corrupt: its checksum is {found:016x}, not \
         {expected:016x}; copy or pack the model again", file.display()
    )]
    Corrupt {
        /// The file (the record's first, where it spans several).
        file: PathBuf,
        /// The layer.
        layer: usize,
        /// The expert.
        expert: u32,
        /// The checksum in the catalog.
        expected: u64,
        /// The checksum of what was read.
        found: u64,
    },
    /// A trace could not be read or written.
    #[error("cannot {action} the trace {}: {source}", file.display())]
    TraceFile {
        /// What was tried: "create", "write" or "read".
        action: &'static str,
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file is not a trace that this version can use.
    #[error("{} is not a usable trace: {problem}; record it again with --trace", file.display())]
    Trace {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Traces to be replayed together are of different models.
    #[error("the traces are of different models, {first} and {other}; replay them one by one")]
    MixedTraces {
        /// The model of the first.
        first: String,
        /// The other model.
        other: String,
    },
    /// A popularity record cannot be read or written.
    #[error("the popularity record {} cannot be used: {problem}", file.display())]
    Popularity {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// A name that is none of the known ones.
    #[error("there is no {what} `{given}`; known: {known}")]
    UnknownName {
        /// What the name was to be: "reader" or "policy".
        what: &'static str,
        /// The name given.
        given: String,
        /// The names that exist.
        known: &'static str,
    },
}
