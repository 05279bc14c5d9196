//! Who holds the other end of a TCP connection of this host: asked of the kernel by its socket monitoring interface
//! (sock_diag(7)), one socket by its addresses, in the network namespace of the daemon. What an owner may do is not known
//! here.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType,
    netlink::{self, SocketAddrNetlink},
    recv, sendto, socket_with,
};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST: u16 = 1;
const ERROR: u16 = 2;
const TCP: u8 = 6;
/// Of a request: header, then `inet_diag_req_v2`.
const HEADER: usize = 16;
const REQUEST_LENGTH: usize = HEADER + 56;
/// Of an answer: header, then `inet_diag_msg`.
const ANSWER_LENGTH: usize = HEADER + 72;
const ESTABLISHED: u8 = 1;
const FIN_WAIT1: u8 = 4;
const FIN_WAIT2: u8 = 5;
const CLOSE_WAIT: u8 = 8;

/// A socket that a process has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Of the user who made it.
    pub uid: u32,
    pub inode: u64,
}

/// The owner of the socket that is at `theirs` and connected to `ours`. `None` where no process of this network namespace
/// has it open, which includes one that has closed it already: the kernel reports such a socket as root's.
///
/// # Errors
/// Of the kernel.
pub fn owner(theirs: SocketAddr, ours: SocketAddr) -> io::Result<Option<Owner>> {
    let (theirs, ours) = (canonical(theirs), canonical(ours));
    let Some(request) = request(theirs, ours) else { return Ok(None) };
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(netlink::SOCK_DIAG))?;
    sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0_u8; 4096];
    // The kernel answers before `sendto` returns.
    let (_, length) = recv(&socket, answer.as_mut_slice(), RecvFlags::DONTWAIT)?;
    read(answer.get(..length).unwrap_or_default(), &request)
}

/// A client by IPv4 of a listener for both has a mapped address on our side alone.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

fn request(theirs: SocketAddr, ours: SocketAddr) -> Option<[u8; REQUEST_LENGTH]> {
    let family = match (theirs.ip(), ours.ip()) {
        (IpAddr::V4(_), IpAddr::V4(_)) => AddressFamily::INET,
        (IpAddr::V6(_), IpAddr::V6(_)) => AddressFamily::INET6,
        _ => return None,
    };
    let mut out = Vec::with_capacity(REQUEST_LENGTH);
    out.extend((REQUEST_LENGTH as u32).to_ne_bytes());
    out.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    out.extend(REQUEST.to_ne_bytes());
    out.extend([0; 8]);
    out.extend([family.as_raw() as u8, TCP, 0, 0]);
    // States: of one socket all of them are reported.
    out.extend([0xff; 4]);
    out.extend(theirs.port().to_be_bytes());
    out.extend(ours.port().to_be_bytes());
    out.extend(octets(theirs.ip()));
    out.extend(octets(ours.ip()));
    // Any interface, any cookie.
    out.extend([0; 4]);
    out.extend([0xff; 8]);
    out.try_into().ok()
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V6(ip) => ip.octets(),
        IpAddr::V4(ip) => {
            let mut padded = [0; 16];
            padded[..4].copy_from_slice(&ip.octets());
            padded
        }
    }
}

fn read(answer: &[u8], request: &[u8]) -> io::Result<Option<Owner>> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer about a socket is malformed");
    let word = |at: usize| -> io::Result<u32> {
        let bytes = answer.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_ne_bytes).ok_or_else(malformed)
    };
    if word(4)? as u16 == ERROR {
        let errno = word(HEADER)?.cast_signed().saturating_neg();
        let error = io::Error::from_raw_os_error(errno);
        return if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) };
    }
    if answer.len() < ANSWER_LENGTH {
        return Err(malformed());
    }
    // With no such connection the kernel may answer with a socket that listens at `theirs`.
    let same_addresses = answer.get(HEADER + 4..HEADER + 40) == request.get(HEADER + 8..HEADER + 44);
    let state = answer.get(HEADER + 1).copied().unwrap_or_default();
    let open = [ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT].contains(&state);
    let owner = Owner { uid: word(HEADER + 64)?, inode: word(HEADER + 68)?.into() };
    Ok((same_addresses && open && owner.inode != 0).then_some(owner))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        net::{Ipv4Addr, TcpListener, TcpStream},
        os::fd::AsFd,
    };

    fn connected(to: &str) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind(to).unwrap();
        let port = listener.local_addr().unwrap().port();
        let to = if to.starts_with("[::1]") { "::1".parse().unwrap() } else { IpAddr::from(Ipv4Addr::LOCALHOST) };
        let client = TcpStream::connect((to, port)).unwrap();
        (client, listener.accept().unwrap().0)
    }

    #[test]
    fn the_other_end_of_a_connection_is_known_by_its_inode() {
        for to in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let (client, server) = connected(to);
            let found = owner(server.peer_addr().unwrap(), server.local_addr().unwrap()).unwrap();
            let inode = rustix::fs::fstat(client.as_fd()).unwrap().st_ino;
            let uid = rustix::process::geteuid().as_raw();
            assert_eq!(found, Some(Owner { uid, inode }), "{to}");
        }
    }

    #[test]
    fn a_socket_that_was_closed_is_nobodys() {
        let (client, server) = connected("127.0.0.1:0");
        let addresses = (server.peer_addr().unwrap(), server.local_addr().unwrap());
        // Sent and half closed is still open, sent and closed is not.
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(owner(addresses.0, addresses.1).unwrap().is_some());
        drop(client);
        assert_eq!(owner(addresses.0, addresses.1).unwrap(), None);
        // Nor is one that listens where the other end was.
        drop(server);
        let _listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = _listener.local_addr().unwrap();
        assert_eq!(owner(there, addresses.1).unwrap(), None);
        // Nor one of another host.
        assert_eq!(owner("192.0.2.1:1000".parse().unwrap(), addresses.1).unwrap(), None);
    }
}
