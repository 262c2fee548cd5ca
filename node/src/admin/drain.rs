//! Draining a node by a verb, which may be said to any node.

use super::access::Caller;
use super::{Context, GROUP_WAIT};
use pontoon_proto::admin as pb;
use pontoon_proto::id::NodeId;
use pontoon_proto::peer::NodeState;
use pontoon_proto::peer::node_state::Stage;
use pontoon_raft::catalog::command::{Command, Node, Reply, Standing};
use std::time::Duration;
use tonic::{Response, Status};

/// How long a drain may take when nothing else is said: as long as one by SIGTERM.
const WITHIN: Duration = Duration::from_secs(30);

/// The longest that may be asked for.
const WITHIN_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// How long the other node may take to answer.
const ASK: Duration = Duration::from_secs(5);

impl Context {
    pub(super) async fn drain_node(
        &self,
        caller: Caller,
        request: pb::DrainNodeRequest,
    ) -> Result<Response<pb::Node>, Status> {
        let node = self.node_named(&request.name)?;
        let within = match request.within_ms {
            0 => WITHIN,
            ms => Duration::from_millis(ms),
        };
        if within > WITHIN_MAX {
            return Err(Status::invalid_argument("the deadline is at most 24 hours"));
        }
        if !request.force && !self.others_are_ready(node.at.node) {
            return Err(Status::failed_precondition(format!(
                "no other node is ready: without {} nobody would take calls. Bring another one up, \
                 or force it",
                node.name
            )));
        }
        if request.dry_run {
            return Ok(self.drained(&node, None));
        }
        let state = self.switch_node(&node, Some(within)).await?;
        let what = format!("drain node {} within {within:?}", node.name);
        self.record(what, caller).await;
        Ok(self.drained(&node, Some(state)))
    }

    pub(super) async fn undrain_node(
        &self,
        caller: Caller,
        request: pb::UndrainNodeRequest,
    ) -> Result<Response<pb::Node>, Status> {
        let node = self.node_named(&request.name)?;
        let state = self.switch_node(&node, None).await?;
        self.record(format!("undrain node {}", node.name), caller)
            .await;
        Ok(self.drained(&node, Some(state)))
    }

    /// Whether some node but this one takes what comes, as far as this node knows. Two verbs at two
    /// nodes at the same moment can still drain the last two: each is heard of with the next ping.
    fn others_are_ready(&self, but: NodeId) -> bool {
        let catalog = self.catalog();
        let others = catalog.nodes().filter(|node| node.at.node != but);
        let mut standing = others.filter(|node| node.standing == Standing::Member);
        standing.any(|node| match self.state_of(node.at.node) {
            Some(state) => state.ready,
            // An older build doesn't say.
            None => self.peers.rtt(node.at.node).is_some(),
        })
    }

    /// How a node is; none where it can't be reached, or doesn't say.
    pub(super) fn state_of(&self, node: NodeId) -> Option<NodeState> {
        match node == self.peers.at().node {
            true => Some((self.switch.state)()),
            false => self.peers.state(node),
        }
    }

    /// Makes a node drain, or serve again.
    async fn switch_node(&self, node: &Node, to: Option<Duration>) -> Result<NodeState, Status> {
        let id = node.at.node;
        if id == self.peers.at().node {
            (self.switch.drain)(to).map_err(Status::failed_precondition)?;
            return Ok((self.switch.state)());
        }
        self.peers.drain(id, to, ASK).await.map_err(|error| {
            let text = error.cause.clone();
            match text.strip_prefix("FailedPrecondition: ") {
                Some(why) => Status::failed_precondition(why.to_owned()),
                None => Status::unavailable(format!(
                    "node {} gives no answer ({text}): ask it at its own admin address, or try again",
                    node.name
                )),
            }
        })
    }

    /// Writes down what was done. That it was done does not depend on it: a node can be drained while
    /// the catalog has no quorum, and then only this node's log has the line.
    async fn record(&self, what: String, caller: Caller) {
        tracing::info!(actor = caller.actor, what, "an operator");
        let command = Command::Record {
            what,
            actor: caller.actor,
        };
        let written = self.cluster.catalog().propose(command, GROUP_WAIT).await;
        match written.map(|written| written.reply) {
            Ok(Reply::Done) => {}
            Ok(reply) => tracing::warn!(?reply, "it is not in the audit trail"),
            Err(error) => tracing::warn!(%error, "it is not in the audit trail"),
        }
    }

    fn drained(&self, node: &Node, state: Option<NodeState>) -> Response<pb::Node> {
        let mut view = self.show_node(&self.catalog(), node);
        if let Some(state) = state {
            put_state(&mut view, &state);
        }
        Response::new(view)
    }
}

/// Adds to a node's record how the node is.
pub(super) fn put_state(view: &mut pb::Node, state: &NodeState) {
    view.stage = match state.stage() {
        Stage::Unspecified => "unknown",
        Stage::Serving => "serving",
        Stage::Draining => "draining",
        Stage::Drained if state.cut => "drained (cut)",
        Stage::Drained => "drained",
    }
    .into();
    view.ready = state.ready;
    view.calls = state.calls;
    view.connections = state.connections;
    view.sessions = state.sessions;
    view.tunnels = state.tunnels;
    view.relays = state.relays;
    view.groups_led = state.groups_led;
    view.sidecars = state.sidecars;
    view.sidecars_only_here = state.sidecars_only_here;
    view.drain_left_ms = state.drain_left_ms;
}
