//! HAProxy as a plain TCP load balancer.

use super::process::Process;
use super::{skipped, wait};
use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// How long it may take to listen.
const LISTENS_WITHIN: Duration = Duration::from_secs(10);

/// Starts one process that listens at each front and gives its connections to the servers behind it in
/// turn; `None`, said aloud, where there is no HAProxy.
#[track_caller]
pub fn start(name: &str, folder: &Path, fronts: &[(&str, Vec<&str>)]) -> Option<Process> {
    if Command::new("haproxy").arg("-v").output().is_err() {
        skipped("there is no haproxy");
        return None;
    }
    let mut config = "global\n  maxconn 9000\ndefaults\n  mode tcp\n  timeout connect 2s\n  \
                      timeout client 1h\n  timeout server 1h\n  balance roundrobin\n"
        .to_owned();
    for (number, (address, servers)) in fronts.iter().enumerate() {
        write!(config, "listen l{number}\n  bind {address}\n").expect("a string");
        for (at, server) in servers.iter().enumerate() {
            let check = "check inter 200 fall 1 rise 1";
            writeln!(config, "  server s{at} {server} {check}").expect("a string");
        }
    }
    let path = folder.join(format!("{name}.cfg"));
    fs::write(&path, config).expect("written");
    let mut command = Command::new("haproxy");
    let process = Process::start(name, folder, command.arg("-db").arg("-f").arg(&path));
    for (address, _) in fronts {
        wait::until(LISTENS_WITHIN, "HAProxy listens", || {
            assert!(process.ended().is_none(), "{}", process.output());
            TcpStream::connect(address).ok()
        });
    }
    Some(process)
}
