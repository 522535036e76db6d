//! Putting state in the folder, one file at a time, and finding it there at the start.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use super::folder::{Folder, Found};
use super::format::Header;
use super::item::{Disk, Item, Tier};
use super::tree::{NodeId, Part, ROOT, Stale};
use super::writer::{Content, Done, Order, Writer};
use super::{FolderError, PrefixCache, PrefixOptions, Tree};

/// The folder and what is on its way there.
pub struct Filing {
    folder: Folder,
    identity: u64,
    report: fn(&str),
    /// `None` before the start, and after a file could not be written.
    writer: Option<Writer>,
    /// What the writer is busy with: the part, its file and its bytes.
    busy: Option<(Part, Stale, u64)>,
}

impl Filing {
    /// Opens the folder and puts what is in it into the tree.
    pub fn open(
        path: &Path,
        identity: u64,
        options: &PrefixOptions,
        tree: &mut Tree,
    ) -> Result<Filing, FolderError> {
        let (folder, found) = Folder::open(path, identity, options.report)?;
        for stale in adopt(tree, found) {
            folder.remove(stale);
        }
        Ok(Filing {
            folder,
            identity,
            report: options.report,
            writer: None,
            busy: None,
        })
    }

    /// Removes a file.
    pub fn remove(&self, stale: Stale) {
        self.folder.remove(stale);
    }

    /// Notes that a file was of use.
    pub fn touch(&self, stale: Stale) {
        self.folder.touch(stale);
    }

    /// Reads a file's payload; `None` if that cannot be.
    pub fn read<T>(
        &self,
        stale: Stale,
        read: impl FnOnce(&mut dyn Read) -> std::io::Result<T>,
    ) -> Option<T> {
        self.folder.read(stale, self.identity, self.report, read)
    }
}

/// Puts files into an empty tree, the oldest first, and gives those that nothing leads to.
fn adopt(tree: &mut Tree, found: Vec<Found>) -> Vec<Stale> {
    let (mut keys, states): (Vec<Found>, Vec<Found>) = found
        .into_iter()
        .partition(|one| one.header.position.is_none());
    // What a piece hangs on begins before it.
    let mut ids = std::collections::BTreeMap::from([(tree.root_key(), ROOT)]);
    let order: Vec<u128> = keys.iter().map(|one| one.header.key).collect();
    keys.sort_by_key(|one| one.header.start);
    let mut stale = Vec::new();
    for one in keys {
        let Header {
            key,
            parent,
            start,
            tokens,
            ..
        } = &one.header;
        let id = ids
            .get(parent)
            .and_then(|&parent| tree.add(parent, *start, tokens));
        match id.and_then(|id| Some((id, tree.node_mut(id)?))) {
            Some((id, node)) if node.key == *key => {
                node.keys.disk = Disk::Filed(one.bytes);
                ids.insert(*key, id);
            }
            Some((id, _)) => {
                tree.remove(id);
                stale.push((*key, None));
            }
            None => stale.push((*key, None)),
        }
    }
    for key in order {
        let stamp = tree.tick();
        if let Some(node) = ids.get(&key).and_then(|id| tree.node_mut(*id)) {
            node.keys.stamp = stamp;
        }
    }
    for one in states {
        let stamp = tree.tick();
        let at = one.header.position.unwrap_or(0);
        let node = ids.get(&one.header.key).and_then(|id| tree.node_mut(*id));
        match node.filter(|node| (node.start + 1..=node.end()).contains(&at)) {
            Some(node) => {
                let mut item = Item::empty(stamp);
                item.disk = Disk::Filed(one.bytes);
                node.checkpoints.insert(at, item);
            }
            None => stale.push((one.header.key, Some(at))),
        }
    }
    stale
}

impl PrefixCache {
    /// Starts writing; `done` is told of every file, and its word is to be handed to
    /// [`PrefixCache::filed`].
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(&mut self, done: Done) -> std::io::Result<()> {
        if let Some(filing) = &mut self.filing {
            filing.writer = Some(Writer::start(done)?);
        }
        self.bound_folder();
        Ok(())
    }

