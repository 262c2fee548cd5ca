//! `pontoon cert`: certificates for development and for trying things out.
//!
//! [`make`] makes them, this file names files and people's next steps. A real cluster gets its
//! certificates from whatever issues them where it runs; what they must look like is in
//! `docs/configuration.md`, under `[tls]`.
//!
//! Left out: renewal. A new certificate is made with `--force`, and running nodes take it up.

pub(crate) mod make;

use crate::clock;
use crate::tls::explain;
use make::{Authority, Pair, Span};
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// The names of the files.
const CA_CERT: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const NODE_CERT: &str = "node.pem";
const NODE_KEY: &str = "node.key";

/// What to make.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Verb {
    /// Makes a development CA: ca.pem and ca.key
    Ca {
        /// The folder for the two files; made when missing
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// The cluster's name, as `cluster.name` in its nodes' configuration
        #[arg(long, value_name = "NAME", default_value = "dev")]
        cluster: String,
        /// How long it is good for
        #[arg(long, value_name = "N", default_value_t = 3650, value_parser = days())]
        days: u64,
        /// Replace files that are there; certificates of the old CA are worth nothing then
        #[arg(long)]
        force: bool,
    },
    /// Makes a node's certificate with a development CA: node.pem and node.key
    Node {
        /// The folder of the CA
        #[arg(long, value_name = "DIR")]
        ca: PathBuf,
        /// The node's name, as `name` in its configuration
        #[arg(long, value_name = "NAME")]
        name: String,
        /// Further names or addresses by which sidecars and operators dial it; localhost is there
        #[arg(long, value_name = "HOST_OR_IP")]
        san: Vec<String>,
        /// The folder for the two files; made when missing. Each node needs its own
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// How long it is good for, at most as long as the CA
        #[arg(long, value_name = "N", default_value_t = 365, value_parser = days())]
        days: u64,
        /// Replace files that are there
        #[arg(long)]
        force: bool,
    },
}

/// A century at most: X.509's times have four digits for the year.
fn days() -> clap::builder::RangedU64ValueParser {
    clap::value_parser!(u64).range(1..=36_500)
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag is wrong, or a file is in the way or missing; the text says which.
    #[error("{0}")]
    Usage(String),
    /// A file can't be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: String,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) => 64,
            Error::Write { .. } => 1,
        }
    }
}

/// Makes what is asked for, and says what was made.
///
/// # Errors
///
/// Nothing was replaced then.
pub fn run(verb: &Verb) -> Result<String, Error> {
    match verb {
        Verb::Ca {
            out,
            cluster,
            days,
            force,
        } => ca(out, cluster, *days, *force),
        Verb::Node {
            ca,
            name,
            san,
            out,
            days,
            force,
        } => node(ca, name, san, out, *days, *force),
    }
}

fn ca(out: &Path, cluster: &str, days: u64, force: bool) -> Result<String, Error> {
    let span = Span::of_days(clock::unix_seconds(), days);
    let made = make::authority(cluster, span).map_err(Error::Usage)?;
    let out = store(out, [CA_CERT, CA_KEY], &made, force)?;
    let (cert, key) = (out.join(CA_CERT), out.join(CA_KEY));
    Ok(format!(
        "A development CA for the cluster {cluster}, good until {}:\n\
         \x20 {}  its certificate; every node, sidecar and operator gets a copy\n\
         \x20 {}  its private key; whoever has it can make nodes of this cluster\n\n\
         For each node:\n\
         \x20 pontoon cert node --ca {} --name NAME --out DIR\n",
        explain::date(span.until),
        cert.display(),
        key.display(),
        out.display(),
    ))
}

fn node(
    ca: &Path,
    name: &str,
    san: &[String],
    out: &Path,
    days: u64,
    force: bool,
) -> Result<String, Error> {
    let authority = read_authority(ca)?;
    let mut span = Span::of_days(clock::unix_seconds(), days);
    span.until = span.until.min(authority.until);
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(Into::into).to_vec();
    names.extend(
        san.iter()
            .filter(|san| !names.contains(san))
            .cloned()
            .collect::<Vec<_>>(),
    );
    let made = make::node(&authority, name, &names, span).map_err(Error::Usage)?;
    let out = store(out, [NODE_CERT, NODE_KEY], &made, force)?;
    let ca_cert = absolute(&ca.join(CA_CERT));
    let quoted = |path: &Path| toml::Value::from(path.to_string_lossy().into_owned()).to_string();
    Ok(format!(
        "A certificate for {}, also good for {}, until {}.\n\
         Its key is in {}; only the node needs it.\n\n\
         For the configuration of {name}, whose `cluster.name` is {:?}:\n\n\
         [tls]\n\
         ca_file = {}\n\
         cert_file = {}\n\
         key_file = {}\n",
        crate::tls::node_name(name, &authority.cluster),
        names.join(", "),
        explain::date(span.until),
        out.join(NODE_KEY).display(),
        authority.cluster,
        quoted(&ca_cert),
        quoted(&out.join(NODE_CERT)),
        quoted(&out.join(NODE_KEY)),
    ))
}

fn read_authority(folder: &Path) -> Result<Authority, Error> {
    let read = |name: &str| {
        let path = folder.join(name);
        fs::read_to_string(&path).map_err(|error| {
            Error::Usage(format!(
                "--ca: cannot read {}: {error}; `pontoon cert ca --out {}` makes a CA",
                path.display(),
                folder.display()
            ))
        })
    };
    let (cert, key) = (read(CA_CERT)?, read(CA_KEY)?);
    Authority::parse(&cert, &key)
        .map_err(|why| Error::Usage(format!("--ca: {}: {why}", folder.display())))
}

/// Writes certificate and key, the key for its owner only; gives the folder's absolute path.
fn store(folder: &Path, names: [&str; 2], made: &Pair, force: bool) -> Result<PathBuf, Error> {
    let failed = |path: &Path| {
        let path = path.display().to_string();
        move |source| Error::Write { path, source }
    };
    for name in names {
        let path = folder.join(name);
        if !force && path.exists() {
            return Err(Error::Usage(format!(
                "{} is there already: name another folder, or replace it with --force",
                path.display()
            )));
        }
    }
    fs::create_dir_all(folder).map_err(failed(folder))?;
    // A node that runs takes up the pair once both have stayed the same for a moment.
    for (name, text, mode) in [(names[1], &made.key, 0o600), (names[0], &made.cert, 0o644)] {
        let path = folder.join(name);
        write(&path, text, mode).map_err(failed(&path))?;
    }
    Ok(absolute(folder))
}

/// Writes a file aside and renames it, so that nobody ever reads half of it.
fn write(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    // A leftover may have another mode, which opening would keep.
    match fs::remove_file(&aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&aside, path)
}

fn absolute(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Makes a CA and a certificate for each node, unless they are there, for `pontoon dev --tls`.
pub(crate) fn for_development(
    folder: &Path,
    cluster: &str,
    nodes: impl Iterator<Item = String>,
) -> Result<(), Error> {
    if !folder.join(CA_CERT).exists() {
        ca(folder, cluster, 3650, false)?;
    }
    for name in nodes {
        let own = folder.join(&name);
        // Made anew at each start, because those of an earlier one may have expired.
        node(folder, &name, &[], &own, 365, true)?;
    }
    Ok(())
}

/// Where [`for_development`] puts what a node needs.
pub(crate) fn files(folder: &Path, node: &str) -> crate::tls::Files {
    crate::tls::Files {
        ca: folder.join(CA_CERT),
        cert: folder.join(node).join(NODE_CERT),
        key: folder.join(node).join(NODE_KEY),
    }
}
