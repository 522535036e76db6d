//! The server's page: its committed build is what its source gives, and its tests.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

const SOURCE: &str = "web";
const COMMITTED: &str = "crates/moeflux-server/page";
/// What Vite needs at least.
const NODE: (u32, u32) = (20, 19);

/// Builds the page anew, compares it with the committed files, and runs its tests; those in a
/// browser where there is one.
pub fn check() -> Result<()> {
    if !super::installed("npm") || node_version()? < NODE {
        let (major, minor) = NODE;
        let reason = format!(
            "node {major}.{minor} or newer, with npm, is not installed (https://nodejs.org, or apt \
             install nodejs npm)"
        );
        return super::skip("page", &reason);
    }
    let built = super::target_directory()?.join("page");
    let install = ["ci", "--prefer-offline", "--no-audit", "--no-fund"];
    super::run("page: packages", &mut npm(&install))?;
    super::run(
        "page: build",
        npm(&["run", "build"]).env("PAGE_OUT", &built),
    )?;
    compare(&built)?;
    super::run("page: tests", &mut npm(&["test"]))?;
    if super::installed("chromium") || std::env::var_os("CHROMIUM").is_some() {
        return super::run("page: browser", &mut npm(&["run", "test:browser"]));
    }
    let reason = "no Chromium (apt install chromium, or set CHROMIUM to its path)";
    super::skip("page: browser", reason)
}

fn npm(arguments: &[&str]) -> Command {
    let mut command = Command::new("npm");
    command.current_dir(SOURCE).args(arguments);
    command
}

fn node_version() -> Result<(u32, u32)> {
    let output = Command::new("node").arg("--version").output();
    let text = String::from_utf8(output.context("cannot start node")?.stdout)?;
    let mut numbers = text.trim().trim_start_matches('v').split('.');
    let mut next = || numbers.next().and_then(|number| number.parse().ok());
    match (next(), next()) {
        (Some(major), Some(minor)) => Ok((major, minor)),
        _ => bail!("node --version says `{}`", text.trim()),
    }
}

/// Whether both directories have the same files.
fn compare(built: &Path) -> Result<()> {
    println!("==> page: committed build");
    let (fresh, committed) = (names(built)?, names(Path::new(COMMITTED))?);
    let same = |name: &String| -> Result<bool> {
        let read =
            |path: &Path| fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        Ok(read(&built.join(name))? == read(&Path::new(COMMITTED).join(name))?)
    };
    let mut equal = fresh == committed;
    if equal {
        for name in &fresh {
            equal &= same(name)?;
        }
    }
    if !equal {
        bail!(
            "{COMMITTED} is not what {SOURCE} builds: run `npm ci && npm run build` in {SOURCE} and \
             commit the result"
        );
    }
    Ok(())
}

fn names(directory: &Path) -> Result<Vec<String>> {
    let entries =
        fs::read_dir(directory).with_context(|| format!("cannot list {}", directory.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
