//! Packing a checkpoint whose shards come one after another and go again, so that it never has to
//! be there as a whole.
//!
//! Where a shard is needed, it is fetched. What it has of everything but routed experts is put
//! aside in a file of its own (`SHARD.dense`), and the layers of experts of which all is there are
//! packed. Then every shard goes that no other layer needs. The dense weights come last, from what
//! was put aside.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use moeflux_formats::{
    Begun, Checkpoint, FormatError, PackPlan, PackProgress, PackReport, Packer, SourceFile,
    SourceIdentity,
};

use super::{PackOptions, plan};
use crate::Error;
use crate::info::Opened;

/// What follows a shard's name in that of the file with its dense tensors.
const DENSE_ENDING: &str = ".dense";

/// A checkpoint of which the small files, the index and all shards' headers (in `SHARD.header`) are
/// in a directory.
#[derive(Debug)]
pub struct ShardedSource<'a> {
    /// The directory; shards come and go there.
    pub dir: &'a Path,
    /// Name and length of each shard, by name.
    pub shards: Vec<SourceFile>,
    /// What changes when their contents do: the commit.
    pub version: String,
}

/// Packs `source` into a new directory `destination`. `fetch` brings the shard of that number, whole
/// and checked, into the directory under its name.
///
/// # Errors
/// Those of `fetch`, and of [`pack`](super::pack). The same call goes on from what was finished.
pub fn pack_shards<E: From<Error>>(
    source: &ShardedSource<'_>,
    destination: &Path,
    options: &PackOptions,
    fetch: &mut dyn FnMut(usize) -> Result<(), E>,
    progress: &mut dyn FnMut(PackProgress),
) -> Result<PackReport, E> {
    let opened = Opened::open(source.dir)?;
    if options.importance.is_some() {
        let problem = "needs the whole model at once; pull it, then pack it".to_owned();
        return Err(Error::Option {
            flag: "--importance",
            problem,
        }
        .into());
    }
    let plan = plan(&opened, options, None)?;
    let headers = opened.files.dense();
    let identity = SourceIdentity {
        files: source.shards.clone(),
        version: source.version.clone(),
    };
    let begun = Packer::open(headers, identity, &plan, destination, progress).map_err(Error::from);
    let mut packer = match begun? {
        Begun::Packer(packer) => packer,
        Begun::Complete(report) => return Ok(report),
    };
    packer.threads = options.threads.unwrap_or(0);
    packer.copy(headers, source.dir).map_err(Error::from)?;
    let mut work = Work::new(source, headers, &plan);
    for shard in 0..source.shards.len() {
        work.skip_what_is_packed(&mut packer, headers)
            .map_err(Error::from)?;
        if !work.is_needed(shard) {
            continue;
        }
        if !work.path(shard).exists() {
            fetch(shard)?;
        }
        work.advance(shard, &mut packer).map_err(Error::from)?;
    }
    let parts = (0..source.shards.len()).filter(|&shard| !work.dense[shard].is_empty());
    let parts: Vec<PathBuf> = parts.map(|shard| work.aside(shard)).collect();
    let dense = Checkpoint::open_files(parts).map_err(Error::from)?;
    packer.dense(&dense).map_err(Error::from)?;
    Ok(packer.finish(destination).map_err(Error::from)?)
}

/// What is left to do.
struct Work<'a> {
    source: &'a ShardedSource<'a>,
    /// Of each shard, the tensors of the dense file.
    dense: Vec<BTreeSet<&'a str>>,
    /// Of each layer, its shards; none once it is packed.
    layers: Vec<BTreeSet<usize>>,
}

impl<'a> Work<'a> {
    fn new(source: &'a ShardedSource<'a>, headers: &Checkpoint, plan: &'a PackPlan) -> Self {
        // Files of the checkpoint may be in another order.
        let number = |name: &str| {
            let path = &headers.files()[headers.get(name)?.file];
            let name = path.file_name()?;
            let mut shards = source.shards.iter();
            shards.position(|shard| name == shard.name.as_str())
        };
        let mut dense = vec![BTreeSet::new(); source.shards.len()];
        for tensor in plan.dense.iter().flat_map(|tensor| tensor.sources()) {
            if let Some(shard) = number(tensor) {
                dense[shard].insert(tensor);
            }
        }
        let layers = plan.layers.iter();
        let layers = layers.map(|layer| layer.sources().filter_map(number).collect());
        Self {
            source,
            dense,
            layers: layers.collect(),
        }
    }

    fn path(&self, shard: usize) -> PathBuf {
        self.source.dir.join(&self.source.shards[shard].name)
    }

    /// Where a shard's dense tensors are put.
    fn aside(&self, shard: usize) -> PathBuf {
        let mut name = OsString::from(&self.source.shards[shard].name);
        name.push(DENSE_ENDING);
        self.source.dir.join(name)
    }

    fn is_aside(&self, shard: usize) -> bool {
        self.dense[shard].is_empty() || self.aside(shard).exists()
    }

    fn is_needed(&self, shard: usize) -> bool {
        !self.is_aside(shard) || self.layers.iter().any(|shards| shards.contains(&shard))
    }

    /// Takes over the layers that an earlier run has packed.
    fn skip_what_is_packed(
        &mut self,
        packer: &mut Packer<'_>,
        headers: &Checkpoint,
    ) -> Result<(), FormatError> {
        for (index, shards) in self.layers.iter_mut().enumerate() {
            if !shards.is_empty() && packer.has_layer(headers, index)? {
                shards.clear();
            }
        }
        Ok(())
    }

    /// Does what can be done now that `shard` is here, and lets go of what nobody needs.
    fn advance(&mut self, shard: usize, packer: &mut Packer<'_>) -> Result<(), FormatError> {
        let source = Checkpoint::open(self.source.dir)?;
        if !self.is_aside(shard) {
            let names: Vec<&str> = self.dense[shard].iter().copied().collect();
            source.write_part(&names, &self.aside(shard))?;
        }
        for index in 0..self.layers.len() {
            let shards = &self.layers[index];
            let is_here = |&shard: &usize| self.path(shard).exists();
            if !shards.is_empty() && shards.iter().all(is_here) {
                packer.layer(&source, index)?;
                self.layers[index].clear();
            }
        }
        drop(source);
        for shard in 0..self.source.shards.len() {
            let path = self.path(shard);
            if path.exists() && !self.is_needed(shard) {
                fs::remove_file(&path).map_err(|error| FormatError::Io {
                    action: "remove",
                    path,
                    source: error,
                })?;
            }
        }
        Ok(())
    }
}
