//! Files of known bytes, catalogs over them, and checks of what is delivered.
#![allow(dead_code, reason = "each test program uses a part")]

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex};
use std::{fs, io};

use moeflux_experts::{
    BufferedReader, Catalog, Reader, ReaderChoice, ReaderKind, Ready, Record, Residency,
    ResidencyOptions, Segment, record_checksum,
};
use tempfile::TempDir;

/// Splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    pub fn below(&mut self, range: Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start)
    }

    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let words = (0..len.div_ceil(8)).flat_map(|_| self.next().to_le_bytes());
        words.take(len).collect()
    }

    /// `count` distinct numbers below `all`, in random order.
    pub fn distinct(&mut self, all: u32, count: usize) -> Vec<u32> {
        let mut ids: Vec<u32> = (0..all).collect();
        for at in 0..count {
            let other = self.below(at as u64..u64::from(all)) as usize;
            ids.swap(at, other);
        }
        ids.truncate(count);
        ids
    }
}

/// Bytes by place in the slot.
type Expected = Vec<(usize, Vec<u8>)>;

pub struct Fixture {
    pub dir: TempDir,
    pub catalog: Catalog,
    pub expected: HashMap<(usize, u32), Expected>,
}

#[derive(Clone, Copy, Debug)]
pub enum Layout {
    /// One aligned segment a record, padded: a packed model.
    Packed,
    /// One to four segments anywhere in two files, with gaps in the slot: a plain checkpoint.
    Scattered,
}

impl Fixture {
    /// Layers 1, 3, 5, ... of `experts` experts, each with segments of `bytes` bytes.
    pub fn new(seed: u64, layers: usize, experts: u32, bytes: Range<u64>, layout: Layout) -> Self {
        let mut random = Random(seed);
        let mut contents = [random.bytes(100), random.bytes(4096)];
        let mut fixture = Fixture {
            // Beside the build, as the system's temporary directory may not allow direct reads.
            dir: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap(),
            catalog: Catalog::default(),
            expected: HashMap::new(),
        };
        for layer in (0..layers).map(|number| 2 * number + 1) {
            for expert in 0..experts {
                let parts = match layout {
                    Layout::Packed => 1,
                    Layout::Scattered => random.below(1..5),
                };
                let (mut record, mut parts_expected, mut place) = (Record::default(), vec![], 0);
                for _ in 0..parts {
                    let mut len = random.below(bytes.clone());
                    let mut file = 1;
                    if let Layout::Scattered = layout {
                        file = random.below(0..2) as usize;
                        let gap = random.below(0..300) as usize;
                        contents[file].extend(random.bytes(gap));
                        place += random.below(0..100);
                    } else {
                        len = len.next_multiple_of(4096);
                    }
                    let data = random.bytes(len as usize);
                    record.segments.push(Segment {
                        file: file as u32,
                        offset: contents[file].len() as u64,
                        bytes: len,
                        slot_offset: place,
                    });
                    contents[file].extend(&data);
                    parts_expected.push((place as usize, data));
                    place += len;
                }
                let slices = parts_expected
                    .iter()
                    .map(|(_, data): &(usize, Vec<u8>)| &data[..]);
                record.checksum = Some(record_checksum(slices));
                record.segments.reverse();
                fixture
                    .catalog
                    .layers
                    .entry(layer)
                    .or_default()
                    .push(record);
                fixture.expected.insert((layer, expert), parts_expected);
            }
        }
        for (number, content) in contents.iter().enumerate() {
            let path = fixture.dir.path().join(format!("experts-{number}.bin"));
            fs::write(&path, content).unwrap();
            fixture.catalog.files.push(path);
        }
        fixture
    }

    /// A small packed one: layer 1, `experts` experts of one page.
    pub fn small(experts: u32) -> Fixture {
        Fixture::new(7, 1, experts, 4000..4001, Layout::Packed)
    }

    pub fn options(&self, slots: usize) -> ResidencyOptions {
        ResidencyOptions::new(self.catalog.slot_bytes() * slots as u64)
    }

    pub fn open(&self, options: ResidencyOptions) -> Residency {
        Residency::open(self.catalog.clone(), options).unwrap()
    }

    pub fn open_with(&self, slots: usize, threads: usize, reader: Arc<dyn Reader>) -> Residency {
        let mut options = self.options(slots);
        options.reader = ReaderChoice::Custom(reader);
        options.read_threads = threads;
        self.open(options)
    }

    pub fn buffered(&self) -> Arc<dyn Reader> {
        Arc::new(BufferedReader::open(&self.catalog.files).unwrap())
    }

