//! The server as the official clients see it: `tests/clients`, in a virtual environment of its own.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::Result;

const REQUIREMENTS: &str = "tests/clients/requirements.txt";
const CHECK: &str = "tests/clients/check_clients.py";

/// Installs the clients where they are not yet, and has them talk to the server.
pub fn check() -> Result<()> {
    if !super::installed("python3") {
        let reason = "python3 is not installed (apt install python3 python3-venv)";
        return super::skip("clients", reason);
    }
    let home = super::target_directory()?.join("clients");
    if let Err(problem) = install(&home) {
        return super::skip("clients", &problem);
    }
    let moeflux = super::built_moeflux()?;
    let python = home.join("bin/python");
    super::run("clients", Command::new(python).arg(CHECK).arg(moeflux))
}

/// Puts the packages of the requirements into `home`; says what kept it from that.
fn install(home: &Path) -> Result<(), String> {
    println!("==> clients: packages");
    let wanted = fs::read_to_string(REQUIREMENTS).map_err(|e| format!("{REQUIREMENTS}: {e}"))?;
    // What was installed whole; a half-made environment has no such note.
    let note = home.join("installed.txt");
    if fs::read_to_string(&note).is_ok_and(|there| there == wanted) {
        return Ok(());
    }
    let mut venv = Command::new("python3");
    succeed(
        venv.args(["-m", "venv", "--clear"]).arg(home),
        "no virtual environment (apt install python3-venv)",
    )?;
    let mut pip = Command::new(home.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check"]);
    succeed(
        pip.args(["-r", REQUIREMENTS]),
        "the packages cannot be installed from PyPI (is there a network?)",
    )?;
    fs::write(&note, wanted).map_err(|e| format!("{}: {e}", note.display()))
}

fn succeed(command: &mut Command, otherwise: &str) -> Result<(), String> {
    let status = command.status();
    match status.is_ok_and(|status| status.success()) {
        true => Ok(()),
        false => Err(otherwise.to_owned()),
    }
}
