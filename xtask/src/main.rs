//! Developer chores. `cargo xtask check` is the one gate: formatting, lints, documentation,
//! licences, known vulnerabilities, the server's page and clients, and the other targets. The tests are `cargo test --release --workspace`.
//! `cargo xtask peer` measures moeflux beside llama.cpp, `cargo xtask synth` makes random models of
//! real shapes, `cargo xtask soak` disturbs the engine in every way for a while.

mod clients;
mod command;
mod page;
mod peer;
mod soak;
mod synth;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

const USAGE: &str = "\
usage: cargo xtask check    run every check that is not a test of this machine
       cargo xtask peer --llama-bench PATH -m FILE.gguf    compare with llama.cpp (--help for more)
       cargo xtask soak --minutes N    answer prompts while everything goes wrong
       cargo xtask synth SHAPE -o DIR    make a random model of a real shape (--help for more)";

const ARM_LINUX: &str = "aarch64-unknown-linux-gnu";
const ARM_MACOS: &str = "aarch64-apple-darwin";
const ARM_LINKER: &str = "aarch64-linux-gnu-gcc";
const ARM_EMULATOR: &str = "qemu-aarch64";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let result = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["check"] => check(),
        ["peer", ..] => return peer::run(&arguments[1..], &built_moeflux),
        ["soak", ..] => return soak::run(&arguments[1..], &cargo_path()),
        ["synth", ..] => return synth::run(&arguments[1..]),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn check() -> Result<()> {
    cargo("formatting", &["fmt", "--all", "--check"])?;
    cargo(
        "lints",
        &[
            "clippy",
            "--release",
            "--workspace",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ],
    )?;
    run(
        "documentation",
        Command::new(cargo_path())
            .args(["doc", "--release", "--workspace", "--no-deps", "--lib"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )?;
    licences()?;
    advisories()?;
    page::check()?;
    clients::check()?;
    macos()?;
    neon()
}

/// Licences, duplicates and sources, by `deny.toml`.
fn licences() -> Result<()> {
    if !installed("cargo-deny") {
        return skip(
            "licences",
            "cargo-deny is not installed (cargo install cargo-deny)",
        );
    }
    // It looks at every target's crates, also those that nothing here has needed yet.
    cargo("licences", &["fetch", "--locked"])?;
    let mut arguments = vec!["deny", "--offline", "check", "--hide-inclusion-graph"];
    arguments.extend(["licenses", "bans", "sources"]);
    cargo("licences", &arguments)
}

/// Known vulnerabilities of what is used, where their list can be fetched.
fn advisories() -> Result<()> {
    if !installed("cargo-deny") {
        let reason = "cargo-deny is not installed (cargo install cargo-deny)";
        return skip("advisories", reason);
    }
    let mut fetch = Command::new(cargo_path());
    let fetched = fetch.args(["deny", "fetch", "db"]).output();
    if !fetched.is_ok_and(|fetched| fetched.status.success()) {
        return skip("advisories", "their list cannot be fetched from GitHub");
    }
    let arguments = [
        "deny",
        "--offline",
        "check",
        "--hide-inclusion-graph",
        "advisories",
    ];
    cargo("advisories", &arguments)
}

/// Type-checks everything for macOS.
fn macos() -> Result<()> {
    if !target_installed(ARM_MACOS)? {
        return skip("macOS", &format!("rustup target add {ARM_MACOS}"));
    }
    cargo(
        "macOS",
        &["check", "--release", "--workspace", "--target", ARM_MACOS],
    )
}

/// Kernel tests, and the demo's text, on NEON under emulation.
fn neon() -> Result<()> {
    if !target_installed(ARM_LINUX)? {
        return skip("NEON", &format!("rustup target add {ARM_LINUX}"));
    }
    for (program, package) in [
        (ARM_LINKER, "gcc-aarch64-linux-gnu"),
        (ARM_EMULATOR, "qemu-user"),
    ] {
        if !installed(program) {
            return skip(
                "NEON",
                &format!("{program} is not installed (apt install {package})"),
            );
        }
    }
    cargo(
        "NEON kernels",
        &[
            "test",
            "--release",
            "--package",
            "moeflux-kernels",
            "--target",
            ARM_LINUX,
        ],
    )?;
    demo_text_on_neon()
}

/// The demo model says the same on emulated NEON as on this machine.
fn demo_text_on_neon() -> Result<()> {
    println!("==> demo on NEON");
    let moeflux = built_moeflux()?;
    // Without graphics processors: there are none under emulation.
    cargo(
        "NEON moeflux",
        &[
            "build",
            "--release",
            "--no-default-features",
            "--target",
            ARM_LINUX,
        ],
    )?;
    let target = target_directory()?;
    let here = answer(Command::new(moeflux))?;
    let mut emulated = Command::new(ARM_EMULATOR);
    emulated.args(["-cpu", "max", "-L", "/usr/aarch64-linux-gnu"]);
    emulated.arg(target.join(ARM_LINUX).join("release/moeflux"));
    let there = answer(emulated)?;
    if here != there {
        bail!("the demo answers differently on NEON:\n{here}\nagainst\n{there}");
    }
    println!("{there}");
    Ok(())
}

fn answer(mut command: Command) -> Result<String> {
    command.args([
        "run",
        "-m",
        "models/demo",
        "--memory",
        "1GiB",
        "--max-tokens",
        "40",
    ]);
    command.arg("Tell me a story about a fox.");
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!(
            "{command:?} failed:\n{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let text = String::from_utf8(output.stdout).context("the answer is not UTF-8")?;
    if text.trim().is_empty() {
        bail!("{command:?} answered nothing");
    }
    Ok(text)
}

/// The moeflux program of this tree, built for release.
fn built_moeflux() -> Result<PathBuf> {
    cargo(
        "moeflux",
        &["build", "--release", "--package", "moeflux-cli"],
    )?;
    Ok(target_directory()?.join("release/moeflux"))
}

fn target_directory() -> Result<PathBuf> {
    // This program runs from TARGET/release/xtask.
    let own = std::env::current_exe().context("cannot find this program's place")?;
    let target = own.parent().and_then(Path::parent);
    Ok(target
        .context("this program is not in a target directory")?
        .to_owned())
}

fn cargo_path() -> String {
    std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned())
}

fn cargo(what: &str, arguments: &[&str]) -> Result<()> {
    run(what, Command::new(cargo_path()).args(arguments))
}

fn run(what: &str, command: &mut Command) -> Result<()> {
    println!("==> {what}");
    let status = command
        .status()
        .with_context(|| format!("cannot start {command:?}"))?;
    if !status.success() {
        bail!("{what} failed: {command:?}");
    }
    Ok(())
}

#[expect(clippy::unnecessary_wraps, reason = "a step like the others")]
fn skip(what: &str, reason: &str) -> Result<()> {
    println!("==> {what}: SKIPPED: {reason}");
    Ok(())
}

fn installed(program: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|dir| dir.join(program).is_file())
}

fn target_installed(target: &str) -> Result<bool> {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let output = Command::new(rustc).args(["--print", "sysroot"]).output();
    let sysroot = String::from_utf8(output.context("cannot start rustc")?.stdout)?;
    Ok(Path::new(sysroot.trim())
        .join("lib/rustlib")
        .join(target)
        .join("lib")
        .is_dir())
}
