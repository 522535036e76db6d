//! One file: from where an earlier attempt stopped to a checked file with its own name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::client::{Client, Refusal};
use crate::{Checksum, Entry, HubError};

/// Attempts without a byte of progress before giving up.
pub(crate) const ATTEMPTS: u32 = 5;
/// The wait after the first of them; it doubles.
pub(crate) const FIRST_WAIT: Duration = Duration::from_millis(500);
const BUFFER_BYTES: usize = 1 << 18;

/// Takes `bytes` more (or, if negative, bytes that have to be fetched again) into account.
pub(crate) type Advanced<'a> = &'a (dyn Fn(i64) + Sync);

/// Where a file comes from and goes to.
pub(crate) struct Download<'a> {
    pub client: &'a Client,
    pub url: String,
    pub entry: &'a Entry,
    pub target: PathBuf,
}

/// Running checksum.
enum Hash {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hash {
    fn new(entry: &Entry) -> Self {
        match entry.checksum {
            Checksum::Sha256(_) => Self::Sha256(Sha256::new()),
            Checksum::Git(_) => {
                let mut hash = Sha1::new();
                hash.update(format!("blob {}\0", entry.bytes));
                Self::Git(hash)
            }
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    /// Takes all that `file` still holds; how many bytes that was.
    fn update_from(&mut self, file: &mut File) -> io::Result<u64> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut bytes = 0;
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                return Ok(bytes);
            }
            self.update(&buffer[..read]);
            bytes += read as u64;
        }
    }

    fn digits(self) -> String {
        let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hash) => digits(&hash.finalize()),
            Self::Git(hash) => digits(&hash.finalize()),
        }
    }
}

/// A file that grows, with the checksum of what it holds.
struct Partial {
    file: File,
    path: PathBuf,
    bytes: u64,
    hash: Hash,
}

impl Partial {
    /// Opens what an earlier attempt left, or makes it.
    fn open(path: PathBuf, entry: &Entry, advanced: Advanced<'_>) -> Result<Self, HubError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let opened = options.open(&path);
        let mut file = opened.map_err(|source| failed("open", &path, source))?;
        let mut hash = Hash::new(entry);
        let read = hash.update_from(&mut file);
        let bytes = read.map_err(|source| failed("read", &path, source))?;
        let mut partial = Self {
            file,
            path,
            bytes,
            hash,
        };
        advanced(partial.bytes as i64);
        if partial.bytes > entry.bytes {
            partial.start_over(entry, advanced)?;
        }
        Ok(partial)
    }

    fn start_over(&mut self, entry: &Entry, advanced: Advanced<'_>) -> Result<(), HubError> {
        let emptied = self.file.set_len(0);
        let emptied = emptied.and_then(|()| self.file.seek(SeekFrom::Start(0)));
        emptied.map_err(|source| failed("empty", &self.path, source))?;
        advanced(-(self.bytes as i64));
        (self.bytes, self.hash) = (0, Hash::new(entry));
        Ok(())
    }

    fn write(&mut self, bytes: &[u8], advanced: Advanced<'_>) -> Result<(), HubError> {
        let written = self.file.write_all(bytes);
        written.map_err(|source| failed("write", &self.path, source))?;
        self.hash.update(bytes);
        self.bytes += bytes.len() as u64;
        advanced(bytes.len() as i64);
        Ok(())
    }
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> HubError {
    let path = path.to_owned();
    HubError::File {
        action,
        path,
        source,
    }
}

impl Download<'_> {
    /// Fetches the file, unless it is there already.
    pub(crate) fn run(&self, advanced: Advanced<'_>) -> Result<(), HubError> {
        if self.is_here()? {
            advanced(self.entry.bytes as i64);
            return Ok(());
        }
        let folder = self.target.parent().unwrap_or(Path::new(""));
        fs::create_dir_all(folder).map_err(|source| failed("create", folder, source))?;
        // A second time from the start, in case that the earlier attempt left something else.
        for last in [false, true] {
            let mut partial = Partial::open(self.partial_path(), self.entry, advanced)?;
            self.fill(&mut partial, advanced)?;
            let Partial {
                file,
                path,
                bytes,
                hash,
            } = partial;
            let (found, expected) = (hash.digits(), self.entry.checksum.digits());
            if found.eq_ignore_ascii_case(expected) {
                file.sync_all()
                    .map_err(|source| failed("write", &path, source))?;
                let renamed = fs::rename(&path, &self.target);
                return renamed.map_err(|source| failed("rename", &path, source));
            }
            drop(file);
            fs::remove_file(&path).map_err(|source| failed("delete", &path, source))?;
            advanced(-(bytes as i64));
            if last {
                return Err(HubError::Checksum {
                    file: self.entry.path.clone(),
                    expected: expected.to_owned(),
                    found,
                });
            }
        }
        Ok(())
    }

