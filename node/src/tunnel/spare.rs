//! Tunnels that sidecars have dialed ahead of any session, kept at the nodes where they are attached.
//!
//! [`adopt`] joins one to a session: it says on it which, and the sidecar answers when it has judged that
//! and reached its worker. So an open or a resume costs one round trip where a dial costs three. Each
//! control stream keeps a [`Shelf`] filled, and takes it along when it ends.

use super::desk::Incoming;
use super::wire::Carries;
use super::{Shared, Tunnel, driver, open};
use crate::ops::metrics::Entered;
use crate::session::Target;
use pontoon_proto::id::WorkerId;
use pontoon_proto::worker::Adopted;
use prost::Message as _;
use std::collections::BTreeMap;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::timeout;

/// How many spare tunnels one sidecar may offer each node: an idle one costs about 1 KiB and a descriptor
/// at both ends.
pub(crate) const SPARES_MAX: u32 = 64;

/// How many a node keeps, of all sidecars together.
const TOTAL_MAX: usize = 4096;

/// How long the sidecar may take to answer. A spare of which the network has forgotten must not cost
/// much more than the dial that it saves.
const ADOPTED_WITHIN: Duration = Duration::from_millis(400);

/// How a spare came out, as the metric has it.
pub(crate) const RESULTS: [&str; 3] = ["adopted", "refused", "broken"];

/// A tunnel of no session.
pub(super) struct Spare {
    /// With which it was dialed; the sidecar takes orders only under its name.
    pub(super) ticket: String,
    pub(super) incoming: Incoming,
    pub(super) idle: Entered,
}

/// The spare tunnels of this node, by worker. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Spares(Arc<Mutex<BTreeMap<WorkerId, Kept>>>);

struct Kept {
    /// The control stream whose shelf this is.
    stream: u64,
    idle: Vec<Spare>,
    dialing: usize,
    taken: Arc<Notify>,
}

impl Kept {
    fn len(&self) -> usize {
        self.idle.len() + self.dialing
    }
}

/// Where the spare tunnels of one control stream are kept; dropped, it closes them.
pub(super) struct Shelf {
    spares: Spares,
    of: Owner,
    taken: Arc<Notify>,
}

/// Room on a shelf for a tunnel that is being dialed.
pub(super) struct Place {
    spares: Spares,
    of: Owner,
}

/// Whose a shelf is: a worker's control stream.
#[derive(Clone, Copy)]
struct Owner {
    worker: WorkerId,
    stream: u64,
}

impl Owner {
    /// What is kept for it; nothing once it has ended, though the worker may have another stream here.
    fn kept(self, spares: &mut BTreeMap<WorkerId, Kept>) -> Option<&mut Kept> {
        let kept = spares.get_mut(&self.worker);
        kept.filter(|kept| kept.stream == self.stream)
    }
}

impl Spares {
    /// A shelf for a control stream. There is one control stream per worker, see [`super::sidecars`].
    pub(super) fn shelf(&self, worker: WorkerId, stream: u64) -> Shelf {
        let taken = Arc::new(Notify::new());
        let kept = Kept {
            stream,
            idle: Vec::new(),
            dialing: 0,
            taken: Arc::clone(&taken),
        };
        self.lock().insert(worker, kept);
        Shelf {
            spares: self.clone(),
            of: Owner { worker, stream },
            taken,
        }
    }

