//! The table of the suite: which check proves which row of the contract, and how the row can be broken.
//!
//! A check is a function of a target, so that it can be asked about anything: our cluster, another
//! address, or a *twin*, a proxy that breaks exactly this row. A check that stays green through its twin
//! proves nothing, and [`crate::twins`] looks for those.

use crate::support::cluster::Witness;
use crate::target::{Checked, Target, Wire, run};
use crate::twin::Twin;
use std::future::Future;
use std::pin::Pin;

/// What a check is.
pub type Check = fn(Target) -> Pin<Box<dyn Future<Output = Checked> + Send>>;

/// Over which versions of HTTP a row is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wires {
    H2,
    H1,
    Both,
}

/// Where a row can be checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Any address.
    Client,
    /// A cluster of the suite's own: keys, functions and processes to do things to.
    Cluster,
}

/// One row, or a named part of one: `C-LSN-1/h2`.
pub struct Row {
    pub id: &'static str,
    pub wires: Wires,
    pub needs: Needs,
    pub check: Check,
    pub twin: Twin,
}

/// A check as the table holds it.
#[macro_export]
macro_rules! check {
    ($check:path) => {
        |target| Box::pin($check(target))
    };
}

/// That two values are the same, or what they are.
#[macro_export]
macro_rules! same {
    ($is:expr, $wanted:expr, $($what:tt)+) => {
        match (&$is, &$wanted) {
            (is, wanted) if *is != *wanted => {
                return Err(format!("{}: {is:?}, and not {wanted:?}", format!($($what)+)));
            }
            _ => {}
        }
    };
}

/// That something holds.
#[macro_export]
macro_rules! ensure {
    ($holds:expr, $($what:tt)+) => {
        if !$holds {
            return Err(format!($($what)+));
        }
    };
}

/// All sections.
pub fn sections() -> Vec<(&'static str, &'static [Row])> {
    vec![
        ("keys", crate::keys::ROWS),
        ("ids", crate::ids::ROWS),
        ("answers", crate::answers::ROWS),
        ("faults", crate::faults::ROWS),
        ("sessions", crate::sessions::ROWS),
        ("forwarding", crate::forwarding::ROWS),
        ("pressure", crate::pressure::ROWS),
        ("listener", crate::listener::ROWS),
        ("floods", crate::floods::ROWS),
        ("health", crate::health::ROWS),
        ("cors", crate::cors::ROWS),
        ("http1", crate::http1::ROWS),
        ("websocket", crate::websocket::ROWS),
    ]
}

/// All rows.
pub fn rows() -> Vec<&'static Row> {
    sections().into_iter().flat_map(|(_, rows)| rows).collect()
}

impl Row {
    /// The contract's id, without the name of a part.
    pub fn contract_id(&self) -> &'static str {
        self.id.split('/').next().unwrap_or(self.id)
    }

    /// The wire of its own test.
    pub fn wire(&self) -> Wire {
        if self.wires == Wires::H1 {
            Wire::H1
        } else {
            Wire::H2
        }
    }
}

/// Whether a row can be judged against this world; says so aloud when not.
pub fn can_be_judged(row: &Row, target: &Target) -> bool {
    let can = row.needs == Needs::Client || target.world.own.is_some();
    if !can {
        eprintln!("not judged: {} needs a cluster of the suite's own", row.id);
    }
    can
}

/// Checks a row against the target of this run.
#[track_caller]
pub fn prove(id: &str) {
    let row = rows().into_iter().find(|row| row.id == id);
    let row = row.unwrap_or_else(|| panic!("the table has no row {id}"));
    let target = Target::shared(row.wire());
    let _witness: Option<Witness> = target.world.own.as_ref().map(|own| own.cluster.witness());
    if !can_be_judged(row, &target) {
        return;
    }
    if let Err(wrong) = run((row.check)(target)) {
        panic!("{id}: {wrong}");
    }
}
