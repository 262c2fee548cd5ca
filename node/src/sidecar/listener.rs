//! Whether a local worker's listening socket is still the same one.
//!
//! A restarted worker listens on a new socket, and its memory is empty: resuming into it would break
//! C-RSM-7. The kernel lists listening sockets with their inodes, which are never given out twice in
//! a row, so a new inode tells a restart even when it took less time than any check.

use std::collections::BTreeSet;
use std::net::IpAddr;

/// Where the kernel lists TCP sockets (proc(5)).
const TABLES: [&str; 2] = ["/proc/net/tcp", "/proc/net/tcp6"];

/// The state "listening" in these tables.
const LISTEN: &str = "0A";

/// The inodes of the sockets that listen on this address's port; `None` when the worker is not on
/// this machine, or the tables can't be read.
pub(super) fn inodes(address: &str) -> Option<BTreeSet<u64>> {
    let (host, port) = address.rsplit_once(':')?;
    let port: u16 = port.parse().ok()?;
    if !is_local(host) {
        return None;
    }
    let tables = TABLES.map(|path| std::fs::read_to_string(path).ok());
    let listening = tables.iter().flatten().flat_map(|table| parse(table, port));
    let inodes: BTreeSet<u64> = listening.collect();
    (!inodes.is_empty()).then_some(inodes)
}

/// Whether a host is this machine for sure, without asking a name server.
fn is_local(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let ip = host.parse::<IpAddr>();
    host == "localhost" || ip.is_ok_and(|ip| ip.is_loopback())
}

/// The inodes of a table's lines that listen on this port.
fn parse(table: &str, port: u16) -> Vec<u64> {
    let wanted = format!(":{port:04X}");
    let listening = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let listens = fields.get(1)?.ends_with(&wanted) && *fields.get(3)? == LISTEN;
        listens.then(|| fields.get(9)?.parse().ok()).flatten()
    };
    table.lines().skip(1).filter_map(listening).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F41 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1
   1: 0100007F:1F41 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1
   2: 00000000:1F42 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1
";

    #[test]
    fn listening_sockets_are_found_by_port() {
        assert_eq!(parse(TABLE, 0x1f41), vec![4711]);
        assert_eq!(parse(TABLE, 0x1f42), vec![4713]);
        assert!(parse(TABLE, 80).is_empty());
        assert!(parse("", 80).is_empty());
    }

    #[test]
    fn a_new_listener_on_the_same_port_is_another_one() {
        let listen = |address: &str| std::net::TcpListener::bind(address).unwrap();
        let first = listen("127.0.0.1:0");
        let address = first.local_addr().unwrap().to_string();
        let before = inodes(&address).unwrap();
        drop(first);
        assert_eq!(inodes(&address), None);
        let _second = listen(&address);
        assert!(inodes(&address).unwrap().is_disjoint(&before));
    }

    #[test]
    fn of_a_remote_worker_nothing_is_known() {
        assert_eq!(inodes("192.0.2.1:80"), None);
        assert_eq!(inodes("nonsense"), None);
    }
}
