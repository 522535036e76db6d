//! Locked memory, which the system cannot swap out.

use memmap2::MmapMut;

/// Whether the resident weights are locked in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Locked {
    /// The system cannot swap them out.
    Yes,
    /// It was not asked to keep them.
    NotAsked,
    /// The system refused: more than the process may lock (`ulimit -l`), in bytes where known.
    Refused {
        /// Bytes to lock.
        bytes: u64,
        /// Bytes that the process may lock.
        limit_bytes: Option<u64>,
    },
}

impl Locked {
    /// What to do about memory that is not locked, for people.
    pub fn note(&self) -> Option<String> {
        let Locked::Refused { bytes, limit_bytes } = *self else {
            return None;
        };
        let limit = limit_bytes.map_or(String::new(), |limit| {
            format!(" (the limit is {})", crate::error::bytes(limit))
        });
        Some(format!(
            "the resident weights are not locked, so that the system may swap them out{limit}: \
             allow it with `ulimit -l {}`",
            bytes.div_ceil(1024)
        ))
    }
}

/// Locks a mapping, all of whose pages then take memory.
pub(crate) fn lock(memory: &MmapMut) -> Locked {
    let bytes = memory.len() as u64;
    if bytes == 0 {
        return Locked::Yes;
    }
    raise_limit(bytes);
    #[cfg(unix)]
    if memory.lock().is_ok() {
        return Locked::Yes;
    }
    Locked::Refused {
        bytes,
        limit_bytes: limit(),
    }
}

/// Raises the soft limit to what is needed, as far as the hard one allows.
#[cfg(unix)]
fn raise_limit(bytes: u64) {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Memlock);
    if limit.current.is_some_and(|current| current < bytes) {
        limit.current = limit.maximum;
        // Without it, locking fails, and that is said.
        let _ = setrlimit(Resource::Memlock, limit);
    }
}

#[cfg(not(unix))]
fn raise_limit(_: u64) {}

#[cfg(unix)]
fn limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

#[cfg(not(unix))]
fn limit() -> Option<u64> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_to_do() {
        let refused = Locked::Refused {
            bytes: 3 << 20,
            limit_bytes: Some(64 << 10),
        };
        let note = refused.note().expect("there is something to do");
        assert!(note.contains("ulimit -l 3072"), "{note}");
        assert!(note.contains("64.00 KiB"), "{note}");
        assert_eq!(Locked::Yes.note(), None);
        assert_eq!(Locked::NotAsked.note(), None);
    }

    #[test]
    fn little_memory_is_locked_or_the_refusal_names_it() {
        let memory = MmapMut::map_anon(1 << 16).expect("there is memory");
        match lock(&memory) {
            Locked::Refused { bytes, .. } => assert_eq!(bytes, 1 << 16),
            locked => assert_eq!(locked, Locked::Yes),
        }
    }
}
