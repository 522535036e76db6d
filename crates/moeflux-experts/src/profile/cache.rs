//! Profiles on disk: one JSON file for each device in the user's cache directory. Nothing here
//! fails: what cannot be read is measured, what cannot be written is measured again next time.

use std::env;
use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::DiskProfile;

/// Files of another version are ignored.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Cached {
    version: u32,
    profile: DiskProfile,
}

/// Where moeflux keeps what it can find out again: `MOEFLUX_CACHE_DIR`, else a folder of its own
/// in the system's place for caches.
pub fn cache_directory() -> Option<PathBuf> {
    let from = |name: &str| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    if let Some(own) = from("MOEFLUX_CACHE_DIR") {
        return Some(own);
    }
    let base = if cfg!(windows) {
        from("LOCALAPPDATA")
    } else if cfg!(target_vendor = "apple") {
        from("HOME").map(|home| home.join("Library/Caches"))
    } else {
        let given = from("XDG_CACHE_HOME").filter(|path| path.is_absolute());
        given.or_else(|| from("HOME").map(|home| home.join(".cache")))
    };
    base.map(|base| base.join("moeflux"))
}

fn path(device: &str) -> Option<PathBuf> {
    let name = format!("disk-{:016x}.json", xxh3_64(device.as_bytes()));
    cache_directory().map(|directory| directory.join(name))
}

/// The profile of a device, if a usable one is there.
pub(super) fn load(device: &str) -> Option<DiskProfile> {
    let text = fs::read_to_string(path(device)?).ok()?;
    let cached: Cached = serde_json::from_str(&text).ok()?;
    let profile = cached.profile;
    let same = cached.version == VERSION && profile.device == device;
    let sane = profile.depth > 0 && profile.piece_bytes > 0 && profile.bytes_per_second > 0.0;
    (same && sane).then_some(profile)
}

/// Keeps a profile, if that can be done.
pub(super) fn store(profile: &DiskProfile) {
    let cached = Cached {
        version: VERSION,
        profile: profile.clone(),
    };
    let (Some(path), Ok(text)) = (path(&profile.device), serde_json::to_string_pretty(&cached))
    else {
        return;
    };
    // Whole or not at all, also when two processes do this at once.
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = path
        .parent()
        .map_or(Ok(()), fs::create_dir_all)
        .and_then(|()| fs::write(&temporary, text))
        .and_then(|()| fs::rename(&temporary, &path));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
}
