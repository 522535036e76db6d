//! Opening what the reader threads read with: the reader that was chosen or found best, or what it
//! falls back to, and how much of it is in flight.

use std::path::PathBuf;
use std::sync::Arc;

use crate::catalog::Index;
use crate::error::ExpertError;
use crate::profile::{DiskPoint, DiskProfile};
use crate::reader::{
    BufferedReader, DirectReader, Faults, FaultyReader, MAX_PIECE_BYTES, Reader, ReaderChoice,
    ReaderKind, SMALL_FILES_BYTES,
};
use crate::watch::Watch;

/// Records are read in pieces of at most about this many bytes, where nothing is known of the disk.
pub(crate) const PIECE_BYTES: u64 = 1 << 20;
/// The smallest piece: a block.
const SMALLEST_PIECE_BYTES: u64 = crate::FILE_ALIGN;
/// The most reads in flight.
const MOST_DEPTH: usize = 64;

/// What a pool reads with.
pub(crate) struct Source {
    /// Reads that block, by several threads.
    pub reader: Arc<dyn Reader>,
    /// Files that io_uring is to read instead, if the system lets it.
    #[cfg_attr(
        not(target_os = "linux"),
        allow(dead_code, reason = "there is no io_uring")
    )]
    pub uring: Option<Uring>,
    /// Reads in flight that somebody waits for.
    pub depth: usize,
    /// Records are read in pieces of at most about this many bytes.
    pub piece_bytes: u64,
    /// Why it is not what one would expect.
    pub note: Option<String>,
    /// Whether the files are still the same; none for readers of the caller's own.
    pub watch: Option<Watch>,
}

/// What io_uring reads.
#[cfg_attr(
    not(target_os = "linux"),
    allow(dead_code, reason = "there is no io_uring")
)]
pub(crate) struct Uring {
    pub files: Arc<DirectReader>,
    pub faults: Option<Arc<Faults>>,
}

impl Source {
    /// Opens the index's files. Without a profile `depth` requests are in flight.
    pub fn open(
        choice: ReaderChoice,
        index: &Index,
        depth: usize,
        profile: Option<&DiskProfile>,
    ) -> Result<Source, ExpertError> {
        let (kind, plan) = match choice {
            ReaderChoice::Custom(reader) => return Ok(Source::custom(reader, depth)),
            ReaderChoice::Faulty(kind, plan) => (kind, Some(plan)),
            ReaderChoice::Kind(kind) => (kind, None),
        };
        let files = &index.files;
        let watch = Watch::new(files)?;
        let may_be_buffered = kind == ReaderKind::Auto;
        let (kind, mut note) = choose(kind, files, profile);
        let direct = match kind {
            ReaderKind::Buffered => None,
            _ => match DirectReader::open(files) {
                Ok(reader) => Some(Arc::new(reader)),
                Err(refused @ ExpertError::DirectUnsupported { .. }) if may_be_buffered => {
                    note = Some(refused.to_string());
                    None
                }
                Err(error) => return Err(error),
            },
        };
        let mut reader: Arc<dyn Reader> = match &direct {
            Some(files) => Arc::clone(files) as Arc<dyn Reader>,
            None => Arc::new(BufferedReader::open(files)?),
        };
        let uring = direct
            .filter(|_| kind != ReaderKind::Direct)
            .map(|files| Uring {
                files,
                faults: plan.clone().map(|plan| Arc::new(Faults::new(plan))),
            });
        if let Some(plan) = plan {
            reader = Arc::new(FaultyReader::new(reader, plan));
        }
        let best = profile.and_then(|profile| profile.best_of(kind));
        let (depth, piece_bytes) = best.map_or((depth, PIECE_BYTES), |best| {
            (scaled_depth(&best, index), best.piece_bytes)
        });
        Ok(Source {
            reader,
            uring,
            depth: depth.clamp(1, MOST_DEPTH),
            piece_bytes: piece_bytes.clamp(SMALLEST_PIECE_BYTES, MAX_PIECE_BYTES),
            note,
            watch: Some(watch),
        })
    }

    fn custom(reader: Arc<dyn Reader>, depth: usize) -> Source {
        Source {
            reader,
            uring: None,
            depth: depth.clamp(1, MOST_DEPTH),
            piece_bytes: PIECE_BYTES,
            note: None,
            watch: None,
        }
    }
}

/// As many requests as have the bytes in flight that the profile asks for: where records are
/// shorter than its pieces, that takes more of them.
fn scaled_depth(best: &DiskPoint, index: &Index) -> usize {
    let segments = index.entries.iter().flat_map(|entry| &entry.segments);
    let (mut bytes, mut pieces) = (0u64, 0u64);
    for segment in segments {
        bytes = bytes.saturating_add(segment.bytes);
        pieces = pieces.saturating_add(segment.bytes.div_ceil(best.piece_bytes));
    }
    let in_flight = (best.depth as u64).saturating_mul(best.piece_bytes);
    in_flight.div_ceil((bytes / pieces.max(1)).max(1)) as usize
}

/// What `auto` means here, and why if that is not what one would expect.
fn choose(
    kind: ReaderKind,
    files: &[PathBuf],
    profile: Option<&DiskProfile>,
) -> (ReaderKind, Option<String>) {
    if kind != ReaderKind::Auto {
        return (kind, None);
    }
    if let Some(profile) = profile {
        return (profile.reader, None);
    }
    let bytes = |file: &PathBuf| std::fs::metadata(file).map_or(0, |metadata| metadata.len());
    if files.iter().map(bytes).sum::<u64>() < SMALL_FILES_BYTES {
        let note = "the files are small enough to stay in the page cache";
        return (ReaderKind::Buffered, Some(note.into()));
    }
    (ReaderKind::Auto, None)
}
