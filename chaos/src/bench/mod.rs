//! Figures: what is measured, against what, and how it is printed.
//!
//! [`calls`] measures what a proxied call costs, [`sessions`] what the first one of a session costs,
//! [`floods`] what hostile clients cost others, [`opens`] durable writes, [`failover`] the time without a
//! leader. They measure in rounds, with the systems taking turns, so that a busy moment of the machine hits all of them alike; a figure
//! is the median over the rounds. [`load`] drives clients, [`report`] prints.

pub mod calls;
pub mod disk;
pub mod failover;
pub mod floods;
pub mod load;
mod numbers;
pub mod opens;
pub mod report;
pub mod sessions;
mod steady;

use crate::cluster::{Error, folder};
use std::path::PathBuf;

/// The systems beside ours.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// etcd 3.5.
    Etcd,
    /// NATS 2.15 JetStream.
    Nats,
    /// HAProxy.
    Haproxy,
    /// nginx.
    Nginx,
    /// Envoy.
    Envoy,
}

/// What every benchmark is told.
#[derive(clap::Args, Clone, Debug)]
pub struct Common {
    /// Systems to leave out.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "SYSTEM")]
    pub skip: Vec<Other>,
    /// The `pontoon` binary [default: the one beside this one].
    #[arg(long, value_name = "PATH")]
    pub pontoon: Option<PathBuf>,
    /// Where data and the other systems' binaries are kept; the disk that is measured [default: a
    /// folder beside this binary].
    #[arg(long, value_name = "PATH")]
    pub dir: Option<PathBuf>,
    /// How to print the figures.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub output: Output,
}

/// How to print the figures.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl Common {
    fn home(&self) -> Result<PathBuf, Error> {
        self.dir.clone().map_or_else(folder::home, Ok)
    }

    /// Figures in the way that is asked for; `text` is the one for people.
    fn print(&self, figures: &impl serde::Serialize, text: String) -> String {
        match self.output {
            Output::Json => report::json(figures),
            Output::Table => text,
        }
    }

    fn wants(&self, other: Other) -> bool {
        !self.skip.contains(&other)
    }
}
