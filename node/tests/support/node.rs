//! Programs of Node in `node/tests/clients`, with the libraries that they need.

use super::skipped;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The folder of the programs.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients")
}

/// Node, in a folder that has the programs beside what they need; `None`, said aloud, where that can't be
/// had.
pub fn command() -> Option<Command> {
    match modules() {
        Ok(home) => {
            let mut command = Command::new("node");
            command.current_dir(home);
            Some(command)
        }
        Err(why) => {
            skipped(why);
            None
        }
    }
}

/// A folder under the target folder with the programs, and with what `package.json` names.
fn modules() -> &'static Result<PathBuf, String> {
    static MODULES: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    MODULES.get_or_init(install)
}

fn install() -> Result<PathBuf, String> {
    let text = |error: std::io::Error| error.to_string();
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let home = target.join("node-clients");
    let lock = File::create(target.join("node-clients.lock")).map_err(text)?;
    lock.lock().map_err(text)?;
    fs::create_dir_all(&home).map_err(text)?;
    for entry in fs::read_dir(folder()).map_err(text)?.flatten() {
        fs::copy(entry.path(), home.join(entry.file_name())).map_err(text)?;
    }
    let wanted = fs::read_to_string(home.join("package-lock.json")).map_err(text)?;
    let done = home.join("installed.txt");
    if fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
        return Ok(home);
    }
    let mut npm = Command::new("npm");
    npm.args(["ci", "--no-audit", "--no-fund", "--ignore-scripts"])
        .current_dir(&home);
    let output = npm.output().map_err(|error| format!("npm: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "npm ci: {}",
            said.lines().next().unwrap_or("failed")
        ));
    }
    fs::write(&done, wanted).map_err(text)?;
    Ok(home)
}
