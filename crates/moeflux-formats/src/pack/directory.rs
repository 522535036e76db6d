//! The directory being written, `DST.partial`, from its creation to its renaming.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::journal::Journal;
use crate::checksum::{checksum_file, checksum_text};
use crate::error::{FormatError, Result, io_error};
use crate::io::sync_directory;
use crate::packed::{FileEntry, JOURNAL_NAME, MANIFEST_NAME, Manifest, header_name};
use crate::{Checkpoint, gguf};

/// An unfinished directory, locked by this process.
pub(super) struct PartialDirectory {
    dir: PathBuf,
    journal: Journal,
}

/// What opening found.
pub(super) enum Opened {
    /// A directory to write to. `started_over`: files for another plan were in it and are removed.
    Ready {
        directory: PartialDirectory,
        started_over: bool,
    },
    /// An earlier run had finished but for the renaming, which is done now.
    Complete(Box<Manifest>),
}

impl PartialDirectory {
    /// Opens or creates the partial directory of `dst` for the plan of that fingerprint.
    pub(super) fn open(dst: &Path, plan: &str) -> Result<Opened> {
        if dst.symlink_metadata().is_ok() {
            return Err(FormatError::DestinationExists {
                dst: dst.to_path_buf(),
            });
        }
        let dir = partial_path(dst)?;
        let journal_path = dir.join(JOURNAL_NAME);
        if dir.exists() && !journal_path.exists() && !is_empty(&dir)? {
            // The journal is removed last: what is left is complete, or not ours.
            return match Manifest::read(&dir) {
                Ok(manifest) if manifest.plan == plan => {
                    rename(&dir, dst)?;
                    Ok(Opened::Complete(Box::new(manifest)))
                }
                _ => Err(FormatError::DestinationExists { dst: dir }),
            };
        }
        fs::create_dir_all(&dir).map_err(|error| io_error("create", &dir, error))?;
        let (mut journal, found) = Journal::open(&journal_path, &dir)?;
        let resumes = found.as_deref() == Some(plan);
        if !resumes {
            remove_all_but_journal(&dir)?;
            journal.begin(plan)?;
        }
        let experts = dir.join("experts");
        fs::create_dir_all(&experts).map_err(|error| io_error("create", &experts, error))?;
        let directory = Self { dir, journal };
        Ok(Opened::Ready {
            directory,
            started_over: found.is_some() && !resumes,
        })
    }

    /// Where a file of the model goes.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The entry of a file that an earlier run finished, if it still reads back as recorded.
    /// `checking` is called before that takes time.
    pub(super) fn finished(
        &self,
        name: &str,
        checking: &mut dyn FnMut(),
    ) -> Result<Option<FileEntry>> {
        let Some(entry) = self.journal.finished(name) else {
            return Ok(None);
        };
        let path = self.path(name);
        if fs::metadata(&path).map_or(0, |metadata| metadata.len()) != entry.bytes {
            return Ok(None);
        }
        checking();
        let found = checksum_file(&path, std::iter::empty(), &mut |_| ())?;
        Ok((checksum_text(found.file) == entry.xxh3).then(|| entry.clone()))
    }

    /// Records a finished, synced file.
    pub(super) fn record(&mut self, name: &str, entry: &FileEntry) -> Result<()> {
        sync_directory(self.path(name).parent().unwrap_or(&self.dir))?;
        self.journal.record(name, entry)
    }

    /// Copies those of the named files that the source has.
    pub(super) fn copy_all(
        &self,
        source_dir: &Path,
        names: &[String],
    ) -> Result<BTreeMap<String, FileEntry>> {
        let mut files = BTreeMap::new();
        for name in names {
            if let Some(entry) = self.copy(&source_dir.join(name), name)? {
                files.insert(name.clone(), entry);
            }
        }
        Ok(files)
    }

