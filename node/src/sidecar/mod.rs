//! The process beside a worker: attaches to nodes, dials tunnels, splices bytes.
//!
//! Read [`life`] for what one life of the worker is, [`slots`] for the fencing that keeps a slot to
//! one session, [`attach`], [`roster`] and [`control`] for how nodes are kept, [`dial`] and [`ways`] for
//! one tunnel, [`spare`] for one that is dialed ahead, [`health`] and [`listener`] for how the worker's
//! death and restarts are told.
//!
//! Losing every node never closes a tunnel: a sidecar that hears nothing goes on carrying. [`child`] is
//! the worker where it is ours to run.

mod attach;
mod child;
mod control;
mod dial;
mod health;
mod http;
mod levels;
mod life;
mod listener;
mod ops;
mod options;
mod roster;
mod slots;
mod spare;
mod speaks;
#[cfg(test)]
mod tests;
mod ways;

pub use child::leashed;
pub use options::Options;

use crate::drain::{Drain, Draining, Stage};
use crate::{clock, net, tasks};
use attach::{Attachment, Over};
use child::Child;
use futures::FutureExt as _;
use futures::future::FusedFuture as _;
use health::{Probe, Verdict};
use levels::Levels;
use life::Life;
use options::Settings;
use pontoon_proto::worker::refused::Reason;
use roster::Roster;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

/// How often the worker's health is checked.
const CHECK_EVERY: Duration = Duration::from_secs(2);

/// How often an unreachable worker is tried, ...
const TRY_EVERY: Duration = Duration::from_millis(500);

/// ... and how often that is said.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// How long nodes may take to hear of the worker's death before its life is closed.
const TELL_WITHIN: Duration = Duration::from_secs(2);

/// How long no session must have been held before a draining sidecar leaves: one that was bound just
/// before the nodes knew still gets its tunnel.
const QUIET: Duration = Duration::from_secs(2);

/// How often a draining sidecar looks whether it still holds a session.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Why the sidecar stopped, other than by being told to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Stop {
    /// The process's exit code, as in sysexits.h: 64 usage, 69 unavailable, 71 system, 77 no permission,
    /// 78 configuration.
    pub code: u8,
    /// One line for people.
    pub text: String,
}

/// What a sidecar counts.
#[derive(Debug, Default)]
struct Counters {
    tunnels_open: Count,
    spares_open: Count,
    tunnels_opened: Count,
    dials_failed: Count,
    sessions_ended: Count,
    lives: Count,
}

#[derive(Debug, Default)]
struct Count(AtomicU64);

impl Count {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Counts one until the guard is dropped.
    fn enter(&self) -> Entered<'_> {
        self.add();
        Entered(self)
    }
}

struct Entered<'a>(&'a Count);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs a sidecar until it is told to leave (SIGTERM, SIGINT; a second one: at once).
///
/// # Errors
///
/// With an exit code and one line of text: wrong options, a key that no node takes, a worker that
/// did not come up within `--worker-wait`.
pub async fn run(options: Options) -> Result<(), Stop> {
    let leashed = options.exit_with_stdin;
    if !options.dns.is_empty() {
        crate::discovery::ask(&options.dns);
    }
    let settings = options.settings()?;
    crate::telemetry::start(
        crate::config::raw::FILTER,
        crate::config::raw::LogFormat::Text,
    )
    .map_err(|text| Stop { code: 64, text })?;
    if let Some(trust) = &settings.trust {
        let follow = crate::tls::reload::follow(trust.clone());
        tasks::spawn(tasks::Kind::Worker, "certificates", follow);
    }
    let drain = Arc::new(Drain::default());
    let listener = drain.listener();
    let (mut term, mut int) = signals().map_err(|error| Stop {
        code: 71,
        text: format!("signals can't be received: {error}"),
    })?;
    tasks::spawn(tasks::Kind::Worker, "sidecar-signals", async move {
        for stage in [Stage::Draining, Stage::Stopped] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            drain.enter(stage);
        }
        // The listeners take a dropped drain for a stop.
        std::future::pending::<()>().await;
    });
    tokio::select! {
        left = serve(settings, listener) => left,
        () = leash(leashed) => Ok(()),
    }
}

