//! Reads from bytes in memory: experts without files, for tests and measurements.

use std::io;

use super::{Reader, end_of_file, unknown_file};

/// Serves each file number from a run of bytes. The catalog's paths are then names only.
pub struct MemoryReader {
    files: Vec<Vec<u8>>,
}

impl MemoryReader {
    /// A reader of `files`, by their number in the catalog.
    pub fn new(files: Vec<Vec<u8>>) -> MemoryReader {
        MemoryReader { files }
    }
}

impl Reader for MemoryReader {
    fn read(&self, file: u32, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let bytes = self
            .files
            .get(file as usize)
            .ok_or_else(|| unknown_file(file))?;
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = from.checked_add(out.len()).ok_or_else(end_of_file)?;
        out.copy_from_slice(bytes.get(from..end).ok_or_else(end_of_file)?);
        Ok(())
    }

    fn name(&self) -> String {
        "memory".into()
    }

    fn is_direct(&self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ranges_and_refuses_what_is_outside() {
        let reader = MemoryReader::new(vec![vec![1], (0..10).collect()]);
        let mut out = [0; 3];
        assert!(reader.read(1, 7, &mut out).is_ok());
        assert_eq!(out, [7, 8, 9]);
        for (file, offset) in [(1, 8), (0, 0), (1, u64::MAX), (2, 0)] {
            assert!(
                reader.read(file, offset, &mut out).is_err(),
                "{file} {offset}"
            );
        }
    }
}