    /// Has the next part written, if there is one and the writer is free.
    pub(super) fn file(&mut self) {
        let Some(filing) = self.filing.as_mut().filter(|f| f.busy.is_none()) else {
            return;
        };
        let Some(writer) = &filing.writer else {
            return;
        };
        let Some((part, file, header, content)) = order(&self.tree, filing.identity) else {
            return;
        };
        let bytes = header.file_bytes();
        let path = filing.folder.file(file);
        if writer.write(Order {
            path,
            header,
            content,
        }) {
            filing.busy = Some((part, file, bytes));
        }
    }

    /// Takes note of how the last file went, and goes on with the next.
    pub fn filed(&mut self, result: &std::io::Result<()>) {
        let Some(filing) = &mut self.filing else {
            return;
        };
        let Some((part, file, bytes)) = filing.busy.take() else {
            return;
        };
        if let Err(error) = result {
            let path = filing.folder.file(file);
            (filing.report)(&format!(
                "cannot write {}: {error}; nothing more is written until the server is started \
                 again",
                path.display()
            ));
            filing.writer = None;
            return;
        }
        self.metrics.prefix.written_bytes.add(bytes);
        let disk = match part {
            Part::Keys(id) => self.tree.node_mut(id).map(|node| &mut node.keys.disk),
            Part::Checkpoint(id, at) => {
                let node = self.tree.node_mut(id);
                node.and_then(|node| Some(&mut node.checkpoints.get_mut(&at)?.disk))
            }
        };
        match disk {
            Some(disk) => *disk = Disk::Filed(bytes),
            // It has gone meanwhile.
            None => filing.folder.remove(file),
        }
        self.bound_folder();
        self.file();
    }

    /// Whether something is on its way to the folder.
    pub fn is_filing(&self) -> bool {
        self.filing
            .as_ref()
            .is_some_and(|filing| filing.busy.is_some())
    }

    /// Removes what the folder holds beyond its bound: files of other models, then what has been of
    /// no use for the longest time.
    fn bound_folder(&mut self) {
        let Some(filing) = &mut self.filing else {
            return;
        };
        loop {
            let others: u64 = filing.folder.others.iter().map(|(_, bytes)| bytes).sum();
            if self.tree.bytes(Tier::Disk) + others <= self.options.folder_bytes {
                break;
            }
            if let Some((path, _)) = filing.folder.others.pop() {
                // If it stays, the next start finds it again.
                let _ = std::fs::remove_file(path);
            } else if let Some(part) = self.tree.oldest(Tier::Disk) {
                for stale in self.tree.let_go(part, Tier::Disk) {
                    filing.folder.remove(stale);
                }
            } else {
                break;
            }
        }
        self.publish();
    }

    /// Writes what is not on disk yet, for at most `most`; `wait` gives the writer's word, or
    /// `None` when there was none for so long.
    pub fn flush(
        &mut self,
        most: Duration,
        mut wait: impl FnMut(Duration) -> Option<std::io::Result<()>>,
    ) {
        let end = Instant::now() + most;
        self.file();
        while self.is_filing() {
            let left = end.saturating_duration_since(Instant::now());
            match wait(left) {
                Some(result) => self.filed(&result),
                None => return,
            }
        }
    }
}

/// What to write next.
fn order(tree: &Tree, identity: u64) -> Option<(Part, Stale, Header, Content)> {
    let part = tree.unfiled()?;
    let id: NodeId = match part {
        Part::Keys(id) | Part::Checkpoint(id, _) => id,
    };
    let node = tree.node(id)?;
    let parent = tree.node(node.parent)?.key;
    let mut header = Header {
        identity,
        payload: 0,
        key: node.key,
        parent,
        start: node.start,
        position: None,
        tokens: Vec::new(),
    };
    let content = match part {
        Part::Keys(_) => {
            let keys = tree.keys(id)?;
            header.payload = keys.written_bytes();
            header.tokens.clone_from(&node.tokens);
            Content::Keys(keys)
        }
        Part::Checkpoint(_, at) => {
            let state = tree.state(id, at)?;
            header.payload = state.written_bytes();
            header.position = Some(at);
            Content::State(state)
        }
    };
    Some((part, (node.key, header.position), header, content))
}
