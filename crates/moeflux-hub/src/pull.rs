//! A whole model.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::client::{Client, Refusal};
use crate::download::{ATTEMPTS, Download, FIRST_WAIT};
use crate::listing::{Listing, listing};
use crate::needed::{INDEX, needed, shards};
use crate::repo::encoded;
use crate::{Access, Entry, HubError, Repo};

/// What to fetch, and how.
#[derive(Clone, Debug)]
pub struct PullOptions {
    /// The repository.
    pub repo: Repo,
    /// A branch, tag or commit.
    pub revision: String,
    /// Files of it; none: what a model in safetensors needs, or its only GGUF model.
    pub files: Vec<String>,
    /// Where the hub is.
    pub access: Access,
    /// Files fetched at a time.
    pub connections: usize,
}

/// How far a download is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of all files.
    pub total_bytes: u64,
    /// Bytes that are here.
    pub done_bytes: u64,
}

/// What a download has brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullReport {
    /// The commit that the files belong to.
    pub commit: String,
    /// The files here, in the order of the repository's listing.
    pub files: Vec<PathBuf>,
    /// Their bytes.
    pub bytes: u64,
}

/// Fetches a model into the directory `destination`. Repeated, it goes on from where it stopped.
///
/// # Errors
/// Whatever keeps the files from being whole; each names the file or address.
pub fn pull(
    options: &PullOptions,
    destination: &Path,
    progress: &mut (dyn FnMut(Progress) + Send),
) -> Result<PullReport, HubError> {
    let remote = RemoteModel::open(options, destination)?;
    remote.fetch(&remote.files, progress)?;
    let paths = remote.files.iter();
    Ok(PullReport {
        commit: remote.listing.commit.clone(),
        files: paths.map(|entry| destination.join(&entry.path)).collect(),
        bytes: remote.files.iter().map(|entry| entry.bytes).sum(),
    })
}

/// A model on a hub, known but not fetched; its list of shards is.
pub struct RemoteModel<'a> {
    client: Client,
    options: &'a PullOptions,
    listing: Listing,
    destination: PathBuf,
    files: Vec<Entry>,
}

impl<'a> RemoteModel<'a> {
    /// Asks the hub what the model consists of; its files will go to `destination`.
    ///
    /// # Errors
    /// No such repository, one without a model, or one whose list of shards cannot be fetched.
    pub fn open(options: &'a PullOptions, destination: &Path) -> Result<Self, HubError> {
        let client = Client::new(&options.access)?;
        let repo = &options.repo;
        let listing = persistent(&client, || listing(&client, repo, &options.revision))?;
        let needed = needed(repo, &listing.files, &options.files)?;
        let mut remote = RemoteModel {
            client,
            options,
            listing,
            destination: destination.to_owned(),
            files: needed.files,
        };
        if let Some(index) = needed.index {
            let text = remote.small(&index)?;
            remote.files.push(index);
            let shards = shards(repo, &text, &remote.listing.files)?;
            remote.files.extend(shards);
        }
        Ok(remote)
    }

    /// The files that the model needs.
    #[must_use]
    pub fn files(&self) -> &[Entry] {
        &self.files
    }

    /// The commit that they belong to.
    #[must_use]
    pub fn commit(&self) -> &str {
        &self.listing.commit
    }

    /// The first `bytes` of a file, which only the whole file's checksum could vouch for.
    ///
    /// # Errors
    /// A file that is shorter, or a connection that fails again and again.
    pub fn start_of(&self, entry: &Entry, bytes: u64) -> Result<Vec<u8>, HubError> {
        let url = self.download(entry).url;
        if bytes > entry.bytes {
            return Err(HubError::Length {
                file: entry.path.clone(),
                expected: bytes,
                found: entry.bytes,
            });
        }
        persistent(&self.client, || {
            let mut response = self.client.get(&url, 0)?;
            let body = response.body_mut().with_config().limit(u64::MAX).reader();
            let mut start = Vec::new();
            let read = body.take(bytes).read_to_end(&mut start);
            read.map_err(|error| Refusal::Passing(error.to_string()))?;
            match start.len() as u64 == bytes {
                true => Ok(start),
                false => Err(Refusal::Passing("the connection ended early".to_owned())),
            }
        })
    }
}

/// Repeats what fails for a while.
fn persistent<T>(
    client: &Client,
    mut work: impl FnMut() -> Result<T, Refusal>,
) -> Result<T, HubError> {
    let (mut attempts, mut wait) = (1, FIRST_WAIT);
    loop {
        let problem = match work() {
            Ok(value) => return Ok(value),
            Err(Refusal::Lasting(error)) => return Err(error),
            Err(Refusal::Passing(problem)) => problem,
        };
        if attempts >= ATTEMPTS {
            return Err(HubError::Connection {
                url: client.endpoint().to_owned(),
                problem,
                attempts,
            });
        }
        thread::sleep(wait);
        (attempts, wait) = (attempts + 1, wait * 2);
    }
}

impl RemoteModel<'_> {
    fn download<'b>(&'b self, entry: &'b Entry) -> Download<'b> {
        let (repo, commit) = (&self.options.repo, &self.listing.commit);
        let path = format!("{repo}/resolve/{commit}/{}", encoded(&entry.path, true));
        Download {
            client: &self.client,
            url: self.client.address(&path),
            entry,
            target: self.destination.join(&entry.path),
        }
    }

    /// The text of a small file, which is fetched.
    fn small(&self, entry: &Entry) -> Result<String, HubError> {
        self.download(entry).run(&|_| {})?;
        let path = self.destination.join(INDEX);
        std::fs::read_to_string(&path).map_err(|source| HubError::File {
            action: "read",
            path,
            source,
        })
    }

    /// Fetches files, several at a time, whole and checked.
    ///
    /// # Errors
    /// The first failure; each names the file or address.
    pub fn fetch(
        &self,
        files: &[Entry],
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), HubError> {
        let total_bytes = files.iter().map(|entry| entry.bytes).sum();
        let queue = Mutex::new(files.iter());
        let state = Mutex::new((0_i64, progress));
        let failed = AtomicBool::new(false);
        let advanced = |bytes: i64| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            state.0 += bytes;
            let done_bytes = u64::try_from(state.0).unwrap_or(0);
            (state.1)(Progress {
                total_bytes,
                done_bytes,
            });
        };
        let worker = || -> Result<(), HubError> {
            while !failed.load(Ordering::Relaxed) {
                let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some(entry) = next else {
                    return Ok(());
                };
                if let Err(error) = self.download(entry).run(&advanced) {
                    failed.store(true, Ordering::Relaxed);
                    return Err(error);
                }
            }
            Ok(())
        };
        let workers = self.options.connections.clamp(1, files.len().max(1));
        thread::scope(|scope| {
            let others: Vec<_> = (1..workers).map(|_| scope.spawn(worker)).collect();
            let mut result = worker();
            for other in others {
                // A panic there goes on here.
                let theirs = other
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
                result = result.and(theirs);
            }
            result
        })
    }
}
