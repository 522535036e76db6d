//! Writing a packed model directory from a checkpoint, following a [`PackPlan`].
//!
//! - Memory: a record or a block of rows a thread, whatever the size of the checkpoint.
//! - Atomic: everything is written to `DST.partial`, which does not open as a model, and renamed at
//!   the end, after files and directories are synced.
//! - Resumable: finished files are listed with their checksums in a journal in `DST.partial`; a
//!   rerun with the same source and plan reads them back and goes on. Another plan starts over.
//! - Checked: each file is read back from the disk and compared with what was meant to be written,
//!   and sampled rows are decoded and compared with the source.

mod column_weights;
mod directory;
mod file;
mod identity;
mod journal;
mod plan;
mod rows;
mod sample;
mod unit;
mod work;

use std::collections::BTreeMap;
use std::path::Path;

pub use column_weights::ColumnWeights;
pub use identity::SourceIdentity;
pub use plan::{
    CodedSource, ElementSteps, GlobalScale, MatrixSource, PackPlan, PlannedLayer, PlannedMatrix,
    PlannedTensor,
};

use crate::Checkpoint;
use crate::error::{FormatError, Result};
use crate::packed::{DENSE_NAME, FORMAT_VERSION, FileEntry, Manifest, SourceEntry, layer_name};
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
    let identity = SourceIdentity::of(source)?;
    let mut packer = match Packer::open(source, identity, plan, dst, progress)? {
        Begun::Packer(packer) => packer,
        Begun::Complete(report) => return Ok(report),
    };
    packer.threads = threads;
    packer.copy(source, source_dir)?;
    packer.dense(source)?;
    for index in 0..plan.layers.len() {
        packer.layer(source, index)?;
    }
    packer.finish(dst)
}

/// What [`Packer::open`] finds.
pub enum Begun<'a> {
    /// A directory to fill.
    Packer(Box<Packer<'a>>),
    /// An earlier run had finished but for the renaming, which is done now.
    Complete(PackReport),
}

/// A packed model in the making, file by file, from a source of which not all is there at once:
/// each call is given a checkpoint that holds what its file needs.
pub struct Packer<'a> {
    /// Workers that convert in parallel (0: as many as the machine has).
    pub threads: usize,
    plan: &'a PackPlan,
    identity: SourceIdentity,
    fingerprint: String,
    directory: PartialDirectory,
    files: BTreeMap<String, FileEntry>,
    run: Run<'a>,
    report: PackReport,
}

