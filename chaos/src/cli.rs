//! The command line: `pontoon-chaos <what to do>`.
//!
//! Figures go to stdout, everything else to stderr. Every process that a command starts ends with it,
//! also after Ctrl-C and errors.

use crate::bench::{calls, failover, floods, opens, sessions};
use crate::cluster::Error;
use crate::part::Part;
use crate::{run, sim};
use clap::Parser;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// What a shell says of a command that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Measures Pontoon beside other systems, and hurts it, on this machine.
#[derive(Parser, Debug)]
#[command(name = "pontoon-chaos", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Measures one thing beside the systems that do the same.
    #[command(subcommand)]
    Bench(Bench),
    /// Runs the control plane in one thread, hurts it, and checks what must hold.
    Sim(sim::Options),
    /// Runs real processes, hurts them, and judges what clients saw.
    Run(run::Options),
    /// Serves as one end of a benchmark; `bench` starts it.
    #[command(subcommand, hide = true)]
    Part(Part),
}

#[derive(clap::Subcommand, Debug)]
enum Bench {
    /// What a proxied call costs, beside other proxies and the least that a proxy can do.
    Calls(calls::Options),
    /// What the first call of a session costs its client, and the first one after a reconnect.
    Sessions(sessions::Options),
    /// Durable session opens per second through three nodes, beside etcd and NATS.
    Opens(opens::Options),
    /// What floods of hostile clients cost another client's calls.
    Floods(floods::Options),
    /// The time without a leader after the leader was killed, beside etcd.
    Failover(failover::Options),
}

/// Runs the command of this process's arguments and says how it went.
pub fn main() -> ExitCode {
    let mut cli = Cli::parse();
    if let Command::Sim(options) = &cli.command {
        return finish(sim::command(options).map(Some));
    }
    if let Command::Run(options) = &mut cli.command {
        apart(options);
        options.apart = std::env::var_os(APART).is_some_and(|said| said == "network");
    }
    let mut runtime = match cli.command {
        Command::Bench(_) | Command::Run(_) => Builder::new_multi_thread(),
        Command::Part(_) | Command::Sim(_) => Builder::new_current_thread(),
    };
    let runtime = runtime.enable_all().build();
    let ended = match runtime {
        Ok(runtime) => runtime.block_on(perform(cli.command)),
        Err(error) => Err(Error(format!("cannot start threads: {error}"))),
    };
    finish(ended)
}

/// Says what the process has for itself: its mounts, or its mounts and its network.
const APART: &str = "PONTOON_CHAOS_APART";

/// Becomes a process with mounts and a network of its own, where that is allowed: then nothing that is made
/// for a run is seen by others, or outlives it, however that ends.
fn apart(options: &run::Options) {
    let Ok(own) = std::env::current_exe() else {
        return;
    };
    if std::env::var_os(APART).is_some() {
        return;
    }
    let mounts = ["--mount", "--propagation", "private"];
    let network = ["--net", "--mount", "--propagation", "private"];
    let allowed = |words: &[&str], attempt: &str| {
        let mut unshare = std::process::Command::new("unshare");
        let tried = unshare.args(words).args(["sh", "-c", attempt]).output();
        tried.is_ok_and(|tried| tried.status.success())
    };
    // What cluster::spaces will do.
    let divide = "ip link set lo up && ip link add name b0 type bridge && ip link add name v0 type veth peer name v1";
    let (words, said) = match options.loopback {
        false if allowed(&network, divide) => (&network[..], "network"),
        _ if allowed(&mounts, "true") => (&mounts[..], "mounts"),
        _ => return,
    };
    let runtime = Builder::new_current_thread().enable_all().build();
    // What is missing then is missed again, and told, by whoever needs it.
    if let Ok(runtime) = runtime {
        runtime.block_on(run::prepare(options)).ok();
    }
    let mut command = std::process::Command::new("unshare");
    command
        .args(words)
        .arg(own)
        .args(std::env::args_os().skip(1));
    // It returns only when it fails; then the run goes on as it is.
    let failed = command.env(APART, said).exec();
    eprintln!("pontoon-chaos: {failed}");
}

/// Prints what is to be printed.
fn finish(ended: Result<Option<String>, Error>) -> ExitCode {
    match ended {
        Ok(Some(text)) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Ok(None) => ExitCode::from(INTERRUPTED),
        Err(error) => {
            eprintln!("pontoon-chaos: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What to print; none when a signal came first. Whatever was started ends as its owner is dropped.
async fn perform(command: Command) -> Result<Option<String>, Error> {
    let broken = |error: std::io::Error| Error(format!("cannot wait for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(broken)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(broken)?;
    let work = async {
        match command {
            Command::Sim(options) => sim::command(&options),
            Command::Part(part) => part.run().await.map(|()| String::new()),
            Command::Run(options) => run::run(&options).await,
            Command::Bench(Bench::Calls(options)) => calls::run(&options).await,
            Command::Bench(Bench::Sessions(options)) => sessions::run(&options).await,
            Command::Bench(Bench::Opens(options)) => opens::run(&options).await,
            Command::Bench(Bench::Floods(options)) => floods::run(&options).await,
            Command::Bench(Bench::Failover(options)) => failover::run(&options).await,
        }
    };
    tokio::select! {
        done = work => done.map(Some),
        _ = terminate.recv() => Ok(None),
        _ = interrupt.recv() => Ok(None),
    }
}