    /// The spare of a worker that was dialed last, of those that live: what the network forgets, it
    /// forgets by age.
    fn take(&self, worker: WorkerId) -> Option<Spare> {
        let mut spares = self.lock();
        let kept = spares.get_mut(&worker)?;
        let mut taken = None;
        while taken.is_none()
            && let Some(mut spare) = kept.idle.pop()
        {
            taken = is_idle(&mut spare).then_some(spare);
        }
        kept.taken.notify_one();
        taken
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelf {
    /// Returns when a spare was taken since the last call.
    pub(super) async fn taken(&self) {
        self.taken.notified().await;
    }

    /// Forgets what has closed, or is relayed by a node that leaves; gives the room there is, up to
    /// `offered` in all.
    pub(super) fn missing(&self, shared: &Shared, offered: u32) -> Vec<Place> {
        let mut spares = self.spares.lock();
        let Some(kept) = self.of.kept(&mut spares) else {
            return Vec::new();
        };
        let stays = |spare: &mut Spare| {
            let through = spare.incoming.through;
            is_idle(spare) && !through.is_some_and(|node| (shared.leaves)(node))
        };
        kept.idle.retain_mut(stays);
        let mut missing = (offered as usize).saturating_sub(kept.len());
        if missing > 0 {
            // All shelves are counted only when something is to come.
            kept.dialing += missing;
            let total: usize = spares.values().map(Kept::len).sum();
            let over = total.saturating_sub(TOTAL_MAX).min(missing);
            missing -= over;
            if let Some(kept) = self.of.kept(&mut spares) {
                kept.dialing -= over;
            }
        }
        drop(spares);
        let place = || Place {
            spares: self.spares.clone(),
            of: self.of,
        };
        std::iter::repeat_with(place).take(missing).collect()
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        let mut spares = self.spares.lock();
        if self.of.kept(&mut spares).is_some() {
            spares.remove(&self.of.worker);
        }
    }
}

impl Place {
    /// The tunnel is up, or is not. The next try after a failure is the next look's.
    pub(super) fn fill(self, spare: Option<Spare>) {
        let mut spares = self.spares.lock();
        if let (Some(kept), Some(spare)) = (self.of.kept(&mut spares), spare) {
            kept.idle.push(spare);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut spares = self.spares.lock();
        if let Some(kept) = self.of.kept(&mut spares) {
            kept.dialing -= 1;
        }
    }
}

/// Whether nothing was heard on a spare, as it must be: no end and no bytes.
fn is_idle(spare: &mut Spare) -> bool {
    let mut byte = [0];
    let read = pin!(spare.incoming.stream.read(&mut byte));
    read.poll(&mut Context::from_waker(Waker::noop()))
        .is_pending()
}

/// Makes a session's tunnel of a spare, if there is one; `None` leaves the dial to be made.
pub(super) async fn adopt(
    shared: &Shared,
    target: &Target,
    carries: Carries,
    within: Duration,
) -> Option<Tunnel> {
    let spare = shared.spares.take(target.binding.worker)?;
    drop(spare.idle);
    let mut incoming = spare.incoming;
    let dialing = shared.pool.dialing(target.id);
    let order = open::order(target, spare.ticket).encode_length_delimited_to_vec();
    let asked = async {
        incoming.stream.write_all(&order).await?;
        incoming.stream.flush().await?;
        answer(&mut incoming).await
    };
    let result = match timeout(ADOPTED_WITHIN.min(within), asked).await {
        Ok(Ok(adopted)) if adopted.refused.is_empty() => "adopted",
        Ok(Ok(adopted)) => {
            let cause = super::close::printable(&adopted.refused);
            tracing::info!(session = %target.id, cause, "a spare tunnel was refused");
            "refused"
        }
        Ok(Err(_)) | Err(_) => "broken",
    };
    shared.metrics.spares.add(result);
    if result != "adopted" {
        return None;
    }
    driver::start(shared, dialing, *target, carries, incoming).await
}

/// The sidecar's answer, and not a byte more: the worker's bytes follow.
async fn answer(incoming: &mut Incoming) -> io::Result<Adopted> {
    let length = incoming.stream.read_u8().await?;
    // A varint of one byte; a refusal is short.
    if length > 0x7f {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut message = vec![0; usize::from(length)];
    incoming.stream.read_exact(&mut message).await?;
    Adopted::decode(&message[..]).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Group, Node};
    use super::*;
    use pontoon_proto::id::NodeBoot;
    use tokio::io::{DuplexStream, duplex};

    const WITHIN: Duration = Duration::from_secs(5);

    /// A spare on a new shelf, and its other end.
    fn shelved(node: &Node, worker: WorkerId) -> (Shelf, DuplexStream) {
        let shared = &node.tunnels.0;
        let shelf = shared.spares.shelf(worker, 1);
        let mut places = shelf.missing(shared, 1);
        assert_eq!(places.len(), 1);
        assert!(shelf.missing(shared, 1).is_empty());
        let (ours, theirs) = duplex(4096);
        let incoming = Incoming {
            stream: Box::new(ours),
            speaks: None,
            through: None,
        };
        let place = places.remove(0);
        place.fill(Some(Spare {
            ticket: "a ticket".to_owned(),
            incoming,
            idle: shared.metrics.spares_idle.enter(),
        }));
        assert!(node.shows("pontoon_spare_tunnels 1"));
        (shelf, theirs)
    }

    /// A session of a worker that is attached at this node, as far as the directory knows.
    fn bound(group: &Group, at: NodeBoot) -> Target {
        let worker = WorkerId::from_random([9; 16]);
        group.apply(pontoon_raft::directory::command::Command::AttachWorker {
            worker,
            name: "fake".to_owned(),
            function: group.grant.function,
            version: group.grant.version,
            slots: 1,
            at,
            stream: 1,
        });
        group.open(at)
    }

    #[tokio::test]
    async fn a_spare_on_which_nobody_answers_is_given_up_in_time_for_a_dial() {
        let group = Group::new(1);
        let node = Node::start(&group, 1).await;
        let target = bound(&group, node.at);
        let (_shelf, mut theirs) = shelved(&node, target.binding.worker);
        let started = crate::clock::now();
        let adopted = adopt(&node.tunnels.0, &target, Carries::Grpc, WITHIN).await;
        assert!(adopted.is_none());
        assert!(started.elapsed() < Duration::from_secs(2));
        assert!(node.shows("pontoon_spare_tunnels_total{result=\"broken\"} 1"));
        assert!(node.shows("pontoon_spare_tunnels 0"));
        // What was said on it is the whole order, and then it was closed.
        let mut said = Vec::new();
        theirs.read_to_end(&mut said).await.unwrap();
        let order = pontoon_proto::worker::OpenTunnel::decode_length_delimited(&said[..]).unwrap();
        assert_eq!(order, open::order(&target, "a ticket".to_owned()));
    }

    #[tokio::test]
    async fn a_spare_that_closed_or_spoke_before_its_time_is_never_adopted() {
        let group = Group::new(1);
        let node = Node::start(&group, 1).await;
        let target = bound(&group, node.at);
        let (shelf, theirs) = shelved(&node, target.binding.worker);
        drop(theirs);
        assert_eq!(shelf.missing(&node.tunnels.0, 1).len(), 1);
        drop(shelf);
        let (_shelf, mut theirs) = shelved(&node, target.binding.worker);
        theirs.write_all(b"HTTP/1.1 200").await.unwrap();
        let adopted = adopt(&node.tunnels.0, &target, Carries::Grpc, WITHIN).await;
        assert!(adopted.is_none());
        for result in RESULTS {
            let none = format!("pontoon_spare_tunnels_total{{result=\"{result}\"}} 0");
            assert!(node.shows(&none), "{result}");
        }
    }

    #[tokio::test]
    async fn a_shelf_of_an_ended_control_stream_keeps_nothing() {
        let node = Node::start(&Group::new(1), 1).await;
        let shared = &node.tunnels.0;
        let worker = WorkerId::from_random([9; 16]);
        let (old, _theirs) = shelved(&node, worker);
        let late = old.missing(shared, 2);
        let new = shared.spares.shelf(worker, 2);
        // The old stream's shelf and what was being dialed for it don't touch the new one's.
        drop(old);
        drop(late);
        assert_eq!(new.missing(shared, 2).len(), 2);
        assert!(node.shows("pontoon_spare_tunnels 0"));
    }
}
