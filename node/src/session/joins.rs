//! The face that calls see.

use super::{Ask, Joined, Sessions};
use crate::call::{Joins, Member};
use crate::tunnel::{Carries, Wire};
use pontoon_proto::fault::Fault;
use pontoon_proto::id::{RequestId, VersionId};
use tokio::time::Instant;

impl Joins for Sessions {
    type Joined = Joined;

    async fn open(&self, ask: &Ask) -> Result<Joined, Fault> {
        Sessions::open(self, ask).await
    }

    async fn absorb(&self, ask: &Ask) -> Result<RequestId, Fault> {
        Sessions::absorb(self, ask).await.map(|target| target.id)
    }

    async fn resume(&self, id: RequestId, ask: &Ask) -> Result<Joined, Fault> {
        Sessions::resume(self, id, ask).await
    }

    async fn release(&self, id: RequestId, ask: &Ask) -> Result<(), Fault> {
        Sessions::release(self, id, ask).await
    }

    fn is_live_here(&self, id: RequestId, ask: &Ask) -> bool {
        Sessions::is_live_here(self, id, ask)
    }

    fn is_known_foreign(&self, id: RequestId, ask: &Ask) -> bool {
        Sessions::is_known_foreign(self, id, ask)
    }
}

impl Member for Joined {
    fn id(&self) -> RequestId {
        self.target().id
    }

    fn version(&self) -> VersionId {
        Joined::version(self)
    }

    async fn wire(&self, carries: Carries, deadline: Instant) -> Result<Wire, Fault> {
        Joined::wire(self, carries, deadline).await
    }

    fn closes_cleanly(&self) {
        Joined::closes_cleanly(self);
    }

    fn ended(&self) -> bool {
        Joined::ended(self)
    }
}
