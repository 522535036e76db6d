//! Positioned reads around the page cache: `O_DIRECT` on Linux, `F_NOCACHE` on macOS, unbuffered
//! on Windows.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::path::PathBuf;

use memmap2::MmapMut;

use super::blocks::{Blocks, FILE_ALIGN, MAX_PIECE_BYTES, new_bounce};
use super::open::open_direct;
use super::positioned::read_parts;
use super::{Reader, end_of_file, unknown_file};
use crate::arena::SLOT_ALIGN;
use crate::error::ExpertError;

/// The least that disks ask of a buffer's alignment, where more is not needed.
const SMALL_ALIGN: usize = 512;

thread_local! {
    static BOUNCE: RefCell<Option<MmapMut>> = const { RefCell::new(None) };
}

/// Reads around the page cache: what is read once and kept in the arena is not kept twice.
pub struct DirectReader {
    files: Vec<File>,
    memory_align: usize,
}

impl DirectReader {
    /// Opens all files, and tries a read of each.
    ///
    /// # Errors
    /// [`ExpertError::Open`] where a file is missing or may not be read,
    /// [`ExpertError::TooManyFiles`] where the system lets this process open no more,
    /// [`ExpertError::DirectUnsupported`] where its file system has no direct reads.
    pub fn open(files: &[PathBuf]) -> Result<DirectReader, ExpertError> {
        let mut memory_align = SMALL_ALIGN;
        let open = |path: &PathBuf| {
            let file = open_direct(path)?;
            let probed = probe(&file, SMALL_ALIGN).or_else(|_| {
                memory_align = SLOT_ALIGN as usize;
                probe(&file, 0)
            });
            match probed {
                Ok(()) => Ok(file),
                Err(source) => Err(ExpertError::DirectUnsupported {
                    file: path.clone(),
                    source,
                }),
            }
        };
        let files = files.iter().map(open).collect::<Result<_, _>>()?;
        Ok(DirectReader {
            files,
            memory_align,
        })
    }

    /// The files, in the catalog's order.
    #[cfg(target_os = "linux")]
    pub(crate) fn files(&self) -> &[File] {
        &self.files
    }

    /// Direct reads into memory want it at multiples of this many bytes.
    #[cfg(target_os = "linux")]
    pub(crate) fn memory_align(&self) -> usize {
        self.memory_align
    }
}

impl Reader for DirectReader {
    fn read(&self, file: u32, mut offset: u64, mut out: &mut [u8]) -> io::Result<()> {
        let file = self
            .files
            .get(file as usize)
            .ok_or_else(|| unknown_file(file))?;
        while !out.is_empty() {
            // Cut where the file is aligned.
            let most = MAX_PIECE_BYTES - offset % FILE_ALIGN;
            let bytes = (out.len() as u64).min(most) as usize;
            let (piece, rest) = out.split_at_mut(bytes);
            with_bounce(|bounce| read_piece(file, offset, piece, bounce, self.memory_align))?;
            out = rest;
            offset += bytes as u64;
        }
        Ok(())
    }

    fn name(&self) -> String {
        "direct".into()
    }

    fn is_direct(&self) -> bool {
        true
    }
}

fn read_piece(
    file: &File,
    offset: u64,
    out: &mut [u8],
    bounce: &mut [u8],
    memory_align: usize,
) -> io::Result<()> {
    let blocks = Blocks::new(offset, out.len(), out.as_ptr() as usize, memory_align);
    let mut at = 0;
    loop {
        let (mut parts, count) = blocks.parts(at, out, bounce);
        let done = at + read_parts(file, blocks.start + at as u64, &mut parts[..count])?;
        if done >= blocks.needed() {
            break;
        }
        at = blocks.resume(at, done).ok_or_else(end_of_file)?;
    }
    if blocks.copies() {
        blocks.finish(out, bounce);
    }
    Ok(())
}

fn with_bounce<T>(use_it: impl FnOnce(&mut [u8]) -> io::Result<T>) -> io::Result<T> {
    BOUNCE.with_borrow_mut(|bounce| {
        let bytes = match bounce {
            Some(bytes) => bytes,
            None => bounce.insert(new_bounce()?),
        };
        use_it(bytes)
    })
}

/// One read, of the second block where there is one, to memory `misaligned` bytes behind a page's
/// start: some file systems allow direct reads on opening and refuse them on reading, or want
/// memory of larger alignment.
fn probe(file: &File, misaligned: usize) -> io::Result<()> {
    let offset = if file.metadata()?.len() > FILE_ALIGN {
        FILE_ALIGN
    } else {
        0
    };
    with_bounce(|bounce| {
        let part = io::IoSliceMut::new(&mut bounce[misaligned..misaligned + FILE_ALIGN as usize]);
        read_parts(file, offset, &mut [part]).map(|_| ())
    })
}
