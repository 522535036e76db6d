//! Packing that is killed or runs out of room. The test starts itself as a child that packs.

#![allow(clippy::unwrap_used, clippy::panic, clippy::exit)] // helpers of tests too
#![cfg(unix)]

mod common;

use std::env;
use std::fs;
use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use common::{Sizes, affine, assert_same, flip, pack_quietly, pack_with, plan, write_checkpoint};
use moeflux_formats::{Checkpoint, FormatError, PackPlan, PackedModel};

const SIZES: Sizes = Sizes {
    hidden: 256,
    inner: 128,
    experts: 8,
    layers: 5,
    vocab: 6000,
};
const ROLE: &str = "PACK_TEST_ROLE";
const PLACE: &str = "PACK_TEST_PLACE";

fn the_plan() -> PackPlan {
    plan(SIZES, affine(4, 64))
}

/// Starts this test executable again, to run the test `name` in a role.
fn child(name: &str, role: &str, place: &Path) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", name, "--nocapture", "--test-threads=1"]);
    command.env(ROLE, role).env(PLACE, place);
    command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    command
}

/// In a child: the role, and where to work.
fn role() -> Option<(String, std::path::PathBuf)> {
    Some((env::var(ROLE).ok()?, env::var_os(PLACE)?.into()))
}

fn killed(status: ExitStatus) -> bool {
    status.signal() == Some(libc::SIGKILL)
}

fn kill_self() -> ! {
    // SAFETY: takes no pointers; the process ends here.
    unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
    std::process::abort()
}

fn assert_unopenable(dir: &Path) {
    if dir.exists() {
        assert!(
            PackedModel::open(dir).is_err(),
            "{} opens as a model",
            dir.display()
        );
        assert!(
            Checkpoint::open(dir).is_err(),
            "{} opens as a checkpoint",
            dir.display()
        );
    }
}

/// Kills itself at the n-th report of progress, wherever the workers are then; n grows until a
/// child lives to the end. Then once more with each child going on where the last was killed.
#[test]
fn killed_at_any_report_it_resumes_to_the_same_bytes() {
    if let Some((role, place)) = role() {
        let mut left: usize = role.parse().unwrap();
        let mut count = |_| {
            if left == 0 {
                kill_self();
            }
            left -= 1;
        };
        pack_with(
            &place.join("source"),
            &the_plan(),
            &place.join("dst"),
            2,
            &mut count,
        )
        .unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, dst) = (dir.path().join("source"), dir.path().join("dst"));
    let (partial, undisturbed) = (
        dir.path().join("dst.partial"),
        dir.path().join("undisturbed"),
    );
    write_checkpoint(&source, SIZES);
    pack_quietly(&source, &the_plan(), &undisturbed).unwrap();
    let name = "killed_at_any_report_it_resumes_to_the_same_bytes";
    let (mut reports, mut kills, mut resumed) = (0, 0, 0);
    loop {
        let status = child(name, &reports.to_string(), dir.path())
            .status()
            .unwrap();
        if status.success() {
            break;
        }
        assert!(killed(status), "{status}");
        kills += 1;
        assert!(!dst.exists());
        assert_unopenable(&partial);
        resumed += pack_quietly(&source, &the_plan(), &dst)
            .unwrap()
            .resumed_files;
        assert_same(&dst, &undisturbed);
        fs::remove_dir_all(&dst).unwrap();
        reports += 9;
    }
    assert_same(&dst, &undisturbed);
    assert!(
        kills > 8 && resumed > kills,
        "{kills} kills, {resumed} files resumed"
    );

    fs::remove_dir_all(&dst).unwrap();
    let mut rounds = 0;
    while !child(name, "60", dir.path()).status().unwrap().success() {
        rounds += 1;
        assert!(rounds < 100, "no progress from run to run");
    }
    assert!(rounds > 1);
    assert_same(&dst, &undisturbed);
}

/// The parent kills the child at arbitrary times, also between reports: in syncing, checking,
/// renaming.
#[test]
fn killed_at_any_time_it_resumes_to_the_same_bytes() {
    if let Some((_, place)) = role() {
        pack_quietly(&place.join("source"), &the_plan(), &place.join("dst")).unwrap();
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, dst) = (dir.path().join("source"), dir.path().join("dst"));
    let (partial, undisturbed) = (
        dir.path().join("dst.partial"),
        dir.path().join("undisturbed"),
    );
    write_checkpoint(&source, SIZES);
    let start = Instant::now();
    pack_quietly(&source, &the_plan(), &undisturbed).unwrap();
    let whole = start.elapsed();
    let name = "killed_at_any_time_it_resumes_to_the_same_bytes";
    let (rounds, mut kills) = (12, 0);
    for round in 0..rounds {
        let mut child = child(name, "pack", dir.path()).spawn().unwrap();
        // From just after the start to beyond the end.
        thread::sleep(Duration::from_millis(2) + whole * round / (rounds - 2));
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert!(status.success() || killed(status), "{status}");
        kills += u32::from(killed(status));
        assert_unopenable(&partial);
        if !dst.exists() {
            pack_quietly(&source, &the_plan(), &dst).unwrap();
        }
        PackedModel::open(&dst).unwrap();
        assert_same(&dst, &undisturbed);
        fs::remove_dir_all(&dst).unwrap();
    }
    assert!(kills > 1, "{kills}");
}

