//! Ports that are free: looked for before anything is started.
//!
//! Free ports are drawn from below the range that the kernel takes ephemeral ports from, so that no
//! outgoing connection of anybody takes one between this check and the process that binds it.

use super::Error;
use super::plan::{self, DEFAULT_PORTS, Node, Ports, Size, Worker};
use super::saved::Saved;
use crate::{net, random};
use std::collections::BTreeSet;

/// Free ports are drawn from here: above the well-known ones and those of common services, below
/// Linux's ephemeral range, which begins at 32,768.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// How often a free port is looked for; with a range half full, 64 draws fail once in 2^64.
const DRAWS_MAX: u32 = 64;

/// Chooses every listener: the first node's are the well-known ones unless `auto`, the others are
/// those of the last start where they are still free.
pub(super) async fn choose(
    size: Size,
    auto: bool,
    saved: &Saved,
) -> Result<(Vec<Node>, Vec<Worker>), Error> {
    let mut taken = BTreeSet::new();
    let kept = saved.nodes.values().flat_map(|ports| ports.all());
    let kept: BTreeSet<u16> = kept.map(|(_, port)| port).collect();
    let mut nodes = Vec::new();
    for (index, (name, region)) in plan::node_names(size).into_iter().enumerate() {
        let wanted = match saved.nodes.get(&name) {
            Some(ports) => Some(*ports),
            None if index == 0 && !auto => Some(DEFAULT_PORTS),
            None => None,
        };
        let listen = match wanted {
            Some(mut ports) => match check(&name, ports, &taken).await {
                Ok(()) => {
                    // What an older folder has none of.
                    for port in [&mut ports.client_tls, &mut ports.dns] {
                        if *port == 0 {
                            *port = draw(&taken.union(&kept).copied().collect()).await?;
                            taken.insert(*port);
                        }
                    }
                    ports
                }
                Err(error) if ports == DEFAULT_PORTS && !auto => return Err(error),
                Err(_) => draw_all(&mut taken).await?,
            },
            None => draw_all(&mut taken).await?,
        };
        taken.extend(listen.all().map(|(_, port)| port));
        nodes.push(Node {
            name,
            region,
            listen,
        });
    }
    let mut workers = Vec::new();
    for (name, region) in plan::worker_names(size) {
        let port = match saved.workers.get(&name) {
            Some(port) if !taken.contains(port) && is_free(&name, *port).await.is_ok() => *port,
            _ => draw(&taken).await?,
        };
        taken.insert(port);
        workers.push(Worker {
            sidecar: plan::sidecar_name(&name),
            name,
            region,
            address: plan::local(port),
        });
    }
    Ok((nodes, workers))
}

async fn check(name: &str, ports: Ports, taken: &BTreeSet<u16>) -> Result<(), Error> {
    for (what, port) in ports.all() {
        if taken.contains(&port) {
            return Err(Error::new(format!("port {port} is wanted twice")));
        }
        is_free(&format!("{what} of {name}"), port).await?;
    }
    Ok(())
}

/// Whether nobody has a port, by TCP or UDP.
async fn is_free(what: &str, port: u16) -> Result<(), Error> {
    let address = plan::local(port).to_string();
    let free = async {
        drop(net::listen(what, &address).await?);
        net::receive(what, &address).await
    };
    match free.await {
        Ok(_free) => Ok(()),
        Err(error) => Err(Error::new(format!(
            "{error} (`pontoon dev --ports auto` takes free ones; another `pontoon dev` may be running)"
        ))),
    }
}

async fn draw_all(taken: &mut BTreeSet<u16>) -> Result<Ports, Error> {
    let mut drawn = Vec::new();
    for _ in DEFAULT_PORTS.all() {
        let port = draw(taken).await?;
        taken.insert(port);
        drawn.push(port);
    }
    let mut drawn = drawn.into_iter();
    Ports::take(|| drawn.next().ok_or_else(|| Error::new("no free port")))
}

async fn draw(taken: &BTreeSet<u16>) -> Result<u16, Error> {
    for _ in 0..DRAWS_MAX {
        let offset = u16::from_le_bytes(random::bytes()) % (RANGE.end - RANGE.start);
        let port = RANGE.start + offset;
        if !taken.contains(&port) && is_free("a test", port).await.is_ok() {
            return Ok(port);
        }
    }
    Err(Error::new(format!(
        "no free port between {} and {} on 127.0.0.1",
        RANGE.start, RANGE.end
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: Size = Size {
        nodes_per_region: 1,
        workers_per_region: 2,
        slots: 1,
    };

    #[tokio::test]
    async fn all_ports_are_different_and_the_same_at_the_next_start() {
        let mut saved = Saved::new(SIZE);
        let (nodes, workers) = choose(SIZE, true, &saved).await.unwrap();
        let mut ports: BTreeSet<_> = nodes
            .iter()
            .flat_map(|node| node.listen.all())
            .map(|(_, port)| port)
            .collect();
        ports.extend(workers.iter().map(|worker| worker.address.port()));
        assert_eq!(ports.len(), 3 * 7 + 6);
        saved.remember_ports(&nodes, &workers);
        assert_eq!(choose(SIZE, true, &saved).await.unwrap(), (nodes, workers));
    }

    #[tokio::test]
    async fn a_port_of_the_last_start_that_is_taken_now_is_replaced() {
        let mut saved = Saved::new(SIZE);
        let (nodes, workers) = choose(SIZE, true, &saved).await.unwrap();
        saved.remember_ports(&nodes, &workers);
        let ops = plan::local(nodes[1].listen.ops).to_string();
        let _taken = net::listen("a test", &ops).await.unwrap();
        let (again, _) = choose(SIZE, true, &saved).await.unwrap();
        assert_eq!(again[0], nodes[0]);
        assert_ne!(again[1].listen.ops, nodes[1].listen.ops);
    }

    #[tokio::test]
    async fn a_folder_from_before_a_listener_gets_a_port_for_it_and_keeps_the_others() {
        let mut saved = Saved::new(SIZE);
        let (nodes, workers) = choose(SIZE, true, &saved).await.unwrap();
        saved.remember_ports(&nodes, &workers);
        for ports in saved.nodes.values_mut() {
            (ports.client_tls, ports.dns) = (0, 0);
        }
        let (again, _) = choose(SIZE, true, &saved).await.unwrap();
        let mut all = BTreeSet::new();
        for (node, before) in again.iter().zip(&nodes) {
            let (new, old) = (node.listen, before.listen);
            assert_eq!((new.client, new.ops), (old.client, old.ops));
            all.extend(new.all().map(|(_, port)| port));
        }
        assert_eq!(all.len(), 3 * 7);
        assert!(!all.contains(&0));
    }

    #[tokio::test]
    async fn a_taken_port_is_named_with_what_wants_it_and_what_to_do() {
        let listener = net::listen("a test", "127.0.0.1:0").await.unwrap();
        let ports = Ports {
            admin: listener.local_addr().unwrap().port(),
            ..Ports::take(|| Ok::<_, ()>(0)).unwrap()
        };
        let error = check("us-east-1", ports, &BTreeSet::new())
            .await
            .unwrap_err()
            .to_string();
        for text in [
            &format!(":{}", ports.admin),
            "the admin API of us-east-1",
            "--ports auto",
        ] {
            assert!(error.contains(text), "{error}");
        }
    }
}
