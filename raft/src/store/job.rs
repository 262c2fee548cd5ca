//! What the storage thread is asked to do.

use super::error::StoreError;
use super::log::Recovered;
use bytes::Bytes;
use pontoon_proto::id::GroupId;
use std::io;
use tokio::sync::oneshot;

/// Called once what it stands for is durable, or surely will not be.
pub(super) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// What the storage thread is asked to do.
pub(super) enum Job {
    Open {
        group: GroupId,
        reply: oneshot::Sender<Result<Recovered, StoreError>>,
    },
    Append {
        group: GroupId,
        records: Vec<(u64, Bytes)>,
        done: Done,
    },
    Mark {
        group: GroupId,
        name: u8,
        record: Bytes,
        done: Done,
    },
    Lazy {
        group: GroupId,
        name: u8,
        record: Bytes,
    },
    Truncate {
        group: GroupId,
        from: u64,
    },
    Purge {
        group: GroupId,
        upto: u64,
        mark: Bytes,
    },
    Read {
        group: GroupId,
        from: u64,
        to: u64,
        bytes_max: usize,
        reply: oneshot::Sender<io::Result<Vec<Bytes>>>,
    },
    Wipe {
        group: GroupId,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    Close {
        reply: oneshot::Sender<()>,
    },
}
