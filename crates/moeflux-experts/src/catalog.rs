//! Where every expert's bytes lie: files, and for each layer and expert the segments of its
//! record and their places in a slot.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::arena::SLOT_ALIGN;
use crate::error::ExpertError;

/// A contiguous range of a file and its place in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Index into [`Catalog::files`].
    pub file: u32,
    /// First byte in the file; any alignment.
    pub offset: u64,
    /// Length, at least 1.
    pub bytes: u64,
    /// First byte in the slot; segments of a record must not overlap.
    pub slot_offset: u64,
}

/// One expert's bytes: its segments, and their checksum where one is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The segments, in any order, at least one.
    pub segments: Vec<Segment>,
    /// [`record_checksum`] of the segments' bytes in order of their place in the slot.
    pub checksum: Option<u64>,
}

impl Record {
    /// Bytes from the slot's start to the end of the last segment.
    pub fn bytes(&self) -> u64 {
        let end = |segment: &Segment| segment.slot_offset.saturating_add(segment.bytes);
        self.segments.iter().map(end).max().unwrap_or(0)
    }
}

type PrepareFn = dyn Fn(usize, &mut [u8]) -> Result<(), String> + Send + Sync;

/// What becomes of a record's bytes once they are read and verified: called with the layer and the
/// bytes in the slot, on a reader thread. Users of the expert see what it leaves.
#[derive(Clone)]
pub struct Prepare(Arc<PrepareFn>);

impl Prepare {
    /// Wraps a function.
    pub fn new(
        prepare: impl Fn(usize, &mut [u8]) -> Result<(), String> + Send + Sync + 'static,
    ) -> Prepare {
        Prepare(Arc::new(prepare))
    }

    pub(crate) fn run(&self, layer: usize, bytes: &mut [u8]) -> Result<(), String> {
        (self.0)(layer, bytes)
    }
}

impl fmt::Debug for Prepare {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Prepare")
    }
}

/// All experts of a model.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    /// The files that segments refer to.
    pub files: Vec<PathBuf>,
    /// Records by layer; an expert's id is its index. Layers without experts are absent.
    pub layers: BTreeMap<usize, Vec<Record>>,
    /// What is done to a record once it is in its slot; `None`: nothing.
    pub prepare: Option<Prepare>,
}

impl Catalog {
    /// Bytes of a slot: the largest record, rounded up to [`SLOT_ALIGN`].
    pub fn slot_bytes(&self) -> u64 {
        let largest = self.records().map(Record::bytes).max().unwrap_or(0);
        largest
            .checked_next_multiple_of(SLOT_ALIGN)
            .unwrap_or(u64::MAX)
    }

    /// Number of experts in all layers together.
    pub fn expert_count(&self) -> usize {
        self.layers.values().map(Vec::len).sum()
    }

    /// Bytes that all segments hold together.
    pub fn total_bytes(&self) -> u64 {
        let segments = self.records().flat_map(|record| &record.segments);
        segments.fold(0, |sum, segment| sum.saturating_add(segment.bytes))
    }

    /// Checks that the catalog has experts, and that every segment lies in a known file, does not
    /// overflow, and overlaps no other of its record.
    ///
    /// # Errors
    /// [`ExpertError::Catalog`] with the layer and expert at fault.
    pub fn validate(&self) -> Result<(), ExpertError> {
        if self.expert_count() == 0 {
            return Err(ExpertError::Catalog {
                reason: "it lists no experts".into(),
            });
        }
        if u32::try_from(self.expert_count()).is_err() {
            return Err(ExpertError::Catalog {
                reason: "it lists too many experts".into(),
            });
        }
        for (layer, records) in &self.layers {
            for (expert, record) in records.iter().enumerate() {
                self.validate_record(record)
                    .map_err(|problem| ExpertError::Catalog {
                        reason: format!("expert {expert} of layer {layer} {problem}"),
                    })?;
            }
        }
        Ok(())
    }

