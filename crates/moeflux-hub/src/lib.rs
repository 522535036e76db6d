//! Downloads what a model needs from a Hugging Face hub: ranged, resumable, checked.
//!
//! A download is pinned to the commit that the revision stood for when it began, and each file is
//! checked against the length and the checksum that the hub lists before it gets its name. What is
//! incomplete has a name of its own (`.NAME.CHECKSUM.part`), from which the same call goes on.
//!
//! This crate knows the hub's HTTP interface and the names of a model's files. It knows nothing of
//! what is in them but the list of shards.

mod client;
mod download;
mod error;
mod listing;
mod needed;
mod pull;
mod repo;

pub use client::Access;
pub use error::HubError;
pub use listing::{Checksum, Entry};
pub use pull::{Progress, PullOptions, PullReport, RemoteModel, pull};
pub use repo::Repo;
