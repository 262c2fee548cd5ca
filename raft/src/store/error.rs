//! Why a log can't be used, and who should do what about it.

use super::disk::is_damage;
use crate::codec::{Corrupt, VERSION};
use pontoon_proto::id::GroupId;
use std::io;

/// Why a log can't be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine refused.
    #[error("the log engine failed: {0}")]
    Engine(#[source] io::Error),
    /// The log lacks something that was durable, or has a bad record: this replica must not vote.
    #[error(
        "the log of {group} is damaged at index {index}: {why}; this replica does not vote until it \
         has been wiped and has joined again as a new member"
    )]
    Damaged {
        /// Whose log.
        group: GroupId,
        /// Where.
        index: u64,
        /// What is wrong there.
        why: String,
    },
    /// The records are whole, and of a newer format. Nothing was changed, and nothing may be wiped.
    #[error(
        "{what} was written by a newer build (record format {version}, this build knows \
         {VERSION}): start that build or a newer one; nothing was changed"
    )]
    Future {
        /// Which log or file.
        what: String,
        /// Its format.
        version: u8,
    },
    /// A file of somebody else lies where one of ours should be.
    #[error(
        "{path} was not written by this program: move it away, or give this node another data \
         folder; nothing was changed"
    )]
    Foreign {
        /// The file.
        path: String,
    },
    /// The storage thread is gone.
    #[error("the storage thread has stopped")]
    Stopped,
}

impl StoreError {
    /// A bad record at an index.
    pub(super) fn of_record(group: GroupId, index: u64, what: &str, why: Corrupt) -> StoreError {
        match why {
            Corrupt::Version(version) if version > VERSION => StoreError::Future {
                what: format!("{what} of the log of {group}"),
                version,
            },
            why => StoreError::Damaged {
                group,
                index,
                why: format!("{what} is bad: {why}"),
            },
        }
    }

    /// An engine's error while a log was being read.
    pub(super) fn of_engine(group: GroupId, index: u64, error: io::Error) -> StoreError {
        if is_damage(&error) {
            StoreError::Damaged {
                group,
                index,
                why: format!("the log engine can't read it: {error}"),
            }
        } else {
            StoreError::Engine(error)
        }
    }
}
