//! The profile of a disk: taken on real files, kept, and taken again when what is kept is no good.
//! One test, because it sets the process's environment.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use std::fs;
use std::io::Write;

use moeflux_experts::{DiskProfile, ExpertError, ReaderKind, SMALL_FILES_BYTES, cache_directory};

#[test]
fn a_profile_is_taken_once_and_kept() {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let cache = dir.path().join("not/there/yet");
    // SAFETY: this program has one test, and no other thread reads the environment.
    unsafe { std::env::set_var("MOEFLUX_CACHE_DIR", &cache) };
    assert_eq!(cache_directory(), Some(cache.clone()));

    let small = dir.path().join("small.bin");
    fs::write(&small, [1; 5000]).unwrap();
    let take = |files: &[&std::path::Path]| {
        let files: Vec<_> = files.iter().map(|file| file.to_path_buf()).collect();
        let mut told = vec![0.0];
        let profile = DiskProfile::load_or_measure(&files, &mut |part| told.push(part));
        assert!(told.is_sorted(), "{told:?}");
        (profile.unwrap(), told.len() > 1)
    };
    assert_eq!(take(&[&small]), (None, false), "nothing to measure");

    let large = dir.path().join("large.bin");
    let mut file = fs::File::create(&large).unwrap();
    let piece: Vec<u8> = (0..1 << 20)
        .map(|at: u32| (at.wrapping_mul(at) / 7) as u8)
        .collect();
    for _ in 0..SMALL_FILES_BYTES >> 20 {
        file.write_all(&piece).unwrap();
    }
    file.sync_all().unwrap();
    let (profile, measured) = take(&[&small, &large]);
    let Some(profile) = profile else {
        // A file system without direct reads.
        assert!(ReaderKind::Direct.open(&[large]).is_err());
        return;
    };
    assert!(measured && !profile.device.is_empty());
    assert!(profile.bytes_per_second > 0.0 && profile.latency_us > 0.0);
    assert!(profile.depth >= 1 && profile.piece_bytes >= 256 << 10);
    assert!(profile.limit_bytes_per_second() >= profile.bytes_per_second);
    assert_eq!(
        profile.best_of(ReaderKind::Auto).unwrap().depth,
        profile.depth
    );
    assert!(profile.best_of(ReaderKind::Buffered).is_none());

    // From the cache: bit for bit, and without measuring.
    assert_eq!(take(&[&small, &large]), (Some(profile.clone()), false));
    let entries: Vec<_> = fs::read_dir(&cache)
        .unwrap()
        .map(|entry| entry.unwrap())
        .collect();
    assert_eq!(entries.len(), 1, "no temporary file is left");
    let kept = entries[0].path();
    let text = fs::read_to_string(&kept).unwrap();
    for bad in [
        "",
        "{}",
        &text.replace("\"version\": 1", "\"version\": 999"),
        &text[..100],
    ] {
        fs::write(&kept, bad).unwrap();
        let (again, measured) = take(&[&large]);
        assert!(measured, "{bad}");
        assert_eq!(again.unwrap().device, profile.device);
    }
    // A cache that cannot be written is no error.
    fs::remove_dir_all(&cache).unwrap();
    fs::write(&cache, "a file in its place").unwrap();
    let (again, measured) = take(&[&large]);
    assert!(again.is_some() && measured);

    let missing = vec![dir.path().join("missing.bin")];
    let error = DiskProfile::load_or_measure(&missing, &mut |_| ())
        .err()
        .unwrap();
    assert!(matches!(error, ExpertError::Open { .. }), "{error}");
}
