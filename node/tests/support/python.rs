//! A Python interpreter with the real gRPC clients in it.

use super::skipped;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder of the scripts.
pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python")
}

/// The interpreter of a virtual environment that has what `requirements.txt` names; it is made once
/// and kept under the target folder. `None`, said aloud, where that can't be done.
pub fn interpreter() -> Option<PathBuf> {
    static INTERPRETER: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match INTERPRETER.get_or_init(prepare) {
        Ok(python) => Some(python.clone()),
        Err(why) => {
            skipped(why);
            None
        }
    }
}

fn prepare() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let wanted = fs::read_to_string(scripts().join("requirements.txt"))
        .map_err(|error| format!("requirements.txt: {error}"))?;
    let home = folder.join("python");
    let python = home.join("bin/python");
    let done = home.join("installed.txt");
    // Test binaries may run at the same time: the first one makes it, the others wait.
    let lock = File::create(folder.join("python.lock")).map_err(|error| error.to_string())?;
    lock.lock().map_err(|error| error.to_string())?;
    if fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    fs::remove_dir_all(&home).ok();
    run(Command::new("python3").args(["-m", "venv"]).arg(&home))?;
    run(Command::new(&python)
        .args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
        ])
        .args(["--retries", "5", "-r"])
        .arg(scripts().join("requirements.txt")))?;
    fs::write(&done, wanted).map_err(|error| error.to_string())?;
    Ok(python)
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().last().unwrap_or("no output").to_owned();
    Err(format!("{command:?}: {}: {last}", output.status))
}