    /// Checks the bytes of a batch; returns its experts.
    pub fn check(&self, layer: usize, ready: &Ready<'_>) -> Vec<u32> {
        assert_eq!(ready.iter().len(), ready.len());
        let check = |(expert, bytes): (u32, &[u8])| {
            let parts = &self.expected[&(layer, expert)];
            let (last_place, last) = parts.last().unwrap();
            assert_eq!(bytes.len(), last_place + last.len());
            for (place, data) in parts {
                assert!(
                    bytes[*place..place + data.len()] == data[..],
                    "expert {expert} of layer {layer} differs at {place}"
                );
            }
            expert
        };
        ready.iter().map(check).collect()
    }

    /// Takes a whole lease, checks its bytes, and returns the batches.
    pub fn take(&self, residency: &mut Residency, layer: usize, experts: &[u32]) -> Vec<Vec<u32>> {
        let mut batches = Vec::new();
        let mut lease = residency.lease(layer, experts).unwrap();
        while let Some(ready) = lease.next().unwrap() {
            batches.push(self.check(layer, &ready));
        }
        assert!(lease.next().unwrap().is_none());
        let mut delivered = batches.concat();
        let mut wanted = experts.to_vec();
        delivered.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(delivered, wanted, "each expert exactly once");
        batches
    }

    /// The file range of an expert with one segment.
    pub fn range(&self, layer: usize, expert: u32) -> (u32, Range<u64>) {
        let segment = self.catalog.layers[&layer][expert as usize].segments[0];
        (segment.file, segment.offset..segment.offset + segment.bytes)
    }
}

/// An independent least-recently-used cache that counts hits.
#[derive(Default)]
pub struct LruModel {
    order: Vec<(usize, u32)>,
    pub hits: u64,
    pub misses: u64,
}

impl LruModel {
    /// Returns the hits of one lease, in the order asked for.
    pub fn lease(&mut self, slots: usize, layer: usize, experts: &[u32]) -> Vec<u32> {
        let cached = |&expert: &u32| self.order.contains(&(layer, expert));
        let (hits, misses): (Vec<u32>, Vec<u32>) = experts.iter().partition(|e| cached(e));
        for &expert in &hits {
            self.order.retain(|&other| other != (layer, expert));
            self.order.push((layer, expert));
        }
        for &expert in &misses {
            if self.order.len() == slots {
                self.order.remove(0);
            }
            self.order.push((layer, expert));
        }
        self.hits += hits.len() as u64;
        self.misses += misses.len() as u64;
        hits
    }
}

/// The name that a reader of ours has here: io_uring may be refused, then threads take its place.
pub fn name_here(kind: ReaderKind) -> String {
    match kind {
        ReaderKind::Uring if !uring_works() => "direct".into(),
        kind => kind.to_string(),
    }
}

/// Whether this system has io_uring for us.
pub fn uring_works() -> bool {
    let fixture = Fixture::small(1);
    let mut options = fixture.options(1);
    options.reader = ReaderKind::Uring.into();
    fixture.open(options).stats().reader_note.is_none()
}

/// A reader that waits while its gate is closed.
pub struct Gate {
    inner: Arc<dyn Reader>,
    open: Mutex<bool>,
    changed: Condvar,
    entered: Mutex<u64>,
}

impl Gate {
    pub fn new(inner: Arc<dyn Reader>) -> Arc<Gate> {
        let (open, entered) = (Mutex::new(true), Mutex::new(0));
        Arc::new(Gate {
            inner,
            open,
            changed: Condvar::new(),
            entered,
        })
    }

    pub fn set(&self, open: bool) {
        *self.open.lock().unwrap() = open;
        self.changed.notify_all();
    }

    /// Waits until this many reads have begun.
    pub fn wait_for(&self, reads: u64) {
        let entered = self.entered.lock().unwrap();
        drop(
            self.changed
                .wait_while(entered, |entered| *entered < reads)
                .unwrap(),
        );
    }
}

impl Reader for Gate {
    fn read(&self, file: u32, offset: u64, out: &mut [u8]) -> io::Result<()> {
        *self.entered.lock().unwrap() += 1;
        self.changed.notify_all();
        let open = self.open.lock().unwrap();
        drop(self.changed.wait_while(open, |open| !*open).unwrap());
        self.inner.read(file, offset, out)
    }

    fn name(&self) -> String {
        "gate".into()
    }

    fn is_direct(&self) -> bool {
        false
    }
}

/// A catalog of one layer over one file, for error tests.
pub fn catalog_of(files: &[&str], segments: Vec<Segment>) -> Catalog {
    let record = Record {
        segments,
        checksum: None,
    };
    Catalog {
        files: files.iter().map(Into::into).collect(),
        layers: BTreeMap::from([(0, vec![record])]),
        prepare: None,
    }
}
