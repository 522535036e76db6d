//! The server's page: its committed build is what its source gives, and its tests.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

const SOURCE: &str = "web";
const COMMITTED: &str = "crates/moeflux-server/page";
/// What Vite needs at least.
const NODE: (u32, u32) = (20, 19);

/// Builds the page anew, compares it with the committed files, and runs its tests; those in a
/// browser where there is one, with the stand-in and with the server itself.
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
        super::run("page: browser", &mut npm(&["run", "test:browser"]))?;
        let server = Server::start()?;
        let mut tests = npm(&["run", "test:served"]);
        return super::run("page: served", tests.env("PAGE_SERVER", &server.url));
    }
    let reason = "no Chromium (apt install chromium, or set CHROMIUM to its path)";
    super::skip("page: browser", reason)
}

/// A `moeflux serve` with the demo model; it ends when this is dropped.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start() -> Result<Server> {
        let arguments = ["serve", "--port", "0", "--memory", "1GiB", "--no-warm"];
        let mut command = Command::new(super::built_moeflux()?);
        command.args(arguments).stderr(Stdio::piped());
        let mut process = command.spawn().context("cannot start moeflux serve")?;
        let told = process.stderr.take().context("it has no standard error")?;
        let mut lines = BufReader::new(told).lines().map_while(Result::ok);
        let url = lines.find_map(|line| {
            let (_, rest) = line.split_once("http://")?;
            Some(format!("http://{}", rest.split('/').next()?))
        });
        // What else it says must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let url = url.unwrap_or_default();
        let server = Server { process, url };
        match server.url.is_empty() {
            true => bail!("moeflux serve did not say where it listens"),
            false => Ok(server),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
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
