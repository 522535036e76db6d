//! The popularity record: how often each expert was used by earlier processes, so that the next
//! one knows what to read first and what to keep.
//!
//! # File format, version 1
//!
//! All numbers are little-endian: the 8 bytes `moepopul`, the version as u32, the model's identity
//! as u64, the number of experts of all layers as u32, for each of them its uses as f32, and the
//! xxh3 of all that as u64.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::error::ExpertError;

const MAGIC: &[u8; 8] = b"moepopul";
const VERSION: u32 = 1;
/// Bytes before the uses.
const FRONT: usize = 24;
/// Uses, for each expert that there is, after which an earlier use counts half.
const USES_PER_HALF_LIFE: f64 = 64.0;

/// Uses by expert of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct Popularity {
    identity: u64,
    /// By key: experts are numbered through all layers in order.
    uses: Vec<f32>,
}

impl Popularity {
    /// A record without uses, of a model with as many `experts` in all layers together.
    pub fn new(identity: u64, experts: usize) -> Popularity {
        Popularity {
            identity,
            uses: vec![0.0; experts],
        }
    }

    /// Reads the record of this model, if there is one; that of another model or version, which lay
    /// at the same place before, is none.
    ///
    /// # Errors
    /// [`ExpertError::Popularity`] if the file cannot be read or is no record. It can be done
    /// without.
    pub fn read(
        path: &Path,
        identity: u64,
        experts: usize,
    ) -> Result<Option<Popularity>, ExpertError> {
        let failed = |problem: String| ExpertError::Popularity {
            file: path.into(),
            problem,
        };
        let file = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(|e| failed(e.to_string()))?,
        };
        let len = FRONT + experts * 4 + 8;
        let mut bytes = Vec::with_capacity(len + 1);
        let read = file.take(len as u64 + 1).read_to_end(&mut bytes);
        read.map_err(|e| failed(e.to_string()))?;
        let (front, rest) = bytes.split_at_checked(FRONT).unwrap_or((&[], &[]));
        if !front.starts_with(MAGIC) {
            return Err(failed("it is no such record".into()));
        }
        if front != Popularity::new(identity, experts).front() {
            return Ok(None);
        }
        if bytes.len() != len {
            return Err(failed("it is damaged".into()));
        }
        let (uses, check) = rest.split_at(experts * 4);
        if xxh3_64(&bytes[..len - 8]).to_le_bytes() != check {
            return Err(failed("it is damaged".into()));
        }
        let uses: Vec<f32> = uses
            .as_chunks::<4>()
            .0
            .iter()
            .map(|bytes| f32::from_le_bytes(*bytes))
            .collect();
        match uses.iter().all(|uses| uses.is_finite() && *uses >= 0.0) {
            true => Ok(Some(Popularity { identity, uses })),
            false => Err(failed("it is damaged".into())),
        }
    }

    /// Writes the record; the file appears whole or not at all.
    ///
    /// # Errors
    /// [`ExpertError::Popularity`] with the system's reason.
    pub fn write(&self, path: &Path) -> Result<(), ExpertError> {
        let mut bytes = self.front();
        bytes.extend(self.uses.iter().flat_map(|uses| uses.to_le_bytes()));
        bytes.extend(xxh3_64(&bytes).to_le_bytes());
        let mut name = path.as_os_str().to_owned();
        // Two processes on one model do not write into the same file.
        name.push(format!(".{}.partial", std::process::id()));
        let partial = PathBuf::from(name);
        let write = || {
            let mut file = File::create(&partial)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&partial, path)
        };
        write().map_err(|error| {
            // Whatever was begun is of no use; what keeps it from going is told already.
            let _ = fs::remove_file(&partial);
            ExpertError::Popularity {
                file: path.into(),
                problem: error.to_string(),
            }
        })
    }

    /// Adds the uses of a process, by key; the more they are, the less the earlier ones count.
    pub fn add(&mut self, uses: &[f32]) {
        let all: f64 = uses.iter().map(|&uses| f64::from(uses)).sum();
        let half_lives = all / (USES_PER_HALF_LIFE * self.uses.len().max(1) as f64);
        let factor = (-half_lives).exp2() as f32;
        for (sum, uses) in self.uses.iter_mut().zip(uses) {
            *sum = *sum * factor + uses;
        }
    }

    /// Uses by key.
    pub fn uses(&self) -> &[f32] {
        &self.uses
    }

    /// The keys of the most popular experts, at most `most` and none without uses, in ascending
    /// order.
    pub fn popular(&self, most: usize) -> Vec<u32> {
        let used = |&key: &u32| self.uses[key as usize] > 0.0;
        let mut keys: Vec<u32> = (0..self.uses.len() as u32).filter(used).collect();
        keys.sort_by(|&a, &b| self.uses[b as usize].total_cmp(&self.uses[a as usize]));
        keys.truncate(most);
        keys.sort_unstable();
        keys
    }

    fn front(&self) -> Vec<u8> {
        let mut front = MAGIC.to_vec();
        front.extend(VERSION.to_le_bytes());
        front.extend(self.identity.to_le_bytes());
        front.extend((self.uses.len() as u32).to_le_bytes());
        front
    }
}
