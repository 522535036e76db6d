//! Tables that are too large for memory: rows are read from disk when they are needed, and kept in
//! a cache of fixed size.

mod cache;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use moeflux_experts::{Reader, ReaderChoice, ReaderKind};
use moeflux_formats::{Checkpoint, DType, TensorInfo};
use moeflux_kernels::math::from_f16;

use crate::Error;
use cache::RowCache;

/// Rows that are looked up together.
const BATCH_ROWS: usize = 4096;
/// Rows that one thread reads before another one helps; reads wait for the disk.
const THREAD_ROWS: usize = 4;
/// Threads that read at a time.
const READ_THREADS: usize = 8;

/// A table `[rows, cols]`.
pub struct RowTable {
    cols: usize,
    rows: u64,
    source: Source,
}

enum Source {
    Values(Vec<f32>),
    Files(Files),
}

/// A table in files.
struct Files {
    reader: Arc<dyn Reader>,
    paths: Vec<PathBuf>,
    /// In order of their rows.
    parts: Vec<Part>,
    element: Element,
    row_bytes: usize,
    cache: Mutex<RowCache>,
}

/// Rows that lie one after another in a file.
struct Part {
    first_row: u64,
    /// Its place in the reader's list.
    file: u32,
    offset: u64,
}

/// What rows are made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Element {
    F32,
    F16,
    Bf16,
}

impl Element {
    fn of(dtype: DType) -> Element {
        match dtype {
            DType::F32 => Element::F32,
            DType::F16 => Element::F16,
            _ => Element::Bf16,
        }
    }

    fn bytes(self) -> usize {
        match self {
            Element::F32 => 4,
            Element::F16 | Element::Bf16 => 2,
        }
    }

    /// The numbers of a row.
    fn decode(self, bytes: &[u8], out: &mut [f32]) {
        if self == Element::F32 {
            for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *out = f32::from_le_bytes(*bytes);
            }
            return;
        }
        for (out, bytes) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            let bits = u16::from_le_bytes(*bytes);
            *out = match self {
                Element::F16 => from_f16(bits),
                _ => f32::from_bits(u32::from(bits) << 16),
            };
        }
    }
}

impl RowTable {
    /// Bytes of memory that a table takes whose tensors were found.
    pub(crate) fn memory_bytes(rows: usize, cols: usize, found: &[(String, &TensorInfo)]) -> u64 {
        let element = found
            .first()
            .map_or(4, |(_, info)| Element::of(info.dtype).bytes());
        RowCache::memory_bytes(rows as u64, cols * element)
    }

    /// Opens the tensors of a table, which were found in `files`.
    ///
    /// # Errors
    /// [`Error::Weight`] for tensors of several types, or a file that cannot be opened.
    pub(crate) fn open(
        files: &Checkpoint,
        found: &[(String, &TensorInfo)],
        cols: usize,
        reader: &ReaderChoice,
    ) -> Result<RowTable, Error> {
        let element = found
            .first()
            .map_or(Element::F32, |(_, info)| Element::of(info.dtype));
        let mut paths: Vec<PathBuf> = Vec::new();
        let (mut parts, mut rows) = (Vec::new(), 0);
        for (tensor, info) in found {
            let path = &files.files()[info.file];
            if Element::of(info.dtype) != element {
                return Err(Error::Weight {
                    path: path.clone(),
                    tensor: tensor.clone(),
                    problem: "is of another type than the table's other tensors",
                });
            }
            let known = paths.iter().position(|known| known == path);
            let file = known.unwrap_or_else(|| {
                paths.push(path.clone());
                paths.len() - 1
            });
            parts.push(Part {
                first_row: rows,
                file: file as u32,
                offset: info.offset,
            });
            rows += info.shape.first().copied().unwrap_or(0) as u64;
        }
        let row_bytes = cols * element.bytes();
        Ok(RowTable {
            cols,
            rows,
            source: Source::Files(Files {
                reader: kind_of(reader).open(&paths)?,
                paths,
                parts,
                element,
                row_bytes,
                cache: Mutex::new(RowCache::new(rows, row_bytes)),
            }),
        })
    }

    /// A table of rows that are given.
    pub(crate) fn of_values(cols: usize, values: Vec<f32>) -> RowTable {
        RowTable {
            cols,
            rows: (values.len() / cols.max(1)) as u64,
            source: Source::Values(values),
        }
    }

    /// The listed rows, one after another, into `out: [rows.len(), cols]`.
    ///
    /// # Errors
    /// [`Error::File`] where a row cannot be read, [`Error::Internal`] if there is no such row or
    /// `out` has another length.
    pub fn read(&self, rows: &[u64], out: &mut [f32]) -> Result<(), Error> {
        if let Some(row) = rows.iter().find(|row| **row >= self.rows) {
            let all = self.rows;
            let problem = format!("row {row} of a table of {all} rows was asked for");
            return Err(Error::Internal(problem));
        }
        if out.len() != rows.len() * self.cols {
            let problem = format!("{} rows of a table into {} values", rows.len(), out.len());
            return Err(Error::Internal(problem));
        }
        let batches = rows.chunks(BATCH_ROWS);
        for (rows, out) in batches.zip(out.chunks_mut(BATCH_ROWS * self.cols.max(1))) {
            match &self.source {
                Source::Values(values) => {
                    for (&row, out) in rows.iter().zip(out.chunks_exact_mut(self.cols)) {
                        out.copy_from_slice(&values[row as usize * self.cols..][..self.cols]);
                    }
                }
                Source::Files(files) => files.read(rows, self.cols, out)?,
            }
        }
        Ok(())
    }
}