    fn validate_record(&self, record: &Record) -> Result<(), String> {
        if record.segments.is_empty() {
            return Err("has no segments".into());
        }
        for segment in &record.segments {
            let Some(file) = self.files.get(segment.file as usize) else {
                return Err(format!(
                    "is in file number {}, but there are {} files",
                    segment.file,
                    self.files.len()
                ));
            };
            let end = segment.offset.checked_add(segment.bytes);
            let slot_end = segment.slot_offset.checked_add(segment.bytes);
            let fits = slot_end.is_some_and(|end| end <= isize::MAX as u64 / 2);
            if segment.bytes == 0 || end.is_none() || !fits {
                return Err(format!(
                    "has an impossible segment in {} ({} bytes at {})",
                    file.display(),
                    segment.bytes,
                    segment.offset
                ));
            }
        }
        let segments = in_slot_order(record);
        match segments
            .windows(2)
            .any(|pair| pair[0].slot_offset + pair[0].bytes > pair[1].slot_offset)
        {
            true => Err("has segments that overlap in the slot".into()),
            false => Ok(()),
        }
    }

    fn records(&self) -> impl Iterator<Item = &Record> {
        self.layers.values().flatten()
    }
}

/// The checksum of a record: xxh3 (64 bits, seed 0) of its segments' bytes, one after another in
/// order of their place in the slot. Bytes of a slot between segments do not count.
pub fn record_checksum<'a>(segments: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut segments = segments.into_iter();
    let first = segments.next().unwrap_or(&[]);
    let Some(second) = segments.next() else {
        return xxh3_64(first);
    };
    let mut hash = Xxh3::new();
    hash.update(first);
    hash.update(second);
    segments.for_each(|bytes| hash.update(bytes));
    hash.digest()
}

fn in_slot_order(record: &Record) -> Vec<Segment> {
    let mut segments = record.segments.clone();
    segments.sort_by_key(|segment| segment.slot_offset);
    segments
}

/// A record as the reader threads use it.
pub(crate) struct Entry {
    pub layer: usize,
    pub expert: u32,
    /// In order of their place in the slot.
    pub segments: Box<[Segment]>,
    pub bytes: usize,
    pub checksum: Option<u64>,
}

/// The catalog, checked and flattened: an expert of any layer is one number, its key.
pub(crate) struct Index {
    pub files: Vec<PathBuf>,
    pub entries: Vec<Entry>,
    pub prepare: Option<Prepare>,
    /// First key and number of experts of each layer.
    layers: BTreeMap<usize, (u32, u32)>,
}

impl Index {
    pub fn new(catalog: Catalog) -> Result<Index, ExpertError> {
        catalog.validate()?;
        let mut entries = Vec::with_capacity(catalog.expert_count());
        let mut layers = BTreeMap::new();
        for (&layer, records) in &catalog.layers {
            layers.insert(layer, (entries.len() as u32, records.len() as u32));
            entries.extend(records.iter().enumerate().map(|(expert, record)| Entry {
                layer,
                expert: expert as u32,
                segments: in_slot_order(record).into(),
                bytes: record.bytes() as usize,
                checksum: record.checksum,
            }));
        }
        Ok(Index {
            files: catalog.files,
            entries,
            prepare: catalog.prepare,
            layers,
        })
    }

    /// The key of an expert.
    pub fn key(&self, layer: usize, expert: u32) -> Result<u32, ExpertError> {
        match self.layers.get(&layer) {
            None => Err(ExpertError::UnknownLayer { layer }),
            Some(&(_, experts)) if expert >= experts => Err(ExpertError::UnknownExpert {
                layer,
                expert,
                experts,
            }),
            Some(&(first, _)) => Ok(first + expert),
        }
    }

    /// Every layer with its number of experts, in order.
    pub fn layers(&self) -> impl Iterator<Item = (usize, u32)> {
        self.layers
            .iter()
            .map(|(&layer, &(_, experts))| (layer, experts))
    }

    /// Number of experts of a layer.
    pub fn experts(&self, layer: usize) -> u32 {
        self.layers.get(&layer).map_or(0, |&(_, experts)| experts)
    }

    /// Bytes that each file must have at least.
    pub fn file_ends(&self) -> Vec<u64> {
        let mut ends = vec![0; self.files.len()];
        for segment in self.entries.iter().flat_map(|entry| &entry.segments) {
            let end: &mut u64 = &mut ends[segment.file as usize];
            *end = (*end).max(segment.offset + segment.bytes);
        }
        ends
    }
}