    /// Copies the headers of the files of a GGUF model.
    pub(super) fn copy_headers(&self, source: &Checkpoint) -> Result<BTreeMap<String, FileEntry>> {
        let mut files = BTreeMap::new();
        if source.gguf().is_none() {
            return Ok(files);
        }
        for (index, path) in source.files().iter().enumerate() {
            let wrap = |error| io_error("read", path, error);
            let file = File::open(path).map_err(wrap)?;
            let length = gguf::read_header(&file, path)?.data_start;
            let mut header = Vec::new();
            // The parser has a position of its own.
            let mut start = File::open(path).map_err(wrap)?.take(length);
            start.read_to_end(&mut header).map_err(wrap)?;
            let name = header_name(index + 1);
            let entry = self.write(&mut header.as_slice(), &name, xxh3_64(&header))?;
            files.insert(name, entry);
        }
        Ok(files)
    }

    fn copy(&self, from: &Path, name: &str) -> Result<Option<FileEntry>> {
        let mut source = match File::open(from) {
            Ok(source) => source,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read", from, error)),
        };
        let wanted = checksum_file(from, std::iter::empty(), &mut |_| ())?;
        self.write(&mut source, name, wanted.file).map(Some)
    }

    /// Writes a small file of the checksum `wanted`.
    fn write(&self, source: &mut dyn Read, name: &str, wanted: u64) -> Result<FileEntry> {
        let to = self.path(name);
        let mut file = File::create(&to).map_err(|error| io_error("create", &to, error))?;
        let copied = io::copy(source, &mut file).and_then(|_| file.sync_all());
        copied.map_err(|error| io_error("write", &to, error))?;
        let found = checksum_file(&to, std::iter::empty(), &mut |_| ())?;
        if found.file != wanted {
            let reason = "what was read back is not what was written".to_owned();
            return Err(FormatError::CorruptFile { path: to, reason });
        }
        let bytes = fs::metadata(&to)
            .map_err(|error| io_error("read", &to, error))?
            .len();
        Ok(FileEntry {
            bytes,
            xxh3: checksum_text(found.file),
        })
    }

    /// Writes the manifest and turns the directory into `dst`.
    pub(super) fn publish(self, manifest: &Manifest, dst: &Path) -> Result<()> {
        let path = self.path(MANIFEST_NAME);
        let text = manifest.to_json(&path)?;
        let written = File::create(&path).and_then(|mut file| {
            file.write_all(text.as_bytes())
                .and_then(|()| file.sync_all())
        });
        written.map_err(|error| io_error("write", &path, error))?;
        sync_directory(&self.dir.join("experts"))?;
        sync_directory(&self.dir)?;
        // From here on everything is complete; without the journal it may be renamed by anyone.
        let journal = self.path(JOURNAL_NAME);
        fs::remove_file(&journal).map_err(|error| io_error("remove", &journal, error))?;
        sync_directory(&self.dir)?;
        rename(&self.dir, dst)
    }
}

/// `DST.partial` beside `DST`.
fn partial_path(dst: &Path) -> Result<PathBuf> {
    let Some(name) = dst.file_name() else {
        return Err(FormatError::DestinationExists {
            dst: dst.to_path_buf(),
        });
    };
    let mut partial = OsString::from(name);
    partial.push(".partial");
    Ok(dst.with_file_name(partial))
}

fn rename(dir: &Path, dst: &Path) -> Result<()> {
    if dst.symlink_metadata().is_ok() {
        return Err(FormatError::DestinationExists {
            dst: dst.to_path_buf(),
        });
    }
    fs::rename(dir, dst).map_err(|error| io_error("rename", dir, error))?;
    let parent = dst.parent().filter(|parent| !parent.as_os_str().is_empty());
    sync_directory(parent.unwrap_or(Path::new(".")))
}

fn is_empty(dir: &Path) -> Result<bool> {
    let mut entries = fs::read_dir(dir).map_err(|error| io_error("read", dir, error))?;
    Ok(entries.next().is_none())
}

fn remove_all_but_journal(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).map_err(|error| io_error("read", dir, error))? {
        let entry = entry.map_err(|error| io_error("read", dir, error))?;
        if entry.file_name() == JOURNAL_NAME {
            continue;
        }
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        let removed = if is_dir {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(|error| io_error("remove", &path, error))?;
    }
    Ok(())
}