/// The reader of ours that was asked for; one of the caller's own knows the experts' files only.
fn kind_of(reader: &ReaderChoice) -> ReaderKind {
    match reader {
        ReaderChoice::Kind(kind) | ReaderChoice::Faulty(kind, _) => *kind,
        ReaderChoice::Custom(_) => ReaderKind::Auto,
    }
}

/// A row to be read, and where to.
type Job<'a> = (u64, &'a mut [u8]);

impl Files {
    fn read(&self, rows: &[u64], cols: usize, out: &mut [f32]) -> Result<(), Error> {
        let mut wanted = rows.to_vec();
        wanted.sort_unstable();
        wanted.dedup();
        let mut bytes = vec![0; wanted.len() * self.row_bytes];
        let missing = self.fetch(&wanted, &mut bytes)?;
        self.keep(&missing, &wanted, &bytes);
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(cols)) {
            // Every row is among those wanted.
            let at = wanted.binary_search(row).unwrap_or(0);
            let row = &bytes[at * self.row_bytes..][..self.row_bytes];
            self.element.decode(row, out);
        }
        Ok(())
    }

    /// Fills `bytes` with the rows wanted, and gives those that had to be read.
    fn fetch(&self, wanted: &[u64], bytes: &mut [u8]) -> Result<Vec<u64>, Error> {
        let mut jobs: Vec<Job<'_>> = Vec::new();
        {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            for (&row, into) in wanted.iter().zip(bytes.chunks_exact_mut(self.row_bytes)) {
                match cache.find(row) {
                    Some(kept) => into.copy_from_slice(kept),
                    None => jobs.push((row, into)),
                }
            }
        }
        let missing = jobs.iter().map(|(row, _)| *row).collect();
        let threads = jobs.len().div_ceil(THREAD_ROWS).clamp(1, READ_THREADS);
        let queue = Mutex::new(jobs.iter_mut());
        let work = || -> Result<(), Error> {
            loop {
                let job = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((row, into)) = job else {
                    return Ok(());
                };
                self.read_row(*row, into)?;
            }
        };
        std::thread::scope(|scope| {
            // A thread that the system refuses leaves its rows to the others.
            let spawn = |_| std::thread::Builder::new().spawn_scoped(scope, work).ok();
            let others: Vec<_> = (1..threads).filter_map(spawn).collect();
            let mut result = work();
            for other in others {
                let died = |_| {
                    let problem = "a thread that reads rows panicked";
                    Err(Error::Internal(problem.to_owned()))
                };
                result = result.and(other.join().unwrap_or_else(died));
            }
            result
        })?;
        Ok(missing)
    }

    fn read_row(&self, row: u64, into: &mut [u8]) -> Result<(), Error> {
        let after = self.parts.partition_point(|part| part.first_row <= row);
        let Some(part) = after.checked_sub(1).and_then(|at| self.parts.get(at)) else {
            return Err(Error::Internal(format!("no tensor has row {row}")));
        };
        let offset = part.offset + (row - part.first_row) * self.row_bytes as u64;
        let read = self.reader.read(part.file, offset, into);
        read.map_err(|source| Error::File {
            action: "read",
            path: self.paths[part.file as usize].clone(),
            source,
        })
    }

    /// Keeps the rows that were read.
    fn keep(&self, missing: &[u64], wanted: &[u64], bytes: &[u8]) {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        for &row in missing {
            if let Ok(at) = wanted.binary_search(&row) {
                cache.keep(row, &bytes[at * self.row_bytes..][..self.row_bytes]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_numbers_of_their_type() {
        let mut out = [0.0; 2];
        Element::Bf16.decode(&[0x80, 0x3f, 0x00, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.0]);
        Element::F16.decode(&[0x00, 0x3c, 0x00, 0xc0], &mut out);
        assert_eq!(out, [1.0, -2.0]);
        let bytes = [1.0f32, -2.0].map(f32::to_le_bytes).concat();
        Element::F32.decode(&bytes, &mut out);
        assert_eq!(out, [1.0, -2.0]);
    }

    #[test]
    fn a_row_that_is_not_there_is_an_error() {
        let table = RowTable::of_values(2, vec![1.0, 2.0, 3.0, 4.0]);
        let mut out = [0.0; 4];
        table.read(&[1, 0], &mut out).expect("both are there");
        assert_eq!(out, [3.0, 4.0, 1.0, 2.0]);
        assert!(table.read(&[2], &mut out[..2]).is_err());
        assert!(table.read(&[0], &mut out).is_err());
    }
}
