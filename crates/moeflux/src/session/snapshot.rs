//! A session as bytes: versioned, checksummed, bound to its model.
//!
//! Layout, little-endian: magic (8 bytes), model identity (u64), bytes of an element of keys and
//! values (u64: 2 is f16, 4 is f32), number of tokens (u64), tokens (u32 each), then for each
//! state in the graph's order either keys and values of the used positions
//! (`[positions, kv_heads, (key, value), head_dim]`, without values where keys are those too, and
//! one for all positions that share one; from the first page on that a next token needs) or the recurrent state (f32); number of checkpoints
//! (u64), each its position (u64) and, of that position, the recurrent states and the pages of
//! windows; xxh3 of all before (u64).

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use moeflux_kernels::KvType;
use xxhash_rust::xxh3::xxh3_64;

use super::checkpoint::{Checkpoint, save_pages, save_values};
use super::state::LayerState;
use super::{MAX_CHECKPOINTS, Session, SessionShape};
use crate::Error;

/// Format 3.
const MAGIC: &[u8; 8] = b"MFLXSES3";
/// All formats begin with this, and end their magic with their number.
const MAGIC_STEM: &[u8; 7] = b"MFLXSES";

pub(super) fn to_bytes(session: &Session) -> Result<Vec<u8>, Error> {
    let mut out = Vec::new();
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&session.shape.identity.to_le_bytes());
    out.extend_from_slice(&(session.shape.kv_type.bytes() as u64).to_le_bytes());
    out.extend_from_slice(&(session.len() as u64).to_le_bytes());
    for token in &session.tokens {
        out.extend_from_slice(&token.to_le_bytes());
    }
    for state in &session.states {
        let home = session.at_home(state)?;
        match home.as_ref().unwrap_or(state) {
            LayerState::KeyValue(cache) => {
                let first = cache.first_page(session.len());
                let pages = cache.needed(session.len());
                save_pages(pages, first, cache.kept(session.len()), &mut out);
            }
            LayerState::Recurrent(r) => save_values(r.current(), &mut out),
            LayerState::Remote(..) => {}
        }
    }
    out.extend_from_slice(&(session.checkpoints.len() as u64).to_le_bytes());
    for checkpoint in &session.checkpoints {
        out.extend_from_slice(&(checkpoint.position as u64).to_le_bytes());
        for (decl, saved) in checkpoint.states(&session.shape) {
            saved.save(decl, checkpoint.position, &mut out);
        }
    }
    let checksum = xxh3_64(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    Ok(out)
}

pub(super) fn save(session: &Session, path: &Path) -> Result<(), Error> {
    let fail = |source| Error::File {
        action: "write",
        path: path.to_owned(),
        source,
    };
    let bytes = to_bytes(session)?;
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let write = || {
        let mut file = std::fs::File::create(partial)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        std::fs::rename(partial, path)
    };
    write().map_err(|e| {
        // The failed write is what matters; a leftover is harmless.
        let _ = std::fs::remove_file(partial);
        fail(e)
    })
}

pub(super) fn from_bytes(shape: Arc<SessionShape>, bytes: &[u8]) -> Result<Session, Error> {
    let session = read(shape, bytes).map_err(|problem| Error::Snapshot {
        path: None,
        problem,
    })?;
    session.move_out()
}

fn read(shape: Arc<SessionShape>, bytes: &[u8]) -> Result<Session, String> {
    let damaged = || "it is truncated or damaged; make a new one".to_owned();
    if !bytes.starts_with(MAGIC_STEM) {
        return Err("it is not a saved session; give a file that moeflux has saved".to_owned());
    }
    if !bytes.starts_with(MAGIC) {
        return Err("another version of moeflux has saved it; make a new one".to_owned());
    }
    let (body, checksum) = bytes.split_last_chunk::<8>().ok_or_else(damaged)?;
    if xxh3_64(body) != u64::from_le_bytes(*checksum) {
        return Err(damaged());
    }
    let mut reader = Reader {
        rest: &body[MAGIC.len()..],
    };
    if reader.u64().ok_or_else(damaged)? != shape.identity {
        return Err("it was made with another model; open that one".to_owned());
    }
    let element_bytes = reader.u64().ok_or_else(damaged)?;
    let kv_type = [KvType::F16, KvType::F32]
        .into_iter()
        .find(|t| t.bytes() as u64 == element_bytes)
        .ok_or_else(damaged)?;
    if kv_type != shape.kv_type {
        return Err(format!(
            "its keys and values are {kv_type}, this engine's are {}; open the model with --kv \
             {kv_type}",
            shape.kv_type
        ));
    }
    let count = reader.u64().ok_or_else(damaged)? as usize;
    if count > shape.context_tokens {
        return Err(format!(
            "it has {count} tokens, more than the context of {}; raise --context",
            shape.context_tokens
        ));
    }
    fill(Session::at_host(shape), &mut reader, count).ok_or_else(damaged)
}

fn fill(mut session: Session, reader: &mut Reader<'_>, count: usize) -> Option<Session> {
    let tokens = reader.take(count.checked_mul(4)?)?;
    session.tokens = tokens
        .as_chunks::<4>()
        .0
        .iter()
        .map(|b| u32::from_le_bytes(*b))
        .collect();
    for state in &mut session.states {
        match state {
            LayerState::KeyValue(cache) => cache.load(count, &mut reader.rest).ok()?,
            LayerState::Recurrent(r) => reader.f32_into(r.current_mut())?,
            LayerState::Remote(..) => return None,
        }
    }
    let checkpoints = reader.u64()? as usize;
    if checkpoints > MAX_CHECKPOINTS {
        return None;
    }
    for _ in 0..checkpoints {
        let position = reader.u64()? as usize;
        if position > count {
            return None;
        }
        let checkpoint = Checkpoint::load(position, &session.shape, &mut reader.rest).ok()?;
        session.checkpoints.push(checkpoint);
    }
    session.recount();
    reader.rest.is_empty().then_some(session)
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(bytes)?;
        self.rest = rest;
        Some(taken)
    }

    fn u64(&mut self) -> Option<u64> {
        let (taken, rest) = self.rest.split_first_chunk::<8>()?;
        self.rest = rest;
        Some(u64::from_le_bytes(*taken))
    }

    fn f32_into(&mut self, out: &mut [f32]) -> Option<()> {
        let bytes = self.take(out.len() * 4)?;
        for (value, bytes) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        Some(())
    }
}
