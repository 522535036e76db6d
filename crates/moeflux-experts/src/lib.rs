//! Expert residency: where each expert's bytes lie on disk, and which of them are in memory now.
//!
//! To this crate an expert is bytes. A [`Catalog`] says which file ranges make up each expert's
//! record; a [`Residency`] keeps a fixed arena of equal slots, fills them by a pool of reader
//! threads, and evicts by a policy. Its caller takes a [`Lease`] on the experts of a layer and
//! receives them in batches: first those already in memory, while the others are being read,
//! then those in order of arrival.
//!
//! It does not know what an expert computes, what a tensor or a model is, or who asks.

mod ahead;
mod arena;
mod catalog;
mod error;
mod lease;
mod policy;
mod pool;
mod popularity;
mod presence;
mod profile;
mod reader;
mod residency;
mod source;
mod stats;
mod trace;
mod usage;
mod warm;
mod watch;

pub use arena::SLOT_ALIGN;
pub use catalog::{Catalog, Prepare, Record, Segment, record_checksum};
pub use error::ExpertError;
pub use lease::{Lease, Ready};
pub use policy::{Pass, PolicyKind};
pub use popularity::Popularity;
pub use presence::{LayerPresence, Presence};
pub use profile::{DiskPoint, DiskProfile, cache_directory};
pub use reader::{
    BufferedReader, DirectReader, FILE_ALIGN, FaultPlan, FaultTally, FaultyReader, MemoryReader,
    Reader, ReaderChoice, ReaderKind, SMALL_FILES_BYTES,
};
pub use residency::{Residency, ResidencyOptions};
pub use stats::Stats;
pub use trace::{
    LayerUse, Replay, ReplayPolicy, ReplayResult, Tally, Trace, TraceFigures, TraceHeader,
    TraceStep, TraceWriter,
};
