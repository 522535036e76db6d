//! A saved conversation: what was said, as JSON, and the session's state, as the engine writes it.
//!
//! Layout: [`MAGIC`], the JSON's length (u64, little-endian), the JSON, the engine's bytes. The file
//! appears whole or not at all.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use moeflux::text::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::failure::Failure;

const MAGIC: &[u8] = b"moeflux conversation 1\n";

/// The part of a conversation that is not the engine's state.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Talk {
    /// Text completion without a chat template.
    pub raw: bool,
    /// Everything said so far.
    pub messages: Vec<Message>,
    /// Tool schemas.
    pub tools: Option<Vec<Value>>,
    /// Variables for the template.
    pub variables: Map<String, Value>,
    /// The text of the session's tokens and the pending one; empty when that is not known.
    pub text: String,
    /// A token generated but not yet in the session.
    pub pending: Option<u32>,
    /// Position of the last answer's first token.
    pub answer_start: usize,
}

impl Talk {
    /// Forgets what was said; a system message, tools and variables stay.
    pub fn forget(&mut self) {
        let old = std::mem::take(self);
        let system = old.messages.into_iter().next();
        *self = Talk {
            raw: old.raw,
            messages: system
                .filter(|m| m.role() == "system")
                .into_iter()
                .collect(),
            tools: old.tools,
            variables: old.variables,
            ..Talk::default()
        };
    }
}

/// Writes a conversation. Without `state` whoever loads it computes it again.
pub fn save(path: &Path, talk: &Talk, state: &[u8]) -> Result<(), Failure> {
    let header = serde_json::to_vec(talk)
        .map_err(|error| Failure::Terminal(format!("cannot describe the session: {error}")))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&partial)?;
        file.write_all(MAGIC)?;
        file.write_all(&(header.len() as u64).to_le_bytes())?;
        file.write_all(&header)?;
        file.write_all(state)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write().map_err(|source| {
        // The write failed already; whether the leftover goes away changes nothing.
        let _ = fs::remove_file(&partial);
        Failure::File {
            action: "write",
            path: path.into(),
            source,
        }
    })
}

/// Reads a conversation and the engine's bytes.
pub fn load(path: &Path) -> Result<(Talk, Vec<u8>), Failure> {
    let bytes = fs::read(path).map_err(|source| Failure::File {
        action: "read",
        path: PathBuf::from(path),
        source,
    })?;
    let damaged = |problem: &str| Failure::SessionFile {
        path: path.into(),
        problem: format!("{problem}; save the session again"),
    };
    let Some(rest) = bytes.strip_prefix(MAGIC) else {
        return Err(damaged("not a session saved by this version of moeflux"));
    };
    let Some((length, rest)) = rest.split_first_chunk::<8>() else {
        return Err(damaged("the file is truncated"));
    };
    let header = usize::try_from(u64::from_le_bytes(*length)).ok();
    let Some((header, state)) = header.and_then(|length| rest.split_at_checked(length)) else {
        return Err(damaged("the file is truncated"));
    };
    let talk = serde_json::from_slice(header)
        .map_err(|error| damaged(&format!("its description is damaged ({error})")))?;
    Ok((talk, state.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::{Talk, load, save};

    #[test]
    fn conversations_come_back_and_damage_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("talk");
        let talk = Talk {
            messages: vec![moeflux::text::Message::new("user", "Größe 🎈")],
            text: "text".into(),
            pending: Some(7),
            answer_start: 3,
            ..Talk::default()
        };
        save(&path, &talk, &[1, 2, 3]).unwrap();
        assert_eq!(load(&path).unwrap(), (talk, vec![1, 2, 3]));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

        let whole = std::fs::read(&path).unwrap();
        for length in 0..whole.len() - 3 {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert_eq!(load(&path).unwrap_err().exit_code(), 5, "cut at {length}");
        }
        assert_eq!(load(&dir.path().join("none")).unwrap_err().exit_code(), 3);
        assert!(save(&dir.path().join("none/talk"), &Talk::default(), &[]).is_err());
    }
}
