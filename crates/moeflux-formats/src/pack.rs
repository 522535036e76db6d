//! Writing a packed model directory from a checkpoint, following a [`PackPlan`].
//!
//! - Memory: a record or a block of rows a thread, whatever the size of the checkpoint.
//! - Atomic: everything is written to `DST.partial`, which does not open as a model, and renamed at
//!   the end, after files and directories are synced.
//! - Resumable: finished files are listed with their checksums in a journal in `DST.partial`; a
//!   rerun with the same source and plan reads them back and goes on. Another plan starts over.
//! - Checked: each file is read back from the disk and compared with what was meant to be written,
//!   and sampled rows are decoded and compared with the source.

mod directory;
mod file;
mod journal;
mod plan;
mod rows;
mod sample;
mod unit;
mod work;

use std::collections::BTreeMap;
use std::path::Path;

pub use plan::{
    CodedSource, ElementSteps, MatrixSource, PackPlan, PlannedLayer, PlannedMatrix, PlannedTensor,
};

use crate::Checkpoint;
use crate::error::Result;
use crate::packed::{FORMAT_VERSION, FileEntry, Manifest, SourceEntry, SourceFile};
use directory::{Opened, PartialDirectory};
use file::{FileJob, Step};

/// How far a pack (or a verification) is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackProgress {
    /// Source bytes done with, including `resumed_bytes`.
    pub done_bytes: u64,
    /// Source bytes in all.
    pub total_bytes: u64,
    /// Source bytes whose results an earlier run left: no work of this one, so not to be counted in
    /// a throughput.
    pub resumed_bytes: u64,
    /// What is being done, for a person.
    pub stage: String,
}

/// What a pack did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PackReport {
    /// Bytes of the source's tensors that went into the model.
    pub source_bytes: u64,
    /// Bytes of all files written.
    pub packed_bytes: u64,
    /// Files of the model, without the manifest.
    pub files: usize,
    /// Files that an earlier run had finished.
    pub resumed_files: usize,
    /// An earlier run with another source or plan had left files, which were discarded.
    pub started_over: bool,
}

/// Packs `source` (the checkpoint of `source_dir`) as `plan` says into the new directory `dst`.
///
/// `threads` workers convert in parallel (0: as many as the machine has). `progress` is called
/// often, on the calling thread.
///
/// # Errors
/// `dst` exists, a plan that does not fit the source, a failed read, no room (run again to resume),
/// or files that do not read back as they were written.
pub fn pack(
    source: &Checkpoint,
    source_dir: &Path,
    plan: &PackPlan,
    dst: &Path,
    threads: usize,
    progress: &mut dyn FnMut(PackProgress),
) -> Result<PackReport> {
    plan::check(source, plan)?;
    let fingerprint = plan::fingerprint(source, plan)?;
    let (mut directory, started_over) = match PartialDirectory::open(dst, &fingerprint)? {
        Opened::Ready {
            directory,
            started_over,
        } => (directory, started_over),
        Opened::Complete(manifest) => return Ok(report_complete(source, plan, &manifest)),
    };
    let mut run = Run {
        state: PackProgress {
            done_bytes: 0,
            total_bytes: plan::source_bytes(source, plan),
            resumed_bytes: 0,
            stage: String::new(),
        },
        progress,
    };
    let restart_note = "an earlier pack had another source or other options: starting over";
    run.stage(if started_over {
        restart_note
    } else {
        "copying files"
    });

    let mut files = directory.copy_all(source_dir, &plan.copied_files)?;
    files.extend(directory.copy_headers(source)?);
    let mut resumed_files = 0;
    let jobs = std::iter::once_with(|| FileJob::dense(source, plan))
        .chain(plan.layers.iter().map(FileJob::layer));
    for job in jobs {
        let job = job?;
        let entry = match directory.finished(&job.name, &mut || run.stage_of("checking", &job))? {
            Some(entry) => {
                resumed_files += 1;
                run.resume(job.source_bytes(source));
                entry
            }
            None => {
                run.stage_of("packing", &job);
                let path = directory.path(&job.name);
                let entry = job.write(source, &path, threads, &mut |step| run.step(step, &job))?;
                directory.record(&job.name, &entry)?;
                entry
            }
        };
        files.insert(job.name, entry);
    }
    let manifest = manifest(source, plan, fingerprint, files)?;
    let report = PackReport {
        resumed_files,
        started_over,
        ..report_of(source, plan, &manifest)
    };
    directory.publish(&manifest, dst)?;
    run.stage("done");
    Ok(report)
}

/// Progress as it goes.
struct Run<'a> {
    state: PackProgress,
    progress: &'a mut dyn FnMut(PackProgress),
}

impl Run<'_> {
    fn stage(&mut self, stage: &str) {
        stage.clone_into(&mut self.state.stage);
        (self.progress)(self.state.clone());
    }

    fn stage_of(&mut self, action: &str, job: &FileJob<'_>) {
        self.stage(&format!("{action} {}", job.name));
    }

    fn advance(&mut self, bytes: u64) {
        self.state.done_bytes += bytes;
        (self.progress)(self.state.clone());
    }

    fn step(&mut self, step: Step, job: &FileJob<'_>) {
        match step {
            Step::Packed(bytes) => self.advance(bytes),
            Step::Checked => self.stage_of("checking", job),
        }
    }

    fn resume(&mut self, bytes: u64) {
        self.state.resumed_bytes += bytes;
        self.advance(bytes);
    }
}

fn manifest(
    source: &Checkpoint,
    plan: &PackPlan,
    fingerprint: String,
    files: BTreeMap<String, FileEntry>,
) -> Result<Manifest> {
    let sizes = plan::source_sizes(source)?;
    Ok(Manifest {
        format_version: FORMAT_VERSION,
        created_by: concat!("moeflux ", env!("CARGO_PKG_VERSION")).to_owned(),
        plan: fingerprint,
        codecs: plan.codecs.clone(),
        skipped: plan.skipped.clone(),
        files,
        source: SourceEntry {
            files: sizes
                .into_iter()
                .map(|(name, bytes)| SourceFile { name, bytes })
                .collect(),
        },
    })
}

fn report_of(source: &Checkpoint, plan: &PackPlan, manifest: &Manifest) -> PackReport {
    PackReport {
        source_bytes: plan::source_bytes(source, plan),
        packed_bytes: manifest.files.values().map(|entry| entry.bytes).sum(),
        files: manifest.files.len(),
        resumed_files: 0,
        started_over: false,
    }
}

/// An earlier run ended between finishing the directory and renaming it.
fn report_complete(source: &Checkpoint, plan: &PackPlan, manifest: &Manifest) -> PackReport {
    PackReport {
        resumed_files: manifest.files.len(),
        ..report_of(source, plan, manifest)
    }
}
