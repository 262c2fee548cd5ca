//! Follows the files: new ones are used for new handshakes, broken ones are reported once and not
//! used; and the end of certificates is announced before it comes.
//!
//! A file counts as changed when its size, its time of change or its inode does, symbolic links
//! followed, so that a renamed file and a swapped link are seen. SIGHUP reads at once, whatever
//! changed.

use super::dial::Trust;
use super::front::Front;
use super::{Problem, Tls, explain};
use crate::clock;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

/// How often the files are looked at, three system calls each. A change must have stayed for one look
/// before it is read: certificate and key are two files, and are rarely written in one instant. So
/// new ones are in use within 4 s.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long before its end a certificate is warned about. Certificates of 90 days are commonly
/// renewed 30 days before their end; at 14 something is stuck.
const WARN_BEFORE: u64 = 14 * DAY;

const DAY: u64 = 24 * 60 * 60;

/// Something that is read from files.
pub trait Reload: Clone + Send + Sync + 'static {
    /// The files.
    fn paths(&self) -> Vec<PathBuf>;
    /// Reads them again; on an error everything stays as it was.
    fn reload(&self) -> Result<(), Problem>;
    /// What is in use, for the log.
    const WHAT: &str;
    /// When each certificate in use ends, where that is our business: what it is, and seconds since
    /// 1970.
    fn ends(&self) -> Vec<(&'static str, u64)>;
}

impl Reload for Tls {
    fn paths(&self) -> Vec<PathBuf> {
        let files = self.files();
        vec![files.ca.clone(), files.cert.clone(), files.key.clone()]
    }

    fn reload(&self) -> Result<(), Problem> {
        Tls::reload(self)
    }

    const WHAT: &str = "new certificates are in use";

    fn ends(&self) -> Vec<(&'static str, u64)> {
        let expiry = self.expiry();
        vec![
            ("tls.cert_file: this node's certificate", expiry.node),
            ("tls.ca_file: a CA", expiry.ca),
        ]
    }
}

impl Reload for Front {
    fn paths(&self) -> Vec<PathBuf> {
        let files = self.files();
        vec![files.cert.clone(), files.key.clone()]
    }

    fn reload(&self) -> Result<(), Problem> {
        Front::reload(self)
    }

    const WHAT: &str = "a new certificate for clients is in use";

    fn ends(&self) -> Vec<(&'static str, u64)> {
        vec![(
            "tls.client_cert_file: the certificate for clients",
            Front::ends(self),
        )]
    }
}

impl Reload for Trust {
    fn paths(&self) -> Vec<PathBuf> {
        vec![self.path().to_owned()]
    }

    fn reload(&self) -> Result<(), Problem> {
        Trust::reload(self)
    }

    const WHAT: &str = "new CAs are in use";

    fn ends(&self) -> Vec<(&'static str, u64)> {
        Vec::new()
    }
}

/// What a file looks like from outside: inode, size, and time of change in seconds and nanoseconds.
/// `None` while it is not there.
type Look = Option<(u64, u64, i64, i64)>;

/// Follows the files for ever.
pub async fn follow(source: impl Reload) {
    let paths = source.paths();
    let mut hangup = match signal(SignalKind::hangup()) {
        Ok(hangup) => Some(hangup),
        Err(error) => {
            tracing::warn!(%error, "SIGHUP can't be received; certificates are reloaded on change");
            None
        }
    };
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = look(&paths).await;
    let mut tried = seen.clone();
    let mut announced = Vec::new();
    loop {
        let asked = tokio::select! {
            _ = tick.tick() => false,
            () = received(&mut hangup) => true,
        };
        let now = look(&paths).await;
        if asked || (now != tried && now == seen) {
            tried.clone_from(&now);
            read(&source).await;
        }
        seen = now;
        announce(
            warnings(source.ends(), clock::unix_seconds()),
            &mut announced,
        );
    }
}

async fn received(hangup: &mut Option<tokio::signal::unix::Signal>) {
    let heard = match hangup {
        Some(hangup) => hangup.recv().await,
        None => None,
    };
    if heard.is_none() {
        std::future::pending().await
    }
}

async fn look(paths: &[PathBuf]) -> Vec<Look> {
    let mut looks = Vec::with_capacity(paths.len());
    for path in paths {
        let about = tokio::fs::metadata(path).await.ok();
        looks
            .push(about.map(|about| (about.ino(), about.len(), about.mtime(), about.mtime_nsec())));
    }
    looks
}

async fn read<R: Reload>(source: &R) {
    let reading = source.clone();
    let outcome = tokio::task::spawn_blocking(move || reading.reload()).await;
    match outcome {
        Ok(Ok(())) => {
            let what = R::WHAT;
            match source.ends().first() {
                Some((_, ends)) => {
                    let until = explain::date(*ends);
                    tracing::info!(until, "{what}; connections that stand go on");
                }
                None => tracing::info!("{what}; connections that stand go on"),
            }
        }
        Ok(Err(problem)) => {
            tracing::error!(
                "the changed files can't be used, the old ones stay in force: {problem}"
            );
        }
        Err(error) => tracing::error!(%error, "reading the changed files failed"),
    }
}

/// What is to be said about the ends of certificates; a text changes once a day.
fn warnings(certificates: Vec<(&'static str, u64)>, now: u64) -> Vec<String> {
    let warnings = certificates.into_iter().filter_map(|(what, ends)| {
        let date = explain::date(ends);
        if ends <= now {
            return Some(format!(
                "{what} expired on {date}, and no new connection will be made with it: put a new \
                 one in its place, it is taken up while the node runs"
            ));
        }
        let days = (ends - now) / DAY;
        (ends - now < WARN_BEFORE).then(|| {
            format!(
                "{what} expires in {days} days, on {date}: put a new one in its place, it is taken \
                 up while the node runs"
            )
        })
    });
    warnings.collect()
}

fn announce(warnings: Vec<String>, announced: &mut Vec<String>) {
    for warning in &warnings {
        if !announced.contains(warning) {
            tracing::warn!("{warning}");
        }
    }
    *announced = warnings;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_warned_about_for_its_last_two_weeks_and_after_its_end() {
        let at = |ends| vec![("a certificate", ends), ("a CA", 1_000 * DAY)];
        let now = 100 * DAY;
        assert!(warnings(at(now + WARN_BEFORE), now).is_empty());
        let soon = warnings(at(now + WARN_BEFORE - 1), now);
        assert!(
            soon[0].contains("expires in 13 days, on 1970-04-"),
            "{soon:?}"
        );
        let over = warnings(at(now), now);
        assert!(over[0].contains("expired on 1970-04-11"), "{over:?}");
        assert_eq!((soon.len(), over.len()), (1, 1));
    }
}
