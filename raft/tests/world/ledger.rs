//! The smallest state machine that shows what a group promises.

use pontoon_raft::machine::{Clock, Machine};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Notes by id, each with the entry that first held it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Ledger {
    pub clock: Clock,
    pub notes: Arc<BTreeMap<u64, Note>>,
    pub due: Option<Clock>,
    pub ticks: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Note {
    pub text: String,
    pub index: u64,
    pub at: Clock,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Command {
    /// Writes a note; the first one of an id stays.
    Write {
        id: u64,
        text: String,
    },
    /// Lets time act this much later.
    Wake {
        after_ms: u64,
    },
    Tick,
}

impl Machine for Ledger {
    type Command = Command;
    /// The entry that holds the note.
    type Reply = u64;
    type Effect = u64;

    const KIND: u8 = 200;

    fn clock(&self) -> Clock {
        self.clock
    }

    fn apply(&mut self, index: u64, now: Clock, command: Command, effects: &mut Vec<u64>) -> u64 {
        self.clock = now;
        match command {
            Command::Write { id, text } => {
                let notes = Arc::make_mut(&mut self.notes);
                let note = notes.entry(id).or_insert_with(|| {
                    effects.push(id);
                    Note {
                        text,
                        index,
                        at: now,
                    }
                });
                note.index
            }
            Command::Wake { after_ms } => {
                self.due = Some(Clock(now.0 + after_ms));
                index
            }
            Command::Tick => {
                self.ticks += 1;
                if self.due.is_some_and(|due| due <= now) {
                    self.due = None;
                }
                index
            }
        }
    }

    fn next_due(&self) -> Option<Clock> {
        self.due
    }

    fn tick() -> Command {
        Command::Tick
    }

    fn check(&self) -> Result<(), String> {
        Ok(())
    }
}

pub fn write(id: u64) -> Command {
    Command::Write {
        id,
        text: format!("note {id}"),
    }
}