    /// Whether the file is there with these bytes. Its length alone does not say so: that of
    /// another version is mostly the same.
    fn is_here(&self) -> Result<bool, HubError> {
        if !fs::metadata(&self.target).is_ok_and(|found| found.len() == self.entry.bytes) {
            return Ok(false);
        }
        let read_failed = |source| failed("read", &self.target, source);
        let mut hash = Hash::new(self.entry);
        let mut file = File::open(&self.target).map_err(read_failed)?;
        hash.update_from(&mut file).map_err(read_failed)?;
        Ok(hash
            .digits()
            .eq_ignore_ascii_case(self.entry.checksum.digits()))
    }

    /// What the file is called until it is whole: another version's has another name.
    fn partial_path(&self) -> PathBuf {
        let digits = self.entry.checksum.digits();
        let digits = digits.get(..12).unwrap_or(digits);
        let name = self.target.file_name().unwrap_or_default();
        let name = format!(".{}.{digits}.part", name.to_string_lossy());
        self.target.with_file_name(name)
    }

    /// Asks until the file is whole.
    fn fill(&self, partial: &mut Partial, advanced: Advanced<'_>) -> Result<(), HubError> {
        let (mut failures, mut wait) = (0, FIRST_WAIT);
        while partial.bytes < self.entry.bytes {
            let before = partial.bytes;
            let problem = match self.attempt(partial, advanced) {
                Ok(()) => continue,
                Err(Refusal::Lasting(error)) => return Err(error),
                Err(Refusal::Passing(problem)) => problem,
            };
            if partial.bytes > before {
                (failures, wait) = (0, FIRST_WAIT);
                continue;
            }
            failures += 1;
            if failures >= ATTEMPTS {
                return Err(HubError::Connection {
                    url: self.url.clone(),
                    problem,
                    attempts: failures,
                });
            }
            thread::sleep(wait);
            wait *= 2;
        }
        Ok(())
    }

    /// One request and what it brings.
    fn attempt(&self, partial: &mut Partial, advanced: Advanced<'_>) -> Result<(), Refusal> {
        let lasting = Refusal::Lasting;
        let mut response = self.client.get(&self.url, partial.bytes)?;
        let header = |name: &str| {
            let value = response.headers().get(name)?;
            value.to_str().ok().map(str::to_owned)
        };
        let total = match response.status().as_u16() {
            206 => {
                let range = header("content-range").and_then(|range| parse_range(&range));
                let Some((start, total)) = range else {
                    let problem = "sends a part without saying which".to_owned();
                    let url = self.url.clone();
                    return Err(lasting(HubError::Answer { url, problem }));
                };
                if start != partial.bytes {
                    return Err(Refusal::Passing(format!("sends bytes from {start} on")));
                }
                total
            }
            _ => {
                // All of it, whatever was asked for.
                let length = header("content-length").and_then(|bytes| bytes.parse().ok());
                if partial.bytes > 0 {
                    partial.start_over(self.entry, advanced).map_err(lasting)?;
                }
                length
            }
        };
        if let Some(found) = total.filter(|&total| total != self.entry.bytes) {
            return Err(lasting(self.wrong_length(found)));
        }
        let mut body = response.body_mut().with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = body.read(&mut buffer);
            let read = read.map_err(|error| Refusal::Passing(error.to_string()))?;
            if read == 0 {
                break;
            }
            if partial.bytes + read as u64 > self.entry.bytes {
                return Err(lasting(self.wrong_length(partial.bytes + read as u64)));
            }
            partial.write(&buffer[..read], advanced).map_err(lasting)?;
        }
        match partial.bytes == self.entry.bytes {
            true => Ok(()),
            false => Err(Refusal::Passing("the connection ended early".to_owned())),
        }
    }

    fn wrong_length(&self, found: u64) -> HubError {
        HubError::Length {
            file: self.entry.path.clone(),
            expected: self.entry.bytes,
            found,
        }
    }
}

/// `bytes 5-9/10`: the first byte, and the length of all, if it is said.
fn parse_range(range: &str) -> Option<(u64, Option<u64>)> {
    let (part, total) = range.trim().strip_prefix("bytes ")?.split_once('/')?;
    let start = part.split_once('-')?.0.parse().ok()?;
    match total {
        "*" => Some((start, None)),
        total => Some((start, Some(total.parse().ok()?))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(parse_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(parse_range("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes */10", "items 1-2/3", "bytes 1-2/x"] {
            assert_eq!(parse_range(bad), None, "{bad}");
        }
    }
}
