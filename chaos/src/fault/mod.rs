//! Faults: what is planned, and the hand that does it.
//!
//! This file says what and when, [`target`] to whom, and [`hand`] does it; the others have what is done to disks,
//! clocks, names and memberships.

pub mod disk;
pub mod hand;
mod member;
pub mod names;
pub mod target;
pub mod time;

use crate::cluster::Error;
use crate::scenario::{Fault, Harm, Nemesis, Scenario};
use crate::seed::Seed;
use std::time::Duration;
use target::Target;

/// A fault whose names exist.
#[derive(Clone, Debug)]
pub struct Planned {
    fault: Fault,
    target: Option<Target>,
    to: Option<Target>,
}

/// All faults in the order of their begins: those of the schedule, and those of the nemesis and the weather,
/// which follow from the seed.
pub fn plan(scenario: &Scenario) -> Result<Vec<Planned>, Error> {
    let mut faults = scenario.fault.clone();
    let seed = |number| Seed::new(scenario.seed).fork(number);
    for (nemesis, number) in scenario.chances().zip([u64::MAX, u64::MAX - 1]) {
        faults.extend(drawn(nemesis, seed(number)));
    }
    faults.sort_by_key(|fault| fault.at_ms);
    let planned = faults
        .into_iter()
        .map(|fault| Planned::new(fault, scenario));
    planned.collect()
}

fn drawn(nemesis: &Nemesis, mut seed: Seed) -> Vec<Fault> {
    let begins = (nemesis.from_ms..nemesis.until_ms).step_by(nemesis.every_ms.max(1) as usize);
    let faults = begins.map(|at_ms| {
        let fault = nemesis.harms[seed.below(nemesis.harms.len())].clone();
        Fault {
            at_ms,
            for_ms: fault.for_ms.or(Some(nemesis.for_ms)),
            ..fault
        }
    });
    faults.collect()
}

impl Planned {
    fn new(fault: Fault, scenario: &Scenario) -> Result<Self, Error> {
        let named = |error: Error| Error(format!("a fault at {} ms: {error}", fault.at_ms));
        let target = match fault.harm {
            Harm::RollingRestart => None,
            _ => Some(Target::parse(&fault.target, scenario).map_err(named)?),
        };
        let to = match fault.harm {
            Harm::Cut | Harm::CutOneWay | Harm::HalfOpen | Harm::Link => {
                Some(Target::parse(&fault.to, scenario).map_err(named)?)
            }
            _ => None,
        };
        for (harm, there, what) in [
            (
                Harm::Link,
                fault.link.is_some(),
                "`link` says what the link becomes",
            ),
            (
                Harm::Names,
                fault.answer.is_some(),
                "`answer` says what names are answered with",
            ),
            (
                Harm::Flood,
                fault.flood.is_some(),
                "`flood` says what hostile clients do",
            ),
        ] {
            if fault.harm == harm && !there {
                return Err(named(Error(what.to_owned())));
            }
        }
        if fault.harm == Harm::Survive && !matches!(target, Some(Target::Region(_))) {
            return Err(named(Error("survive: its target is `region NAME`".into())));
        }
        Ok(Self { fault, target, to })
    }

    /// When it begins.
    pub fn at(&self) -> Duration {
        Duration::from_millis(self.fault.at_ms)
    }

    /// After how long it is undone.
    pub fn lasts(&self) -> Option<Duration> {
        self.fault.for_ms.map(Duration::from_millis)
    }

    /// Whether a voter loses its log or its place.
    pub(crate) fn costs_a_voter(&self) -> bool {
        matches!(
            self.fault.harm,
            Harm::Damage | Harm::LoseDisk | Harm::Remove
        )
    }

    pub(crate) fn words(&self) -> String {
        let to = match self.fault.to.as_str() {
            "" => String::new(),
            to => format!(" -> {to}"),
        };
        let harm = format!("{:?}", self.fault.harm).to_lowercase();
        let by = match (self.fault.answer, self.fault.flood) {
            (Some(answer), _) => format!(": {answer:?}").to_lowercase(),
            (_, Some(flood)) => format!(": {flood:?}").to_lowercase(),
            _ if self.fault.harm == Harm::Clock => format!(" by {} s", self.fault.by_s),
            _ => String::new(),
        };
        format!("{harm} {}{to}{by}", self.fault.target)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenario(more: &str) -> Scenario {
        let text = format!(
            "about = \"x\"\nseed = 5\n[topology]\nregions = [\"a\", \"b\"]\nworkers = 2\n\
             [workload]\nmode = \"hold\"\nclients = 2\nrun_ms = 10\n{more}"
        );
        Scenario::parse(&text, &[]).unwrap()
    }

    #[test]
    fn a_nemesis_does_the_same_again_with_the_same_seed() {
        let nemesis = "[nemesis]\nfrom_ms = 0\nuntil_ms = 1000\nevery_ms = 100\nfor_ms = 50\n\
                       harms = [{ harm = \"kill\", target = \"any node\" }, \
                       { harm = \"pause\", target = \"any worker\" }]\n";
        let words = || {
            let planned = plan(&scenario(nemesis)).unwrap();
            planned.iter().map(Planned::words).collect::<Vec<_>>()
        };
        assert_eq!(words().len(), 10);
        assert_eq!(words(), words());
    }
}
