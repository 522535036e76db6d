//! `moeflux pull --pack`: a model from a hub, packed shard by shard as they come.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Instant;

use moeflux::formats::{MAX_HEADER_BYTES, SourceFile};
use moeflux::{PackOptions, ShardedSource, pack_shards};
use moeflux_hub::{Entry, HubError, PullOptions, RemoteModel};

use crate::failure::Failure;
use crate::output;
use crate::size;

/// The file that says which commit the others are of.
const COMMIT_NAME: &str = "commit";

/// Fetches and packs the model into the new directory `destination`.
pub fn run(pull: &PullOptions, pack: &PackOptions, destination: &Path) -> Result<(), Failure> {
    let start = Instant::now();
    let stage = with_ending(destination, ".pull");
    let remote = RemoteModel::open(pull, &stage)?;
    if !remote.files().iter().any(is_shard) {
        let problem = format!(
            "--pack: {} is in GGUF, which is not packed as it comes; fetch it without --pack: it \
             opens as it is, and `moeflux pack FILE -o DIR` packs it",
            pull.repo
        );
        return Err(Failure::Usage(problem));
    }
    let remote = staged(pull, remote, &stage)?;
    let (shards, small): (Vec<Entry>, Vec<Entry>) =
        remote.files().iter().cloned().partition(is_shard);
    remote.fetch(&small, &mut |_| {})?;
    for shard in &shards {
        fetch_header(&remote, shard, &stage)?;
    }
    let source = ShardedSource {
        dir: &stage,
        shards: shards.iter().map(source_file).collect(),
        version: remote.commit().to_owned(),
    };
    let total = shards.iter().map(|shard| shard.bytes).sum();
    let bar = output::bytes_bar(total);
    let mut before = 0;
    let mut fetch = |index: usize| -> Result<(), Failure> {
        bar.set_message(format!("fetching {}", shards[index].path));
        let shard = &shards[index..=index];
        remote.fetch(shard, &mut |now| bar.set_position(before + now.done_bytes))?;
        before += shards[index].bytes;
        check_header(&shards[index], &stage)
    };
    let report = pack_shards(&source, destination, pack, &mut fetch, &mut |progress| {
        if bar.message() != progress.stage {
            bar.set_message(progress.stage);
        }
    });
    bar.finish_and_clear();
    let report = report?;
    fs::remove_dir_all(&stage).map_err(|source| file_failure("remove", &stage, source))?;
    if report.started_over {
        output::note("an unfinished pack of another source or with other options was discarded");
    }
    let commit = remote.commit();
    output::note(&format!(
        "{}: {} from {} of commit {}, {} files, verified, in {:.1} s",
        destination.display(),
        size::show(report.packed_bytes),
        size::show(total),
        commit.get(..12).unwrap_or(commit),
        report.files,
        start.elapsed().as_secs_f64(),
    ));
    Ok(())
}

fn is_shard(entry: &Entry) -> bool {
    entry.path.ends_with(".safetensors")
}

/// Makes the place for what is fetched; what is left there of another commit goes.
fn staged<'a>(
    pull: &'a PullOptions,
    mut remote: RemoteModel<'a>,
    stage: &Path,
) -> Result<RemoteModel<'a>, Failure> {
    let marker = stage.join(COMMIT_NAME);
    let left = fs::read_to_string(&marker);
    if left.is_ok_and(|commit| commit != remote.commit()) {
        fs::remove_dir_all(stage).map_err(|source| file_failure("remove", stage, source))?;
        remote = RemoteModel::open(pull, stage)?;
    }
    let written = fs::create_dir_all(stage).and_then(|()| fs::write(&marker, remote.commit()));
    written.map_err(|source| file_failure("write", &marker, source))?;
    Ok(remote)
}

fn source_file(entry: &Entry) -> SourceFile {
    SourceFile {
        name: entry.path.clone(),
        bytes: entry.bytes,
    }
}

fn header_path(shard: &Entry, stage: &Path) -> PathBuf {
    with_ending(&stage.join(&shard.path), ".header")
}

/// Fetches a shard's header alone, whole or not at all.
fn fetch_header(remote: &RemoteModel<'_>, shard: &Entry, stage: &Path) -> Result<(), Failure> {
    let path = header_path(shard, stage);
    if path.exists() {
        return Ok(());
    }
    let length = remote.start_of(shard, 8)?;
    let length = length
        .as_slice()
        .try_into()
        .map_or(u64::MAX, u64::from_le_bytes);
    if length > MAX_HEADER_BYTES {
        return Err(HubError::Answer {
            url: shard.path.clone(),
            problem: format!("claims a header of {length} bytes, so it is no safetensors file"),
        }
        .into());
    }
    let header = remote.start_of(shard, 8 + length)?;
    let partial = with_ending(&path, ".partial");
    let written = fs::write(&partial, header).and_then(|()| fs::rename(&partial, &path));
    written.map_err(|source| file_failure("write", &path, source))
}

/// Compares a shard, which is checked, with the header that was fetched before and is not.
fn check_header(shard: &Entry, stage: &Path) -> Result<(), Failure> {
    let (path, alone) = (stage.join(&shard.path), header_path(shard, stage));
    let read = |path: &Path, source| file_failure("read", path, source);
    let expected = fs::read(&alone).map_err(|e| read(&alone, e))?;
    let mut found = Vec::with_capacity(expected.len());
    let file = File::open(&path).map_err(|e| read(&path, e))?;
    let start = file.take(expected.len() as u64).read_to_end(&mut found);
    start.map_err(|e| read(&path, e))?;
    if found == expected {
        return Ok(());
    }
    fs::remove_file(&alone).map_err(|source| file_failure("remove", &alone, source))?;
    Err(HubError::Answer {
        url: shard.path.clone(),
        problem: "begins otherwise than what was sent first; repeat the command".to_owned(),
    }
    .into())
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    name.into()
}

fn file_failure(action: &'static str, path: &Path, source: std::io::Error) -> Failure {
    let path = path.to_owned();
    Failure::File {
        action,
        path,
        source,
    }
}
