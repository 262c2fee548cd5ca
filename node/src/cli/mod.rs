//! The command line: `pontoon <what it is>` starts something, `pontoon <noun> <verb>` asks a
//! cluster's admin API.
//!
//! [`nouns`] says what can be asked, [`verbs`] asks it, [`client`] finds the node and the token,
//! [`table`] prints the answer, [`exit`] says what exit codes mean. Everything on stdout is the
//! answer; everything else goes to stderr.

pub mod exit;

mod client;
mod limits;
mod members;
mod nouns;
mod routes;
mod table;
mod verbs;

use crate::{boot, cert, demo, dev, sidecar};
use clap::Parser;
use exit::{Code, Failure};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

/// A gRPC bridge that floats on Raft.
#[derive(Parser, Debug)]
#[command(name = "pontoon", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Runs a whole cluster on this machine: three regions, a demo function, a key.
    Dev(dev::Options),
    /// Calls the demo function: opens a session, or resumes one.
    Call(demo::call::Options),
    /// Runs the demo function's worker, an ordinary gRPC server.
    DemoWorker(demo::worker::Options),
    /// Runs beside a worker: attaches it to nodes and carries its tunnels.
    Sidecar(sidecar::Options),
    /// Becomes a command that ends with the process that started it: how a sidecar runs its worker.
    #[command(hide = true)]
    Leashed {
        parent: u32,
        #[arg(last = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Makes certificates for development: a CA, and one for each node.
    #[command(subcommand)]
    Cert(cert::Verb),
    /// Runs one node of a cluster, or asks about the nodes.
    Node(Node),
    #[command(flatten)]
    Noun(nouns::Noun),
}

/// `pontoon node --config FILE` runs one; `pontoon node list` asks.
#[derive(clap::Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Node {
    #[command(subcommand)]
    verb: Option<nouns::NodeVerb>,
    #[command(flatten)]
    run: Option<boot::Options>,
}

/// Runs the command of this process's arguments and says how it went.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    // Before there are threads: it becomes another program.
    if let Command::Leashed { parent, command } = &cli.command {
        let (code, text) = sidecar::leashed(*parent, command);
        let _ = writeln!(std::io::stderr(), "pontoon: {text}");
        return ExitCode::from(code);
    }
    // A panic has printed its own message; its exit code is ours.
    let result = catch_unwind(AssertUnwindSafe(|| run(cli.command)))
        .unwrap_or_else(|_| Err(Failure::new(Code::Bug, "this is a bug; please report it")));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Nobody reads stderr any more: the exit code still says it.
            let _ = writeln!(std::io::stderr(), "pontoon: {failure}");
            failure.code.into()
        }
    }
}

fn run(command: Command) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::Other, format!("cannot start threads: {error}")))?;
    runtime.block_on(async {
        match command {
            Command::Call(options) => demo::call::run(options).await.map_err(|error| {
                let code = match error {
                    demo::call::Error::Connect { .. } => Code::Unreachable,
                    _ => Code::of(error.exit_code()),
                };
                Failure::new(code, error.to_string())
            }),
            Command::Cert(verb) => match cert::run(&verb) {
                Ok(made) => print(&made),
                Err(error) => Err(Failure::new(
                    Code::of(error.exit_code()),
                    error.to_string(),
                )),
            },
            Command::DemoWorker(options) => demo::worker::run(options)
                .await
                .map_err(|error| Failure::new(Code::Other, error.to_string())),
            Command::Dev(options) => dev::run(options)
                .await
                .map_err(|error| Failure::new(Code::Other, error.to_string())),
            Command::Sidecar(options) => sidecar::run(options)
                .await
                .map_err(|stop| Failure::new(Code::of(stop.code), stop.text)),
            Command::Node(Node {
                verb: Some(verb), ..
            }) => print(&members::node(verb).await?),
            Command::Node(Node { run, .. }) => {
                let options = run.ok_or_else(|| {
                    let hint = "say which: `pontoon node --config FILE` runs a node, `pontoon node list` lists them";
                    Failure::new(Code::Usage, hint)
                })?;
                boot::run(options)
                    .await
                    .map_err(|error| Failure::new(Code::of(error.exit_code()), error.to_string()))
            }
            Command::Noun(noun) => print(&verbs::run(noun).await?),
            // It has become another program.
            Command::Leashed { .. } => Ok(()),
        }
    })
}

/// Prints an answer; that its reader has gone (`| head`) is no failure.
fn print(answer: &str) -> Result<(), Failure> {
    match std::io::stdout().write_all(answer.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::new(
            Code::Other,
            format!("cannot write to stdout: {error}"),
        )),
        _ => Ok(()),
    }
}

/// Help and version are answers, anything else is wrong usage.
fn usage(error: &clap::Error) -> ExitCode {
    // The terminal may be gone; there is nobody to tell then.
    let _ = error.print();
    if error.use_stderr() {
        Code::Usage.into()
    } else {
        ExitCode::SUCCESS
    }
}
