//! A whole model.

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
    let client = Client::new(&options.access)?;
    let repo = &options.repo;
    let listing = persistent(&client, || listing(&client, repo, &options.revision))?;
    let needed = needed(repo, &listing.files, &options.files)?;
    let work = Work {
        client,
        options,
        listing: &listing,
        destination,
    };
    let mut files = needed.files;
    if let Some(index) = needed.index {
        let text = work.small(&index)?;
        files.push(index);
        files.extend(shards(repo, &text, &listing.files)?);
    }
    let bytes = files.iter().map(|entry| entry.bytes).sum();
    work.all(&files, bytes, progress)?;
    let paths = files.iter().map(|entry| destination.join(&entry.path));
    Ok(PullReport {
        commit: listing.commit.clone(),
        files: paths.collect(),
        bytes,
    })
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

struct Work<'a> {
    client: Client,
    options: &'a PullOptions,
    listing: &'a Listing,
    destination: &'a Path,
}

impl Work<'_> {
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

    /// Fetches all files, several at a time, and reports the first failure.
    fn all(
        &self,
        files: &[Entry],
        total_bytes: u64,
        progress: &mut (dyn FnMut(Progress) + Send),
    ) -> Result<(), HubError> {
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