/// Returns when the parent that holds the other end of standard input is gone.
async fn leash(leashed: bool) {
    match leashed {
        true => crate::dev::leash::stdin_closed().await.unwrap_or_default(),
        false => std::future::pending().await,
    }
}

fn signals() -> io::Result<(tokio::signal::unix::Signal, tokio::signal::unix::Signal)> {
    Ok((
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    ))
}

/// Runs with checked settings until `drain` says otherwise.
async fn serve(settings: Settings, mut drain: Draining) -> Result<(), Stop> {
    let settings = Arc::new(settings);
    let counters = Arc::new(Counters::default());
    let (attached, shown) = watch::channel(0);
    if let Some(address) = &settings.ops {
        let listener = net::listen("operators", address)
            .await
            .map_err(|error| Stop {
                code: 71,
                text: error.to_string(),
            })?;
        let shown = ops::Shown {
            counters: Arc::clone(&counters),
            attached: shown,
        };
        tasks::spawn(
            tasks::Kind::Worker,
            "sidecar-ops",
            ops::serve(listener, shown),
        );
    }
    let mut child = Child::new(&settings.command);
    let served = lives(&settings, &counters, &mut child, &mut drain, &attached).await;
    child.stop().await;
    served
}

/// One life of the worker after the other.
async fn lives(
    settings: &Arc<Settings>,
    counters: &Arc<Counters>,
    child: &mut Child,
    drain: &mut Draining,
    attached: &watch::Sender<usize>,
) -> Result<(), Stop> {
    let mut probe = Probe::new(&settings.worker, settings.check.clone());
    loop {
        tokio::select! {
            started = child.start() => started?,
            () = drain.reached(Stage::Draining) => return Ok(()),
        }
        let serving = tokio::select! {
            serving = healthy(&mut probe, settings) => serving?,
            cause = child.exited() => {
                tracing::warn!(cause = cause?, "the worker was not healthy yet");
                continue;
            }
            () = drain.reached(Stage::Draining) => return Ok(()),
        };
        let levels = Levels {
            serving,
            draining: drain.stage() >= Stage::Draining,
            dead: None,
        };
        counters.lives.add();
        let speaks = speaks::ask(&settings.worker, &settings.check).await;
        let life = Arc::new(Life::new(
            Arc::clone(settings),
            Arc::clone(counters),
            levels,
            speaks,
        ));
        let ended = live(&life, &mut probe, child, drain, attached).await;
        attached.send_replace(0);
        match ended {
            Ended::Left => return Ok(()),
            Ended::Refused(stop) => return Err(stop),
            Ended::Died => {
                child.stop().await;
                probe.reset();
            }
        }
    }
}

/// How a worker life ended.
enum Ended {
    /// The sidecar was told to leave.
    Left,
    /// No node will take us.
    Refused(Stop),
    /// A new life may begin.
    Died,
}

