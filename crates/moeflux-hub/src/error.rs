//! What can go wrong.

use std::io;
use std::path::PathBuf;

/// A download that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// Not the name of a repository.
    #[error("`{0}` is no repository; give OWNER/NAME, as in Qwen/Qwen3-30B-A3B")]
    Name(String),
    /// Not the address of a hub.
    #[error("HF_ENDPOINT is `{0}`; give an address that begins with https:// or http://")]
    Endpoint(String),
    /// The hub does not know the repository or the revision.
    #[error(
        "{url}: no such repository or revision; check both names (a private one needs HF_TOKEN)"
    )]
    NotFound {
        /// What was asked for.
        url: String,
    },
    /// The hub wants to know who asks.
    #[error(
        "{url}: the hub refuses access ({status}); accept the model's terms on its page if it has \
         any, and give a token in HF_TOKEN"
    )]
    Access {
        /// What was asked for.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// An answer that the hub should not give.
    #[error("{url}: {problem}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// The connection failed, and again when it was repeated.
    #[error(
        "{url}: {problem}; gave up after {attempts} attempts without progress; repeat the \
             command to go on from here"
    )]
    Connection {
        /// What was asked for.
        url: String,
        /// What happened last.
        problem: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// A file of another length than the hub lists.
    #[error("{file}: the server sends {found} bytes, the hub lists {expected}; try again later")]
    Length {
        /// Its name in the repository.
        file: String,
        /// Bytes by the listing.
        expected: u64,
        /// Bytes by the server.
        found: u64,
    },
    /// A file whose bytes are not those of the hub.
    #[error(
        "{file}: what was downloaded has the checksum {found}, the hub lists {expected}; \
             it was deleted, repeat the command"
    )]
    Checksum {
        /// Its name in the repository.
        file: String,
        /// By the listing.
        expected: String,
        /// Of the bytes.
        found: String,
    },
    /// The repository has no files of a kind that can be run.
    #[error("{repo} has neither safetensors nor GGUF files at its top; it has {files}")]
    NoWeights {
        /// The repository.
        repo: String,
        /// Some of its files.
        files: String,
    },
    /// The repository has several models.
    #[error("{repo} has several GGUF models; choose one with --file: {files}")]
    Several {
        /// The repository.
        repo: String,
        /// The files.
        files: String,
    },
    /// A file that was asked for, or that the index lists, is not there.
    #[error("{repo} has no file {file}, {needed_for}")]
    MissingFile {
        /// The repository.
        repo: String,
        /// The file's name.
        file: String,
        /// Who wants it.
        needed_for: String,
    },
    /// A name that would leave the destination.
    #[error("{repo} lists the file {file:?}, which would be written outside of the destination")]
    BadPath {
        /// The repository.
        repo: String,
        /// The file's name.
        file: String,
    },
    /// A file here could not be read or written.
    #[error("cannot {action} {}: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The certificates that the user names cannot be used.
    #[error("{}: {problem}; SSL_CERT_FILE names a file of certificates in PEM", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The processor lacks instructions that encryption needs.
    #[error(
        "HTTPS needs a processor with AES and AVX2 (or, on ARM, AES) instructions; set \
             HF_ENDPOINT to a mirror that speaks HTTP"
    )]
    NoEncryption,
}
