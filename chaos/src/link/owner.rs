//! Who has dialed: the process that owns the other end of a connection on this machine.
//!
//! `/proc/net/tcp` names the inode of a socket by its two ports, and the process that has the inode
//! among its descriptors is the dialer. This works without privileges for processes of one's own. A
//! dialer whose process has ended meanwhile is nobody, and so is its connection.

use super::Site;
use std::net::SocketAddr;

/// The site among `processes` that dialed `to` from `from`.
pub(super) fn find(from: SocketAddr, to: SocketAddr, processes: &[(u32, Site)]) -> Option<Site> {
    let inode = inode(&std::fs::read_to_string("/proc/net/tcp").ok()?, from, to)?;
    let wanted = format!("socket:[{inode}]");
    let owns = |pid: u32| {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        let mut links = entries
            .flatten()
            .filter_map(|entry| entry.path().read_link().ok());
        links.any(|link| link.as_os_str() == wanted.as_str())
    };
    let found = processes.iter().find(|(pid, _)| owns(*pid));
    found.map(|(_, site)| *site)
}

/// The inode of the socket with these ends (proc(5): the local and the other address are the second
/// and third field, the inode is the tenth; ports are in hex).
fn inode(table: &str, from: SocketAddr, to: SocketAddr) -> Option<u64> {
    let (from, to) = (
        format!(":{:04X}", from.port()),
        format!(":{:04X}", to.port()),
    );
    let mut lines = table.lines().skip(1);
    lines.find_map(|line| {
        let mut fields = line.split_whitespace();
        let ends = (fields.nth(1)?, fields.next()?);
        if !ends.0.ends_with(&from) || !ends.1.ends_with(&to) {
            return None;
        }
        fields.nth(6)?.parse().ok().filter(|inode| *inode != 0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dialer_of_a_connection_is_found_by_its_process() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (from, to) = (near.local_addr().unwrap(), near.peer_addr().unwrap());
        let own = std::process::id();
        assert_eq!(
            find(from, to, &[(1, Site::Node(9)), (own, Site::Sidecar(2))]),
            Some(Site::Sidecar(2))
        );
        assert_eq!(find(to, to, &[(own, Site::Node(1))]), None);
    }
}