impl<'a> Packer<'a> {
    /// Begins, or goes on with what an earlier run left. Of `source` the headers are enough.
    ///
    /// # Errors
    /// `dst` exists, or a plan that does not fit the source.
    pub fn open(
        source: &Checkpoint,
        identity: SourceIdentity,
        plan: &'a PackPlan,
        dst: &Path,
        progress: &'a mut dyn FnMut(PackProgress),
    ) -> Result<Begun<'a>> {
        plan::check(source, plan)?;
        let fingerprint = identity::fingerprint(&identity, plan)?;
        let mut report = PackReport {
            source_bytes: plan::source_bytes(source, plan),
            ..PackReport::default()
        };
        let directory = match PartialDirectory::open(dst, &fingerprint)? {
            Opened::Ready {
                directory,
                started_over,
            } => {
                report.started_over = started_over;
                directory
            }
            Opened::Complete(manifest) => {
                report.count(&manifest.files);
                report.resumed_files = report.files;
                return Ok(Begun::Complete(report));
            }
        };
        let state = PackProgress {
            done_bytes: 0,
            total_bytes: report.source_bytes,
            resumed_bytes: 0,
            stage: String::new(),
        };
        let mut run = Run { state, progress };
        let restart_note = "an earlier pack had another source or other options: starting over";
        run.stage(match report.started_over {
            true => restart_note,
            false => "copying files",
        });
        Ok(Begun::Packer(Box::new(Packer {
            threads: 0,
            plan,
            identity,
            fingerprint,
            directory,
            files: BTreeMap::new(),
            run,
            report,
        })))
    }

    /// Copies the small files, from `source_dir` and from the source's headers.
    ///
    /// # Errors
    /// A failed read or write.
    pub fn copy(&mut self, source: &Checkpoint, source_dir: &Path) -> Result<()> {
        let copied = self
            .directory
            .copy_all(source_dir, &self.plan.copied_files)?;
        self.files.extend(copied);
        self.files.extend(self.directory.copy_headers(source)?);
        Ok(())
    }

    /// Writes the file of everything but routed experts, unless an earlier run did.
    ///
    /// # Errors
    /// As [`pack`].
    pub fn dense(&mut self, source: &Checkpoint) -> Result<()> {
        let job = FileJob::dense(source, self.plan)?;
        match self.resume(source, &job)? {
            true => Ok(()),
            false => self.write(source, job),
        }
    }

    /// Writes the file of a layer's experts, unless an earlier run did.
    ///
    /// # Errors
    /// As [`pack`].
    pub fn layer(&mut self, source: &Checkpoint, index: usize) -> Result<()> {
        if self.has_layer(source, index)? {
            return Ok(());
        }
        self.write(source, FileJob::layer(&self.plan.layers[index])?)
    }

    /// Whether the file of a layer's experts is there. Of `source` the headers are enough.
    ///
    /// # Errors
    /// A failed read.
    pub fn has_layer(&mut self, source: &Checkpoint, index: usize) -> Result<bool> {
        let job = FileJob::layer(&self.plan.layers[index])?;
        self.resume(source, &job)
    }

    /// Takes over a file that is there already.
    fn resume(&mut self, source: &Checkpoint, job: &FileJob<'_>) -> Result<bool> {
        if self.files.contains_key(&job.name) {
            return Ok(true);
        }
        let Self { directory, run, .. } = self;
        let found = directory.finished(&job.name, &mut || run.stage_of("checking", job))?;
        let Some(entry) = found else {
            return Ok(false);
        };
        self.report.resumed_files += 1;
        self.run.resume(job.source_bytes(source));
        self.files.insert(job.name.clone(), entry);
        Ok(true)
    }

    fn write(&mut self, source: &Checkpoint, job: FileJob<'_>) -> Result<()> {
        let run = &mut self.run;
        run.stage_of("packing", &job);
        let path = self.directory.path(&job.name);
        let tell: &mut dyn FnMut(Step) = &mut |step| run.step(step, &job);
        let entry = job.write(source, &path, self.threads, tell)?;
        self.directory.record(&job.name, &entry)?;
        self.files.insert(job.name, entry);
        Ok(())
    }

    /// Ends it: writes the manifest and gives the directory its name.
    ///
    /// # Errors
    /// A file that was not written, or a failed write.
    pub fn finish(mut self, dst: &Path) -> Result<PackReport> {
        let layers = self.plan.layers.iter().map(|layer| layer_name(layer.layer));
        let missing = std::iter::once(DENSE_NAME.to_owned()).chain(layers);
        if let Some(name) = missing
            .into_iter()
            .find(|name| !self.files.contains_key(name))
        {
            return Err(FormatError::MissingFile {
                path: self.directory.path(&name),
                needed_for: "it was not packed".to_owned(),
            });
        }
        self.report.count(&self.files);
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            created_by: concat!("moeflux ", env!("CARGO_PKG_VERSION")).to_owned(),
            plan: self.fingerprint,
            codecs: self.plan.codecs.clone(),
            skipped: self.plan.skipped.clone(),
            files: self.files,
            source: SourceEntry {
                files: self.identity.files,
            },
        };
        self.directory.publish(&manifest, dst)?;
        self.run.stage("done");
        Ok(self.report)
    }
}

impl PackReport {
    fn count(&mut self, files: &BTreeMap<String, FileEntry>) {
        self.files = files.len();
        self.packed_bytes = files.values().map(|entry| entry.bytes).sum();
    }
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
