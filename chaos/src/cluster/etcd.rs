//! etcd: three members, and the calls of its API that are needed here.
//!
//! The messages are those of etcd's `api/etcdserverpb/rpc.proto`, with the fields that are read.

use super::folder::Folder;
use super::process::Process;
use super::{Error, NODES, channel, wait_for};
use crate::net::{Ports, local};
use bytes::Bytes;
use http::uri::PathAndQuery;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

/// How long one call may take, elections included.
const WITHIN: Duration = Duration::from_secs(10);

#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member_id: u64,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, prost::Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
    #[prost(uint64, tag = "6")]
    raft_term: u64,
}

/// How patient the members are.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often a leader says that it leads.
    pub heartbeat: Duration,
    /// How long a follower waits for that.
    pub election: Duration,
}

impl Timing {
    /// etcd's own defaults.
    pub const DEFAULT: Timing = Timing {
        heartbeat: Duration::from_millis(100),
        election: Duration::from_millis(1_000),
    };
    /// For members a few milliseconds apart.
    pub const FAST: Timing = Timing {
        heartbeat: Duration::from_millis(20),
        election: Duration::from_millis(200),
    };
}

/// Three members.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Member>,
    program: PathBuf,
    // Dropped last: the members write into it.
    folder: Folder,
}

#[derive(Debug)]
struct Member {
    process: Process,
    arguments: Vec<String>,
    name: String,
    client: u16,
}

impl Etcd {
    /// Starts three members below `home` and waits until one leads.
    pub async fn start(home: &Path, program: &Path, timing: Timing) -> Result<Self, Error> {
        let folder = Folder::inside(home)?;
        let mut ports = Ports::default();
        let mut places = Vec::new();
        for number in 1..=NODES {
            places.push((format!("etcd-{number}"), ports.take()?, ports.take()?));
        }
        let url = |port: &u16| format!("http://{}", local(*port));
        let all = places
            .iter()
            .map(|(name, peer, _)| format!("{name}={}", url(peer)));
        let all = all.collect::<Vec<_>>().join(",");
        let mut members = Vec::new();
        for (name, peer, client) in places {
            let data = folder.path().join(&name).display().to_string();
            let flags = [
                ("name", name.clone()),
                ("data-dir", data),
                ("listen-client-urls", url(&client)),
                ("advertise-client-urls", url(&client)),
                ("listen-peer-urls", url(&peer)),
                ("initial-advertise-peer-urls", url(&peer)),
                ("initial-cluster", all.clone()),
                (
                    "heartbeat-interval",
                    timing.heartbeat.as_millis().to_string(),
                ),
                ("election-timeout", timing.election.as_millis().to_string()),
                ("log-level", "error".to_owned()),
            ];
            let arguments: Vec<String> = flags
                .into_iter()
                .map(|(flag, value)| format!("--{flag}={value}"))
                .collect();
            members.push(Member {
                process: Process::start(&name, folder.path(), program, &arguments)?,
                arguments,
                name,
                client,
            });
        }
        let mut cluster = Self {
            members,
            program: program.to_owned(),
            folder,
        };
        cluster.settled().await?;
        Ok(cluster)
    }

    /// The processes.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        self.members.iter().map(|member| &member.process)
    }

    /// Kills a member with SIGKILL.
    pub fn kill(&mut self, member: usize) {
        self.members[member].process.kill();
    }

    /// Starts a member again that was killed.
    pub fn restart(&mut self, member: usize) -> Result<(), Error> {
        let known = &mut self.members[member];
        known.process = Process::start(
            &known.name,
            self.folder.path(),
            &self.program,
            &known.arguments,
        )?;
        Ok(())
    }

    /// A client with a connection of its own to one member.
    pub fn client(&self, member: usize) -> Result<Client, Error> {
        Ok(Client(Grpc::new(channel(self.members[member].client)?)))
    }

    /// Waits until all members agree on who leads; returns its index and the term.
    pub async fn settled(&mut self) -> Result<(usize, u64), Error> {
        for member in &mut self.members {
            member.process.alive()?;
        }
        wait_for("the start of etcd", async || {
            let mut seen = Vec::new();
            for member in 0..NODES {
                seen.push(self.client(member)?.status().await?);
            }
            let (_, leader, term) = seen[0];
            let agreed = seen.iter().all(|(_, l, t)| (*l, *t) == (leader, term));
            let place = seen.iter().position(|(id, _, _)| *id == leader);
            match place {
                Some(place) if agreed => Ok((place, term)),
                _ => Err(Error(format!("the members do not agree: {seen:?}"))),
            }
        })
        .await
    }
}

/// One client.
#[derive(Clone, Debug)]
pub struct Client(Grpc<Channel>);

impl Client {
    /// Writes a value; a quorum has it on disk when this returns.
    pub async fn put(&mut self, key: String, value: Bytes) -> Result<(), Error> {
        let request = PutRequest {
            key: key.into(),
            value,
        };
        let _: PutResponse = self.call("/etcdserverpb.KV/Put", request).await?;
        Ok(())
    }

    /// The member's id, its leader's, and the term.
    async fn status(&mut self) -> Result<(u64, u64, u64), Error> {
        let path = "/etcdserverpb.Maintenance/Status";
        let status: StatusResponse = self.call(path, StatusRequest {}).await?;
        let me = status.header.map_or(0, |header| header.member_id);
        Ok((me, status.leader, status.raft_term))
    }

    async fn call<Q, R>(&mut self, path: &'static str, request: Q) -> Result<R, Error>
    where
        Q: prost::Message + Send + Sync + 'static,
        R: prost::Message + Default + Send + Sync + 'static,
    {
        let ready = self.0.ready().await;
        ready.map_err(|error| Error(error.to_string()))?;
        let mut request = tonic::Request::new(request);
        request.set_timeout(WITHIN);
        let path = PathAndQuery::from_static(path);
        let reply = self.0.unary(request, path, ProstCodec::<Q, R>::default());
        Ok(reply.await?.into_inner())
    }
}
