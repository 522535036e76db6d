//! Reading any range of a file in whole blocks, which is all that direct reads do.
//!
//! A request covers the blocks around the range. Where memory is aligned as the file is, the whole
//! blocks go straight to their place and only the ends take a copy through a small buffer; else
//! everything does.

use std::io::IoSliceMut;

use memmap2::MmapMut;

/// Direct reads start at multiples of this many bytes in the file, and their length is one.
pub const FILE_ALIGN: u64 = 4096;

const BLOCK: usize = FILE_ALIGN as usize;

/// The longest range that one request reads.
pub(crate) const MAX_PIECE_BYTES: u64 = 4 << 20;

/// Bytes of the buffer beside a request of at most [`MAX_PIECE_BYTES`].
const BOUNCE_BYTES: usize = MAX_PIECE_BYTES as usize + 2 * BLOCK;

/// A page-aligned buffer for what cannot go straight; takes memory only where it is used.
pub(crate) fn new_bounce() -> std::io::Result<MmapMut> {
    MmapMut::map_anon(BOUNCE_BYTES)
}

/// How one range is read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Blocks {
    /// Where the request begins in the file: at a block.
    pub start: u64,
    /// Bytes of the request: whole blocks.
    pub bytes: usize,
    /// Bytes of the first block before the range.
    skip: usize,
    /// Length of the range.
    wanted: usize,
    /// What of the range goes straight to its place: from and to, whole blocks of the file.
    straight: Option<(usize, usize)>,
}

impl Blocks {
    /// The request for `wanted` bytes (at most [`MAX_PIECE_BYTES`]) from `offset` on, to go to
    /// memory at `address`; direct reads want memory at multiples of `memory_align`.
    pub fn new(offset: u64, wanted: usize, address: usize, memory_align: usize) -> Blocks {
        let start = offset / FILE_ALIGN * FILE_ALIGN;
        let skip = (offset - start) as usize;
        let bytes = (skip + wanted).next_multiple_of(BLOCK);
        let from = skip.next_multiple_of(BLOCK) - skip;
        let to = ((skip + wanted) / BLOCK * BLOCK).saturating_sub(skip);
        let aligned = (address + from).is_multiple_of(memory_align);
        Blocks {
            start,
            bytes,
            skip,
            wanted,
            straight: (aligned && from < to).then_some((from, to)),
        }
    }

    /// Bytes that the request must deliver, to be complete: the file may end within its last block.
    pub fn needed(&self) -> usize {
        self.skip + self.wanted
    }

    /// Whether [`Blocks::finish`] has anything to copy.
    pub fn copies(&self) -> bool {
        self.straight != Some((0, self.wanted))
    }

    /// Where the request's bytes go from byte `done` (at a block) on, in order; the first number of
    /// them count.
    pub fn parts<'a>(
        &self,
        done: usize,
        out: &'a mut [u8],
        bounce: &'a mut [u8],
    ) -> ([IoSliceMut<'a>; 3], usize) {
        let (head, middle, tail) = match self.straight {
            None => (&mut bounce[..self.bytes], &mut out[..0], &mut [][..]),
            Some((from, to)) => {
                let tail_bytes = self.bytes - (self.skip + to);
                let (head, tail) = bounce.split_at_mut(BLOCK);
                let head_bytes = if from > 0 { BLOCK } else { 0 };
                (
                    &mut head[..head_bytes],
                    &mut out[from..to],
                    &mut tail[..tail_bytes],
                )
            }
        };
        let mut left = done;
        let mut count = 0;
        let mut slices = [const { None }; 3];
        for part in [head, middle, tail] {
            let gone = left.min(part.len());
            left -= gone;
            if gone < part.len() {
                slices[count] = Some(IoSliceMut::new(&mut part[gone..]));
                count += 1;
            }
        }
        let slices = slices.map(|slice| slice.unwrap_or_else(|| IoSliceMut::new(&mut [])));
        (slices, count)
    }

    /// Bytes that [`Blocks::finish`] copies.
    #[cfg(target_os = "linux")]
    pub fn copied_bytes(&self) -> usize {
        self.wanted - self.straight.map_or(0, |(from, to)| to - from)
    }

    /// Copies what did not go straight.
    pub fn finish(&self, out: &mut [u8], bounce: &[u8]) {
        match self.straight {
            None => out.copy_from_slice(&bounce[self.skip..self.skip + self.wanted]),
            Some((from, to)) => {
                out[..from].copy_from_slice(&bounce[self.skip..self.skip + from]);
                let tail = self.wanted - to;
                out[to..].copy_from_slice(&bounce[BLOCK..BLOCK + tail]);
            }
        }
    }

    /// From where a request that delivered `done` bytes and is not complete goes on; `None` where
    /// that is no further than `before`: the file has ended.
    pub fn resume(&self, before: usize, done: usize) -> Option<usize> {
        let at = done / BLOCK * BLOCK;
        (at > before).then_some(at)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed test panics")]

    use super::*;

    /// Reads `file` through the parts of a request, at most `most` bytes a turn.
    fn read(file: &[u8], offset: usize, out: &mut [u8], align: usize, most: usize) -> bool {
        let mut bounce = vec![0xee; BOUNCE_BYTES];
        let blocks = Blocks::new(offset as u64, out.len(), out.as_ptr() as usize, align);
        let mut done = 0;
        while done < blocks.needed() {
            let (mut parts, count) = blocks.parts(done, out, &mut bounce);
            let total: usize = parts.iter().map(|part| part.len()).sum();
            assert_eq!(total, blocks.bytes - done);
            let from = blocks.start as usize + done;
            let mut left = &file[from.min(file.len())..file.len().min(from.saturating_add(most))];
            let read = left.len();
            for part in &mut parts[..count] {
                assert!(!part.is_empty() && part.len().is_multiple_of(BLOCK));
                let bytes = left.len().min(part.len());
                part[..bytes].copy_from_slice(&left[..bytes]);
                left = &left[bytes..];
            }
            if done + read >= blocks.needed() {
                break;
            }
            match blocks.resume(done, done + read) {
                Some(at) => done = at,
                None => return false,
            }
        }
        if blocks.copies() {
            blocks.finish(out, &bounce);
        }
        true
    }

    #[test]
    fn every_range_arrives_whole_however_memory_and_file_are_aligned() {
        let file: Vec<u8> = (0..60_000u32).map(|at| (at * 7 + at / 251) as u8).collect();
        let mut memory = vec![0u8; 80_000];
        let base = memory.as_ptr().align_offset(4096);
        let mut straight = 0;
        for offset in [0, 1, 511, 512, 4095, 4096, 4097, 9728, 40_000] {
            for len in [1, 100, 4095, 4096, 4097, 8192, 12_801, 20_000] {
                for place in [0, 1, 512, offset % 4096, offset % 512, 100] {
                    for most in [usize::MAX, 8192, 5000] {
                        let out = &mut memory[base + place..base + place + len];
                        out.fill(0);
                        let blocks = Blocks::new(offset as u64, len, out.as_ptr() as usize, 512);
                        straight += usize::from(blocks.straight.is_some());
                        assert!(read(&file, offset, out, 512, most));
                        assert!(*out == file[offset..offset + len], "{offset} {len} {place}");
                    }
                }
            }
        }
        assert!(straight > 200, "{straight}");
        let out = &mut memory[base..base + 4096];
        assert!(!read(&file, 59_000, out, 512, usize::MAX), "the file ends");
    }
}