/// One life of the worker, from the first attach to the last tunnel.
async fn live(
    life: &Arc<Life>,
    probe: &mut Probe,
    child: &mut Child,
    drain: &mut Draining,
    attached: &watch::Sender<usize>,
) -> Ended {
    let settings = &life.settings;
    tracing::info!(worker = %life.id, address = settings.worker, "the worker is healthy");
    let roster = Roster::new(&settings.region, &settings.nodes);
    let attachment = Attachment::new(roster, attached.clone());
    let mut attach = pin!(attachment.run(life).fuse());
    let mut leaving = drain.clone();
    let (ended, cause) = tokio::select! {
        over = &mut attach => match over {
            Over::Refused(reason, text) => (Ended::Refused(refused(reason, &text)), text),
            Over::Spent(text) => (Ended::Died, text),
            Over::Told => (Ended::Died, String::new()),
        },
        cause = watch_worker(life, probe) => (Ended::Died, cause),
        exited = child.exited() => match exited {
            Ok(cause) => (Ended::Died, cause),
            Err(stop) => (Ended::Refused(stop), String::new()),
        },
        () = life.spent.cancelled() => (Ended::Died, "its session has ended".to_owned()),
        () = leave(life, &mut leaving) => (Ended::Left, "the sidecar leaves".to_owned()),
    };
    tracing::info!(worker = %life.id, cause, "this life of the worker is over");
    if matches!(ended, Ended::Refused(_)) {
        return ended;
    }
    let at_once = drain.reached(Stage::Stopped);
    let close = async {
        // The attached nodes are told while the tunnels close; nobody is attached to a spent id.
        let tell = async {
            if !attach.is_terminated() {
                let _told = timeout(TELL_WITHIN, &mut attach).await;
            }
        };
        tokio::join!(tell, life.die(&cause));
    };
    tokio::select! {
        () = close => {}
        () = at_once => {}
    }
    ended
}

fn refused(reason: Reason, text: &str) -> Stop {
    let code = match reason {
        Reason::Key => 77,
        _ => 78,
    };
    let text = format!("the nodes refuse this sidecar: {text}");
    Stop { code, text }
}

/// Waits for a worker that answers; whether it takes new sessions.
async fn healthy(probe: &mut Probe, settings: &Settings) -> Result<bool, Stop> {
    let started = clock::now();
    let mut said: Option<(tokio::time::Instant, String)> = None;
    loop {
        let cause = match probe.look().await {
            Verdict::Alive { serving } => return Ok(serving),
            Verdict::Unsure(cause) | Verdict::Dead(cause) => cause,
        };
        let waited = started.elapsed();
        if settings.worker_wait.is_some_and(|most| waited >= most) {
            return Err(Stop {
                code: 69,
                text: format!(
                    "the worker at {} did not come up within {} s: {cause}",
                    settings.worker,
                    waited.as_secs()
                ),
            });
        }
        let news = said
            .as_ref()
            .is_none_or(|(at, text)| *text != cause || at.elapsed() >= SAY_EVERY);
        if news {
            let address = &settings.worker;
            tracing::warn!(
                address,
                cause,
                "the worker can't be reached; waiting for it"
            );
            said = Some((clock::now(), cause));
        }
        sleep(TRY_EVERY).await;
    }
}

/// Checks the worker until it is dead, and keeps the level `serving`; gives the cause of death.
async fn watch_worker(life: &Life, probe: &mut Probe) -> String {
    let mut check = interval(CHECK_EVERY);
    check.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = check.tick() => {}
            () = probe.closed() => {}
        }
        match probe.look().await {
            Verdict::Alive { serving } => {
                life.levels.send_if_modified(|levels| {
                    let changed = levels.serving != serving;
                    levels.serving = serving;
                    changed
                });
            }
            Verdict::Unsure(cause) => tracing::warn!(cause, "a check of the worker failed"),
            Verdict::Dead(cause) => return cause,
        }
    }
}

/// Returns when a sidecar that was told to leave may do so.
async fn leave(life: &Life, drain: &mut Draining) {
    drain.reached(Stage::Draining).await;
    let started = clock::now();
    tracing::info!(sessions = life.sessions(), "leaving: no new sessions");
    life.levels.send_modify(|levels| levels.draining = true);
    let mut quiet = clock::now();
    loop {
        if life.sessions() > 0 {
            quiet = clock::now();
        }
        if quiet.elapsed() >= QUIET {
            return;
        }
        if started.elapsed() >= life.settings.drain_timeout {
            let sessions = life.sessions();
            tracing::warn!(
                sessions,
                "the drain timeout has passed; what is left is cut"
            );
            return;
        }
        tokio::select! {
            () = drain.reached(Stage::Stopped) => return,
            () = sleep(LOOK_EVERY) => {}
        }
    }
}
