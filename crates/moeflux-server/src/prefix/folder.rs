//! The folder of a prefix cache: which files are there, and writing, reading and removing them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufReader, BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::format::Header;
use super::tree::Stale;

/// Ends the names of files of keys and values, and of recurrent states.
const EXTENSION: &str = "prefix";
/// Held while a server uses the folder.
const LOCK: &str = "lock";

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FolderError {
    /// It cannot be made, read or written.
    #[error("cannot use {} as --prefix-cache-dir: {source}; give another folder", path.display())]
    Unusable {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another server uses it.
    #[error(
        "{} is in use by another server; give each its own --prefix-cache-dir", path.display()
    )]
    InUse {
        /// The folder.
        path: PathBuf,
    },
}

/// A file that was there when the folder was opened.
#[derive(Debug)]
pub struct Found {
    pub header: Header,
    pub bytes: u64,
    modified: SystemTime,
}

/// An open folder, locked against other servers.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// Files of other models, the oldest last, with their bytes.
    pub others: Vec<(PathBuf, u64)>,
    _lock: File,
}

impl Folder {
    /// Opens or makes the folder at `path`; gives what is there for `identity`, the oldest first.
    /// Damaged files are removed, and `report` is told.
    pub fn open(
        path: &Path,
        identity: u64,
        report: fn(&str),
    ) -> Result<(Folder, Vec<Found>), FolderError> {
        let unusable = |source| FolderError::Unusable {
            path: path.to_owned(),
            source,
        };
        let mut builder = DirBuilder::new();
        builder.recursive(true);
        // What people wrote is nobody else's to read.
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(path).map_err(unusable)?;
        let lock = private(&mut OpenOptions::new())
            .open(path.join(LOCK))
            .map_err(unusable)?;
        lock.try_lock().map_err(|e| match e {
            std::fs::TryLockError::WouldBlock => FolderError::InUse {
                path: path.to_owned(),
            },
            std::fs::TryLockError::Error(source) => unusable(source),
        })?;
        let (mut found, mut others) = (Vec::new(), Vec::new());
        for entry in std::fs::read_dir(path).map_err(unusable)? {
            let file = entry.map_err(unusable)?.path();
            if !is_named_so(&file) {
                continue;
            }
            if file.extension().is_some_and(|e| e == "partial") {
                // A server was stopped while it wrote this.
                let _ = std::fs::remove_file(&file);
            }
            if file.extension().is_none_or(|e| e != EXTENSION) {
                continue;
            }
            match look(&file) {
                Ok(one) if one.header.identity == identity => found.push(one),
                Ok(one) => others.push((one.modified, file, one.bytes)),
                Err(error) => refuse(&file, &error, report),
            }
        }
        found.sort_by_key(|one| one.modified);
        others.sort_by_key(|(modified, ..)| std::cmp::Reverse(*modified));
        let folder = Folder {
            path: path.to_owned(),
            others: others
                .into_iter()
                .map(|(_, file, bytes)| (file, bytes))
                .collect(),
            _lock: lock,
        };
        Ok((folder, found))
    }

    /// The file of a part.
    pub fn file(&self, (key, position): Stale) -> PathBuf {
        let name = match position {
            None => format!("{key:032x}.{EXTENSION}"),
            Some(position) => format!("{key:032x}-{position}.{EXTENSION}"),
        };
        self.path.join(name)
    }

    /// Removes a file that may be gone already.
    pub fn remove(&self, stale: Stale) {
        // What cannot be removed is found again at the next start.
        let _ = std::fs::remove_file(self.file(stale));
    }

    /// Notes that a file was of use, for the next start.
    pub fn touch(&self, stale: Stale) {
        // Its age is only a guess at its use.
        let file = OpenOptions::new().append(true).open(self.file(stale));
        let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
    }

    /// Reads the part that `stale` names, with `read`; a file that is damaged or of something else
    /// is removed, and `report` is told.
    pub fn read<T>(
        &self,
        stale: Stale,
        identity: u64,
        report: fn(&str),
        read: impl FnOnce(&mut dyn std::io::Read) -> std::io::Result<T>,
    ) -> Option<T> {
        let path = self.file(stale);
        let open = || {
            let mut file = BufReader::with_capacity(1 << 20, File::open(&path)?);
            let header = Header::read(&mut file)?;
            if (header.key, header.position, header.identity) != (stale.0, stale.1, identity) {
                return Err(std::io::Error::new(
                    ErrorKind::InvalidData,
                    "it is another file",
                ));
            }
            header.read_payload(&mut file, read)
        };
        open().map_err(|error| refuse(&path, &error, report)).ok()
    }
}

/// Writes the file `path`, which appears whole or not at all.
pub fn write(
    path: &Path,
    header: &Header,
    payload: &mut dyn FnMut(&mut dyn Write) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let partial = path.with_extension("partial");
    let mut write = || {
        let file = private(OpenOptions::new().truncate(true)).open(&partial)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        header.write(&mut out, payload)?;
        out.into_inner()
            .map_err(std::io::IntoInnerError::into_error)?
            .sync_data()?;
        std::fs::rename(&partial, path)
    };
    write().inspect_err(|_| {
        // The failed write is what matters; a leftover is removed at the next start.
        let _ = std::fs::remove_file(&partial);
    })
}

/// Whether a file has a name that [`Folder::file`] gives, whatever its extension: all else in the
/// folder belongs to somebody.
fn is_named_so(file: &Path) -> bool {
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    let key = stem.and_then(|stem| stem.get(..32));
    key.is_some_and(|key| key.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Files that only their owner can read.
fn private(options: &mut OpenOptions) -> &mut OpenOptions {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.write(true).create(true)
}

fn look(path: &Path) -> std::io::Result<Found> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    let header = Header::read(&mut BufReader::new(file))?;
    if header.file_bytes() != meta.len() {
        return Err(std::io::Error::new(
            ErrorKind::InvalidData,
            "it is cut short",
        ));
    }
    Ok(Found {
        header,
        bytes: meta.len(),
        modified: meta.modified()?,
    })
}

/// Removes a file that cannot be used.
fn refuse(path: &Path, error: &std::io::Error, report: fn(&str)) {
    if error.kind() != ErrorKind::NotFound {
        // If it stays, the next start finds it again.
        let _ = std::fs::remove_file(path);
        report(&format!(
            "{}: {error}; it is removed and computed again",
            path.display()
        ));
    }
}
