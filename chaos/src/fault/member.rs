//! What is done to a cluster's own idea of itself: names, certificates, members, voters.

use super::names::Answer;
use crate::clock;
use crate::cluster::certificates::GOOD;
use crate::cluster::pontoon::timed;
use crate::cluster::world::World;
use crate::cluster::{Error, wait_for};
use crate::scenario::Survive;
use pontoon_proto::admin as pb;
use std::time::Duration;

/// How soon a certificate ends that expires: a node reads it within 4 s, and uses it for a moment.
const EXPIRES: Duration = Duration::from_secs(6);

impl World {
    /// What is said of a node's name from now on; none is the truth.
    pub(super) fn answer(&self, node: usize, answer: Option<Answer>) -> Result<(), Error> {
        let names = self.names.as_ref();
        let names = names.ok_or_else(|| Error("the nodes have no names".into()))?;
        names.say(node, answer);
        Ok(())
    }

    /// Gives a node a certificate that soon expires, and waits until it refuses nobody else's word: the answer
    /// is what a new connection to it fails with.
    pub(super) async fn expire(&self, node: usize) -> Result<String, Error> {
        self.certify(node, EXPIRES)?;
        wait_for("a certificate's end", async || {
            match self.greet(node).await {
                Err(error) if error.0.contains("expired") => Ok(error.0),
                Err(error) => Err(error),
                Ok(()) => Err(Error("the certificate is still good".into())),
            }
        })
        .await
    }

    /// Gives a node a good one, and waits until it has that.
    pub(super) async fn renew(&mut self, node: usize) -> Result<(), Error> {
        self.certify(node, GOOD)?;
        if self.nodes[node].process.ended() {
            return Ok(());
        }
        wait_for("a renewed certificate", async || self.greet(node).await).await
    }

    fn certify(&self, node: usize, lasts: Duration) -> Result<(), Error> {
        let made = self.certificates.as_ref();
        let made = made.ok_or_else(|| Error("the nodes have no certificates".into()))?;
        made.issue(&self.nodes[node].name, self.address(node), lasts)
    }

    async fn greet(&self, node: usize) -> Result<(), Error> {
        let made = self.certificates.as_ref();
        let made = made.ok_or_else(|| Error("the nodes have no certificates".into()))?;
        let node = &self.nodes[node];
        made.try_node(&node.name, node.own_worker).await
    }

    /// Removes a node from the cluster, and waits until it has gone by itself.
    pub(super) async fn remove(&mut self, node: usize) -> Result<String, Error> {
        let (name, began) = (self.nodes[node].name.clone(), clock::now());
        let request = pb::RemoveNodeRequest {
            name: name.clone(),
            dry_run: false,
        };
        let other = self.other_than(node)?;
        let mut admin = self.admin(other);
        admin.remove_node(timed(request)).await?;
        let until = began + Duration::from_secs(90);
        while !self.nodes[node].process.ended() {
            if clock::now() > until {
                let tail = self.nodes[node].process.tail();
                return Err(Error(format!(
                    "{name} was removed and does not go:\n{tail}"
                )));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(format!(
            "{name} was removed, and went after {:.1?}",
            began.elapsed()
        ))
    }

    /// A group that would not outlive the loss of a voter now, if there is one: whoever loses its log or its
    /// place is one, and a second loss before the first is repaired is more than a cluster promises to bear.
    pub(crate) async fn weakest(&mut self) -> Result<Option<String>, Error> {
        let asked = self.other_than(usize::MAX)?;
        // A node that can't be asked shows nothing better.
        let Ok(groups) = self.groups(asked).await else {
            return Ok(Some("a group".into()));
        };
        let mut weak = groups
            .into_iter()
            .filter(|group| group.failure_tolerance < 1);
        Ok(weak.next().map(|group| group.name))
    }

    /// Another node, which runs.
    fn other_than(&mut self, node: usize) -> Result<usize, Error> {
        let mut others = (0..self.nodes.len()).filter(|other| *other != node);
        let found = others.find(|other| !self.nodes[*other].process.ended());
        found.ok_or_else(|| Error("no other node runs".into()))
    }

    /// Says what a region's group shall outlive, and waits until its voters have moved.
    pub(super) async fn move_voters(
        &mut self,
        region: usize,
        survive: Survive,
    ) -> Result<String, Error> {
        let (name, asked) = (self.regions[region].clone(), self.other_than(usize::MAX)?);
        let before = self.voters(asked, &name).await?;
        let request = pb::SetSurviveRequest {
            region: name.clone(),
            survive: match survive {
                Survive::Zone => "zone".to_owned(),
                Survive::Region => "region".to_owned(),
            },
            dry_run: false,
        };
        self.admin(asked).set_survive(timed(request)).await?;
        let after = wait_for("a move of voters", async || {
            let voters = self.voters(asked, &name).await?;
            match voters == before {
                true => Err(Error(format!("they are still {}", voters.join(", ")))),
                false => Ok(voters),
            }
        });
        let after = after.await?;
        Ok(format!(
            "voters {} became {}",
            before.join(", "),
            after.join(", ")
        ))
    }

    async fn voters(&self, node: usize, group: &str) -> Result<Vec<String>, Error> {
        let groups = self.groups(node).await?.into_iter();
        let mut groups = groups.filter(|found| found.name == group);
        let mut voters = groups.next().map(|group| group.voters).unwrap_or_default();
        voters.sort();
        Ok(voters)
    }
}
