//! Arrays of strings, such as a vocabulary.

use std::io::Read;

use super::header::MAX_HEADER_BYTES;
use super::reader::Reader;
use crate::error::Result;

/// Strings in one piece of memory: a vocabulary has hundreds of thousands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StringArray {
    text: String,
    /// Where each string ends in `text`.
    ends: Vec<u32>,
}

impl StringArray {
    /// Number of strings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The string of that number, from 0.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let start = index
            .checked_sub(1)
            .map_or(0, |before| self.ends[before] as usize);
        self.text.get(start..end)
    }

    /// All strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        (0..self.len()).map(|index| self.get(index).unwrap_or_default())
    }

    /// Reads `count` strings.
    pub(super) fn read<R: Read>(count: usize, reader: &mut Reader<'_, R>) -> Result<Self> {
        // Each has at least its length.
        reader.check_left(count as u64 * 8)?;
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(count);
        for _ in 0..count {
            let start = bytes.len();
            reader.append_string(MAX_HEADER_BYTES, &mut bytes)?;
            // Checked one by one: two broken strings could make a whole one together.
            if std::str::from_utf8(&bytes[start..]).is_err() {
                return Err(reader.not_utf8());
            }
            // A header's limit is far below 4 GiB.
            ends.push(bytes.len() as u32);
        }
        let text = String::from_utf8(bytes).map_err(|_| reader.not_utf8())?;
        Ok(Self { text, ends })
    }
}
