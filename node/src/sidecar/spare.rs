//! Spare tunnels: dialed before any session wants them, so that an open or a resume costs no dial.
//!
//! Until a session adopts it, a spare leads to a node and not to the worker. Which session that is, is
//! said on it, and judged exactly as if it had come over a control stream: by slot and binding.

use super::dial::{self, Order, WITHIN};
use super::life::Life;
use crate::net::TcpStream;
use crate::tls::Stream;
use crate::tunnel::close::printable;
use crate::{clock, tasks};
use bytes::{Buf as _, BytesMut};
use pontoon_proto::id::RequestId;
use pontoon_proto::worker::{Adopted, OpenTunnel};
use prost::Message as _;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout_at;

/// How many may be open, for each that one node may have: nodes are two as a rule, and four while the
/// sidecar goes from one to another.
const NODES_MAX: u64 = 4;

/// The longest order, in bytes: ids, a ticket and numbers.
const ORDER_MAX: usize = 1024;

/// A node wants a spare tunnel.
///
/// # Errors
///
/// When there are enough.
pub(super) fn offer(life: &Arc<Life>, order: Order) -> Result<(), &'static str> {
    let most = u64::from(life.settings.spares) * NODES_MAX;
    if life.counters.spares_open.get() >= most {
        return Err("there are enough spare tunnels");
    }
    let life = Arc::clone(life);
    tasks::spawn(tasks::Kind::Worker, "sidecar-spare", async move {
        let over = life.over.clone();
        tokio::select! {
            () = over.cancelled() => {}
            ended = wait(&life, &order) => if let Err(cause) = ended {
                tracing::info!(cause, "a spare tunnel has ended");
            }
        }
    });
    Ok(())
}

/// Dials the node, waits for a session, and carries it.
async fn wait(life: &Arc<Life>, order: &Order) -> Result<(), String> {
    let spare = life.counters.spares_open.enter();
    let (mut node, mut read) = timeout_at(clock::now() + WITHIN, dial::dial_node(life, order))
        .await
        .map_err(|_| "no spare tunnel within 5 s".to_owned())??;
    let Some(open) = adopted(&mut node, &mut read).await? else {
        return Ok(());
    };
    drop(spare);
    let admitted = match open.ticket == order.ticket {
        true => life.addressed(&open).and_then(|id| life.admit(id, &open)),
        false => Err("the ticket is another tunnel's"),
    };
    let refused = match admitted {
        Ok(Some(admitted)) => {
            let session = (admitted.id, open.slot);
            return life.carry(admitted, join(life, session, node, read)).await;
        }
        Ok(None) => "the ticket is in use",
        Err(refused) => refused,
    };
    answer(&mut node, refused).await?;
    Err(refused.to_owned())
}

/// Reads which session it is for; `None` when the node closes it unused.
async fn adopted(node: &mut Stream, read: &mut BytesMut) -> Result<Option<OpenTunnel>, String> {
    loop {
        if let Some(length) = whole(read)? {
            let order = read.split_to(length);
            let open = OpenTunnel::decode_length_delimited(order.freeze());
            return open.map(Some).map_err(|error| error.to_string());
        }
        match node.read_buf(read).await {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(printable(&error.to_string())),
        }
    }
}

