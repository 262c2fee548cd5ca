//! Who has dialed: the process that owns the other end of a connection on this machine.
//!
//! The kernel names the inode of a socket by its two ends (sock_diag(7)), and the process that has the
//! inode among its descriptors is the dialer. This works without privileges for processes of one's own. A
//! dialer whose process has ended meanwhile is nobody, and so is its connection. `/proc/net/tcp` knows the
//! same, but costs 30 ms to read once ten thousand closed connections are remembered.

use super::Site;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use std::net::{IpAddr, SocketAddr};

/// The site among `processes` that dialed `to` from `from`.
pub(super) fn find(from: SocketAddr, to: SocketAddr, processes: &[(u32, Site)]) -> Option<Site> {
    let inode = inode(from, to)?;
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

/// SOCK_DIAG_BY_FAMILY, as a netlink message's type.
const BY_FAMILY: u16 = 20;

/// Where the inode is in the answer: behind the message's head (16), family, state, timer and retransmissions
/// (4), the socket's ends (48), expiry, both queues and the user (16).
const INODE_AT: std::ops::Range<usize> = 84..88;

/// Where the socket's state is, and the state of one that only listens: without a connection of these ends,
/// the kernel names the listener at the first of them.
const STATE_AT: usize = 17;
const LISTENS: u8 = 10;

/// The inode of the socket with these ends.
fn inode(from: SocketAddr, to: SocketAddr) -> Option<u64> {
    let kind = (SocketType::RAW, SocketFlags::CLOEXEC);
    let kernel = socket_with(
        AddressFamily::NETLINK,
        kind.0,
        kind.1,
        Some(netlink::SOCK_DIAG),
    );
    let kernel = kernel.ok()?;
    send(&kernel, &question(from, to)?, SendFlags::empty()).ok()?;
    let mut answer = [0; 512];
    let (length, _) = recv(&kernel, &mut answer[..], RecvFlags::empty()).ok()?;
    let answer = &answer[..length];
    let told = answer.get(4..6)? == BY_FAMILY.to_ne_bytes() && answer.get(STATE_AT)? != &LISTENS;
    let inode = u32::from_ne_bytes(answer.get(INODE_AT)?.try_into().ok()?);
    (told && inode != 0).then_some(u64::from(inode))
}

/// A netlink message with an `inet_diag_req_v2`: one TCP socket in any state, by its ends.
fn question(from: SocketAddr, to: SocketAddr) -> Option<Vec<u8>> {
    const LENGTH: u32 = 72;
    const REQUEST: u16 = 1;
    let mut message = Vec::with_capacity(LENGTH as usize);
    message.extend(LENGTH.to_ne_bytes());
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    // Sequence and port: nobody looks at them.
    message.extend([0; 8]);
    let (internet, tcp) = (2, 6);
    message.extend([internet, tcp, 0, 0]);
    let any_state = u32::MAX;
    message.extend(any_state.to_ne_bytes());
    message.extend(from.port().to_be_bytes());
    message.extend(to.port().to_be_bytes());
    for end in [from, to] {
        let IpAddr::V4(address) = end.ip() else {
            return None;
        };
        message.extend(address.octets());
        message.extend([0; 12]);
    }
    let any_interface = 0u32;
    message.extend(any_interface.to_ne_bytes());
    let no_cookie = [u32::MAX; 2];
    message.extend(no_cookie.iter().flat_map(|half| half.to_ne_bytes()));
    Some(message)
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
