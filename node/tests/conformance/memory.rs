//! C-LSN-2: memory stays flat, whatever the size of a body.

use crate::caller::h2;
use crate::support::cluster::Cluster;
use crate::target::{Checked, Target, Wire, run};
use crate::{ensure, same};
use bytes::Bytes;
use std::path::Path;
use std::time::Duration;

/// What a process may grow by while a body crosses: windows of 1 MiB, buffers of sockets, and what
/// the allocator keeps, with room.
const GROWS_MAX: u64 = 64 << 20;

/// A process's resident memory, in bytes (proc(5)).
fn resident(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(Path::new(&path)).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

/// The processes that carry: the nodes, and the sidecar of the suite's worker.
fn carriers(cluster: &Cluster) -> Vec<u32> {
    let nodes = cluster.ready().nodes.iter().map(|node| node.pid);
    let own = crate::support::process::descendants(std::process::id());
    let sidecars = own.into_iter().map(|life| life.pid).filter(|pid| {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.contains("sidecar") && command.contains("conformance")
    });
    nodes.chain(sidecars).collect()
}

async fn streamed(target: &Target, mib: u64, framed: bool, pids: &[u32]) -> Checked {
    let before: Vec<u64> = pids.iter().map(|pid| resident(*pid)).collect();
    let conn = h2::Conn::open(&target.address).await?;
    let call = target.ask("POST", "/endless").with("x-echo-digest", "1");
    let mut open = conn
        .begin(&if framed { call.grpc() } else { call }, false)
        .await?;
    if framed {
        // One gRPC message of this length.
        let mut prefix = vec![0];
        prefix.extend_from_slice(&((mib << 20) as u32).to_be_bytes());
        h2::send(&mut open.out, prefix).await.map_err(h2::said)?;
    }
    let piece = Bytes::from(vec![b'm'; 1 << 20]);
    let mut most = before.clone();
    for sent in 0..mib {
        h2::send(&mut open.out, piece.clone())
            .await
            .map_err(h2::said)?;
        if sent % 16 == 0 {
            for (most, pid) in most.iter_mut().zip(pids) {
                *most = (*most).max(resident(*pid));
            }
        }
    }
    open.out.send_data(Bytes::new(), true).map_err(h2::said)?;
    let seen = h2::receive(open.answer).await?.report()?;
    same!(
        seen.0["length"],
        (mib << 20) + if framed { 5 } else { 0 },
        "what arrived"
    );
    for ((pid, before), most) in pids.iter().zip(&before).zip(&most) {
        let grown = most.saturating_sub(*before);
        ensure!(
            grown < GROWS_MAX,
            "process {pid} grew by {} MiB",
            grown >> 20
        );
    }
    Ok(())
}

#[test]
fn c_lsn_2_memory_stays_flat_while_a_large_unary_and_an_endless_stream_cross() {
    let target = Target::shared(Wire::H2);
    let pids = target
        .world
        .own
        .as_ref()
        .map_or_else(Vec::new, |own| carriers(own.cluster));
    assert!(
        target.world.own.is_none() || pids.len() >= 4,
        "nodes and a sidecar: {pids:?}"
    );
    // 2 GiB take above 30 s on two busy cores; a quarter of it shows a leak as well.
    let full = std::env::var_os("PONTOON_FULL_SIZE").is_some();
    let mib = if full { 2048 } else { 512 };
    let crossed = run(within_bound(async {
        streamed(&target, 256, true, &pids).await?;
        streamed(&target, mib, false, &pids).await
    }));
    if let Err(wrong) = crossed {
        panic!("C-LSN-2: {wrong}");
    }
}

/// Above what 2 GiB take on a slow machine.
async fn within_bound(crossing: impl Future<Output = Checked>) -> Checked {
    let bound = Duration::from_secs(300);
    let crossed = tokio::time::timeout(bound, crossing).await;
    crossed.unwrap_or_else(|_| Err(format!("not across within {bound:?}")))
}