/// How long the first message is, with the length before it; `None` while a part of it is missing.
fn whole(read: &[u8]) -> Result<Option<usize>, String> {
    let mut rest = read;
    let length = match prost::decode_length_delimiter(&mut rest) {
        Ok(length) => length,
        // A length has at most 10 bytes.
        Err(_) if read.len() < 10 => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    if length > ORDER_MAX {
        return Err("the order on a spare tunnel is too long".to_owned());
    }
    let whole = read.len() - rest.remaining() + length;
    Ok((read.len() >= whole).then_some(whole))
}

/// Joins the spare to the worker.
async fn join(
    life: &Life,
    (id, slot): (RequestId, u32),
    mut node: Stream,
    ahead: BytesMut,
) -> Result<(Stream, TcpStream), String> {
    let mut worker = match dial::dial_worker(life).await {
        Ok(worker) => worker,
        Err(cause) => {
            answer(&mut node, &cause).await?;
            return Err(cause);
        }
    };
    if !life.offer(id, slot) {
        return Err("the session has ended".to_owned());
    }
    answer(&mut node, "").await?;
    let forwarded = worker.write_all(&ahead).await;
    forwarded.map_err(|error| printable(&error.to_string()))?;
    Ok((node, worker))
}

/// Answers; the text is cut so that the length is one byte.
async fn answer(node: &mut Stream, refused: &str) -> Result<(), String> {
    let adopted = Adopted {
        refused: refused.chars().filter(char::is_ascii).take(100).collect(),
    };
    let written = node
        .write_all(&adopted.encode_length_delimited_to_vec())
        .await;
    written.map_err(|error| printable(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Sidecar, WITHIN, Worker, attached_at, call, settings, start};
    use super::*;
    use crate::tunnel::tests::{Group, Node, until};
    use crate::tunnel::{Carries, LinkError};

    async fn shown(node: &Node, line: &str) {
        until(line, || node.shows(line).then_some(())).await;
    }

    /// Two slots, a node, and a sidecar that offers it two spare tunnels.
    async fn offered() -> (Arc<Group>, Node, Worker, Sidecar) {
        let group = Group::new(2);
        let node = Node::start(&group, 1).await;
        let worker = Worker::start("127.0.0.1:0").await;
        let mut settings = settings(&worker, &[&node]);
        settings.spares = 2;
        let sidecar = start(settings);
        attached_at(&group, 1).await;
        shown(&node, "pontoon_spare_tunnels 2").await;
        (group, node, worker, sidecar)
    }

    #[tokio::test]
    async fn an_open_takes_a_spare_tunnel_and_another_one_is_dialed() {
        let (group, node, _worker, _sidecar) = offered().await;
        for opened in 1..=2 {
            let target = group.open(node.at);
            let tunnel = node.tunnels.obtain(&target, Carries::Grpc, WITHIN).await;
            assert_eq!(call(&tunnel.unwrap(), "hello").await.unwrap(), "hello");
            let adopted = format!("pontoon_spare_tunnels_total{{result=\"adopted\"}} {opened}");
            assert!(node.shows(&adopted));
            shown(&node, "pontoon_spare_tunnels 2").await;
        }
    }

    #[tokio::test]
    async fn h_4_a_spare_tunnel_is_fenced_as_any_other() {
        let (group, node, _worker, _sidecar) = offered().await;
        let older = group.open(node.at);
        let tunnel = node.tunnels.obtain(&older, Carries::Grpc, WITHIN).await;
        let tunnel = tunnel.unwrap();
        let mut newer = older;
        newer.id = RequestId::mint(older.region, [1; 16]);
        newer.binding.index += 1;
        let next = node.tunnels.obtain(&newer, Carries::Grpc, WITHIN).await;
        assert_eq!(call(&next.unwrap(), "new").await.unwrap(), "new");
        until("the older tunnel is closed", || {
            (!tunnel.is_live()).then_some(())
        })
        .await;
        shown(&node, "pontoon_spare_tunnels 2").await;
        let again = node.tunnels.obtain(&older, Carries::Grpc, WITHIN).await;
        assert_eq!(again.err(), Some(LinkError::NoDial));
        assert!(node.shows("pontoon_spare_tunnels_total{result=\"refused\"} 1"));
    }

    #[tokio::test]
    async fn h_21_spare_tunnels_end_with_the_worker_that_they_were_dialed_for() {
        let (_group, node, worker, _sidecar) = offered().await;
        let address = worker.kill().await;
        shown(&node, "pontoon_spare_tunnels 0").await;
        let _again = Worker::start(&address).await;
        shown(&node, "pontoon_spare_tunnels 2").await;
    }

    #[test]
    fn an_order_is_taken_when_it_is_whole_and_never_when_it_is_too_long() {
        let order = OpenTunnel {
            ticket: "a ticket".repeat(40),
            slot: 7,
            ..OpenTunnel::default()
        };
        let bytes = order.encode_length_delimited_to_vec();
        for part in 0..bytes.len() {
            assert_eq!(whole(&bytes[..part]), Ok(None), "{part}");
        }
        let more = [&bytes[..], b"PRI * HTTP/2.0"].concat();
        assert_eq!(whole(&more), Ok(Some(bytes.len())));
        assert!(whole(&[0xff, 0x7f, 0]).is_err());
        assert!(whole(&[0xff; 10]).is_err());
    }
}
