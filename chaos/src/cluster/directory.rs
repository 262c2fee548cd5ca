//! A region's directory as a caller outside of the cluster proposes to it: any node, one command per
//! call, no batching.
//!
//! The workers here have no process, and the node at which they are attached is none of the cluster, so
//! no node gives them up or looks for their tunnels. What is measured is the directory alone.

use super::{Error, random};
use bytes::Bytes;
use pontoon_proto::id::{
    FunctionId, NodeBoot, NodeId, RegionId, RequestId, TenantId, VersionId, WorkerId,
};
use pontoon_proto::peer as pb;
use pontoon_proto::peer::raft_client::RaftClient;
use pontoon_raft::codec::{self, Role};
use pontoon_raft::directory::command::{Command, EndReason, Reply};
use pontoon_raft::directory::worker::SLOTS_MAX;
use pontoon_raft::directory::{self, SESSIONS_MAX};
use pontoon_raft::machine::{Clock, Machine as _};
use std::time::Duration;
use tonic::transport::Channel;

/// How long one proposal may take, elections included.
pub const PROPOSE_WITHIN: Duration = Duration::from_secs(10);

/// A node that no cluster of ours has.
const NOWHERE: NodeBoot = NodeBoot {
    node: NodeId(4_000_000),
    boot: 1,
};

/// Which directory is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The cluster's id.
    pub cluster: [u8; 16],
    /// The region.
    pub region: RegionId,
    /// The incarnation of its group.
    pub generation: u64,
}

/// What is opened: sessions of one version.
#[derive(Clone, Copy, Debug)]
pub struct Version {
    tenant: TenantId,
    function: FunctionId,
    version: VersionId,
}

impl Version {
    /// One that nobody has.
    pub fn random() -> Result<Self, Error> {
        Ok(Self {
            tenant: TenantId::from_random(random()?),
            function: FunctionId::from_random(random()?),
            version: VersionId::from_random(random()?),
        })
    }
}

/// A region's directory through one node.
#[derive(Clone, Debug)]
pub struct Directory {
    client: RaftClient<Channel>,
    place: Place,
}

impl Directory {
    pub(super) fn new(channel: Channel, place: Place) -> Self {
        Self {
            client: RaftClient::new(channel),
            place,
        }
    }

    /// Attaches workers of the version: as many as a full directory has sessions for.
    pub async fn attach(&mut self, version: Version) -> Result<(), Error> {
        for number in 0..SESSIONS_MAX as u64 / u64::from(SLOTS_MAX) {
            let attach = Command::AttachWorker {
                worker: WorkerId::from_random(random()?),
                name: format!("bench-{number}"),
                function: version.function,
                version: version.version,
                slots: SLOTS_MAX,
                at: NOWHERE,
                stream: number + 1,
            };
            match self.propose(attach).await? {
                Reply::Attached => {}
                other => return Err(Error(format!("a worker was not attached: {other:?}"))),
            }
        }
        Ok(())
    }

    /// Opens a session; it is bound when this returns.
    pub async fn open(&mut self, version: Version) -> Result<RequestId, Error> {
        let id = RequestId::mint(self.place.region, random()?);
        let open = Command::Open {
            id,
            tenant: version.tenant,
            function: version.function,
            version: version.version,
            at: NOWHERE,
            seq: 1,
            // As late as can be: nothing here repeats an open, so none is too old.
            asked: Clock(u64::MAX),
            wait_ms: 0,
            window_ms: 30_000,
            absorbed: false,
            window_asked: false,
        };
        match self.propose(open).await? {
            Reply::Bound(_) => Ok(id),
            other => Err(Error(format!("a session was not bound: {other:?}"))),
        }
    }

    /// Ends a session.
    pub async fn end(&mut self, id: RequestId) -> Result<(), Error> {
        let reason = EndReason::Operator;
        match self.propose(Command::End { id, reason }).await? {
            Reply::Done | Reply::Ended(_) => Ok(()),
            other => Err(Error(format!("a session was not ended: {other:?}"))),
        }
    }

    async fn propose(&mut self, command: Command) -> Result<Reply, Error> {
        const KIND: u8 = directory::Directory::KIND;
        let damaged = |error: codec::Corrupt| Error(error.to_string());
        let body = codec::encode(&command).map_err(damaged)?;
        let request = pb::ProposeRequest {
            envelope: Some(pb::Envelope {
                cluster: Bytes::copy_from_slice(&self.place.cluster),
                group: u32::from(self.place.region.0),
                generation: self.place.generation,
                ..pb::Envelope::default()
            }),
            commands: vec![codec::frame(Role::Command, KIND, 0, &body).map_err(damaged)?],
            wait_ms: PROPOSE_WITHIN.as_millis() as u64,
            forward: true,
        };
        let mut request = tonic::Request::new(request);
        request.set_timeout(PROPOSE_WITHIN);
        let reply = self.client.propose(request).await?.into_inner();
        match (reply.refusal(), reply.replies.first()) {
            (pb::Refusal::Unspecified, Some(record)) => {
                let (_, body) = codec::unframe(Role::Reply, KIND, record).map_err(damaged)?;
                codec::decode(&body).map_err(damaged)
            }
            (refusal, _) => Err(Error(format!("refused: {}", refusal.as_str_name()))),
        }
    }
}