/// A limit on file sizes stands for a full disk: the system refuses to write on in the same way.
#[test]
fn a_full_disk_is_a_clear_error_and_a_rerun_resumes() {
    if let Some((limit, place)) = role() {
        let bytes: libc::rlim_t = limit.parse().unwrap();
        let limit = libc::rlimit {
            rlim_cur: bytes,
            rlim_max: bytes,
        };
        // SAFETY: ignoring a signal installs no handler; `limit` outlives the call that reads it.
        unsafe {
            libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
            assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &limit), 0);
        }
        let found = pack_quietly(&place.join("source"), &the_plan(), &place.join("dst"));
        let Err(error @ FormatError::DiskFull { .. }) = found else {
            panic!("{found:?}");
        };
        assert!(error.to_string().contains("free some space"), "{error}");
        std::process::exit(77);
    }
    let dir = tempfile::tempdir().unwrap();
    let (source, dst) = (dir.path().join("source"), dir.path().join("dst"));
    let undisturbed = dir.path().join("undisturbed");
    write_checkpoint(&source, SIZES);
    pack_quietly(&source, &the_plan(), &undisturbed).unwrap();
    let name = "a_full_disk_is_a_clear_error_and_a_rerun_resumes";
    let layer = fs::metadata(undisturbed.join("experts/layer-000.safetensors"))
        .unwrap()
        .len();
    let dense = fs::metadata(undisturbed.join("dense.safetensors"))
        .unwrap()
        .len();
    assert!(
        dense > layer,
        "the limits below are meant to fail in different files"
    );
    for limit in [10, 5000, layer / 2, layer, dense - 1] {
        let status = child(name, &limit.to_string(), dir.path())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(77), "limit {limit}: {status}");
        assert!(!dst.exists());
        assert_unopenable(&dir.path().join("dst.partial"));
    }
    pack_quietly(&source, &the_plan(), &dst).unwrap();
    assert_same(&dst, &undisturbed);
}

/// Stops a pack by unwinding out of its progress callback, when `until` says so.
fn stop_when(source: &Path, plan: &PackPlan, dst: &Path, until: &str) {
    let stopped = std::panic::catch_unwind(|| {
        pack_with(source, plan, dst, 2, &mut |progress| {
            assert!(!progress.stage.contains(until), "stop here");
        })
    });
    assert!(stopped.is_err() && !dst.exists());
}

#[test]
fn resumed_files_are_checked_and_other_plans_start_over() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let (source, dst, partial) = (at("source"), at("dst"), at("dst.partial"));
    write_checkpoint(&source, SIZES);
    pack_quietly(&source, &the_plan(), &at("undisturbed")).unwrap();

    stop_when(&source, &the_plan(), &dst, "layer-003");
    // A kill may cut the journal's last line short; what follows it must still count.
    let journal = fs::File::options()
        .append(true)
        .open(partial.join("pack.journal"));
    journal
        .unwrap()
        .write_all(b"\n{\"name\":\"experts/lay")
        .unwrap();
    stop_when(&source, &the_plan(), &dst, "layer-004");
    flip(&partial.join("experts/layer-001.safetensors"), 9000);
    let mut resumed_bytes = 0;
    let report = pack_with(&source, &the_plan(), &dst, 2, &mut |progress| {
        resumed_bytes = progress.resumed_bytes;
    });
    let report = report.unwrap();
    // The dense file and layers 0, 2 and 3; layer 1 was damaged and is done again.
    assert_eq!((report.resumed_files, report.started_over), (4, false));
    assert!(resumed_bytes > 0 && resumed_bytes < report.source_bytes);
    assert_same(&dst, &at("undisturbed"));

    // Other options, then another source.
    fs::remove_dir_all(&dst).unwrap();
    let other = plan(SIZES, affine(8, 32));
    stop_when(&source, &other, &dst, "layer-002");
    let mut stages = Vec::new();
    let report = pack_with(&source, &the_plan(), &dst, 2, &mut |progress| {
        stages.push(progress.stage)
    });
    let report = report.unwrap();
    assert_eq!((report.resumed_files, report.started_over), (0, true));
    assert!(stages.iter().any(|stage| stage.contains("starting over")));
    assert_same(&dst, &at("undisturbed"));

    fs::remove_dir_all(&dst).unwrap();
    stop_when(&source, &the_plan(), &dst, "layer-002");
    let file = fs::File::options()
        .write(true)
        .open(source.join("model.safetensors"))
        .unwrap();
    file.set_modified(std::time::SystemTime::now() + Duration::from_secs(5))
        .unwrap();
    assert!(
        pack_quietly(&source, &the_plan(), &dst)
            .unwrap()
            .started_over
    );
}

#[test]
fn two_processes_do_not_write_the_same_directory() {
    let dir = tempfile::tempdir().unwrap();
    let (source, dst) = (dir.path().join("source"), dir.path().join("dst"));
    write_checkpoint(&source, SIZES);
    let mut refusals = 0;
    pack_with(&source, &the_plan(), &dst, 2, &mut |progress| {
        if progress.stage.contains("layer-001") && refusals == 0 {
            let second = pack_quietly(&source, &the_plan(), &dst);
            assert!(
                matches!(second, Err(FormatError::PackInProgress { .. })),
                "{second:?}"
            );
            refusals += 1;
        }
    })
    .unwrap();
    assert_eq!(refusals, 1);
    PackedModel::open(&dst)
        .unwrap()
        .verify(&mut |_| ())
        .unwrap();
}
