//! How tunnels and control streams ended lately, gathered from all nodes (contract K-CLS-1).

use super::read::parse_or_none;
use super::{Context, view};
use futures::future::join_all;
use pontoon_proto::admin as pb;
use pontoon_proto::id::{NodeId, RequestId, WorkerId};
use pontoon_proto::peer::{Closed, ClosesReply, ClosesRequest};
use std::time::Duration;
use tonic::Status;

/// How many are listed when nothing is asked for, and at most: about 300 KB of text.
const LISTED: u32 = 100;
const LISTED_MAX: u32 = 1_000;

/// How long the other nodes may take to answer.
const ASK: Duration = Duration::from_secs(2);

impl Context {
    pub(super) async fn list_closes(
        &self,
        request: &pb::ListClosesRequest,
    ) -> Result<pb::ListClosesReply, Status> {
        let worker: Option<WorkerId> = parse_or_none("worker_id", &request.worker_id)?;
        let session: Option<RequestId> = parse_or_none("request_id", &request.request_id)?;
        let limit = match request.limit {
            0 => LISTED,
            asked => asked.min(LISTED_MAX),
        };
        let question = ClosesRequest {
            envelope: None,
            worker: worker
                .map_or_else(Vec::new, |id| id.to_bytes().to_vec())
                .into(),
            request_id: session
                .map_or_else(Vec::new, |id| id.to_bytes().to_vec())
                .into(),
            limit,
        };
        let own = self.peers.at().node;
        let mut answers = vec![(own, Some((self.closes)(&question)))];
        let others = self.peers.known().into_iter().map(|node| {
            let asked = self.peers.closes(node, question.clone(), ASK);
            async move { (node, asked.await.ok()) }
        });
        answers.extend(join_all(others).await);
        Ok(self.gathered(answers, limit))
    }

    fn gathered(
        &self,
        answers: Vec<(NodeId, Option<ClosesReply>)>,
        limit: u32,
    ) -> pb::ListClosesReply {
        let catalog = self.catalog();
        let mut reply = pb::ListClosesReply::default();
        for (node, answer) in answers {
            let name = view::node_name(&catalog, node);
            match answer {
                Some(answer) => {
                    let closes = answer.closed.into_iter().map(|one| close(&name, one));
                    reply.closes.extend(closes);
                }
                None => reply.unheard.push(name),
            }
        }
        reply.closes.sort_by_key(|close| close.ago_ms);
        reply.closes.truncate(limit as usize);
        reply
    }
}

fn close(node: &str, closed: Closed) -> pb::Close {
    let id = |bytes: &[u8]| uuid::Uuid::from_slice(bytes).map(|id| id.to_string());
    let what = match closed.request_id.is_empty() {
        true => "sidecar",
        false => "tunnel",
    };
    pb::Close {
        what: what.into(),
        node: node.into(),
        ago_ms: closed.ago_ms,
        lasted_ms: closed.lasted_ms,
        worker_id: id(&closed.worker).unwrap_or_default(),
        request_id: id(&closed.request_id).unwrap_or_default(),
        reason: closed.reason,
        code: closed.code,
        text: closed.text,
    }
}
