//! What holds for the whole cluster: the format of entries, the catalog's own pace, the autopilot.

use super::command::{Pace, RECORD_MAX, RECORDS_FORMAT, Reply};
use super::node::CLUSTER;
use super::{Catalog, Outcome};
use serde::{Deserialize, Serialize};

/// The settings of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    /// The newest format that leaders write; it only rises.
    pub format: u16,
    /// How patient the catalog's own group is.
    pub pace: Pace,
    /// Whether memberships may be changed.
    pub autopilot: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            format: 1,
            pace: Pace::default(),
            autopilot: true,
        }
    }
}

impl Catalog {
    /// What holds for the whole cluster.
    pub fn settings(&self) -> Settings {
        self.records.settings
    }

    /// The newest entry format that leaders write.
    pub fn format(&self) -> u16 {
        self.records.settings.format
    }

    /// Refuses what older entry formats don't have; `what` is a subject with its verb, as in "limits need".
    pub(super) fn in_format(&self, needed: u16, what: &str) -> Outcome {
        let format = self.format();
        if format >= needed {
            return Ok(());
        }
        Err(Reply::Refused(format!(
            "{what} entry format {needed}, and the cluster writes {format}: it rises within seconds after \
             every node's build knows it; see `pontoon cluster show`"
        )))
    }

    pub(super) fn set_autopilot(&mut self, index: u64, on: bool, actor: &str) -> Outcome {
        if self.records.settings.autopilot != on {
            self.records.settings.autopilot = on;
            let what = if on { "resume" } else { "pause" };
            self.log(index, actor, format!("{what} the autopilot"));
        }
        Ok(())
    }

    pub(super) fn record(&mut self, index: u64, what: String, actor: &str) -> Outcome {
        if self.format() < RECORDS_FORMAT {
            return Err(Reply::Refused(format!(
                "records of what operators do to processes need entry format {RECORDS_FORMAT}, and \
                 the cluster writes {}: it rises within seconds after every node's build knows it",
                self.format()
            )));
        }
        if what.is_empty() || what.len() > RECORD_MAX {
            return Err(Reply::Invalid(format!(
                "what was done takes 1 to {RECORD_MAX} bytes"
            )));
        }
        self.log(index, actor, what);
        Ok(())
    }

    /// Raises the format once every node reads it; a node that can't would be cut off from its groups.
    pub(super) fn raise_format(&mut self, index: u64, format: u16) -> Outcome {
        if format <= self.records.settings.format {
            return Ok(());
        }
        if let Some(node) = self.members().find(|node| node.format < format) {
            return Err(Reply::Refused(format!(
                "node {} reads entries up to format {} only: upgrade or remove it first",
                node.name, node.format
            )));
        }
        self.records.settings.format = format;
        self.log(
            index,
            CLUSTER,
            format!("raise the entry format to {format}"),
        );
        Ok(())
    }
}
