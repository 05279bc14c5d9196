//! Ports of the host that are to lead into a guest.

use std::{
    io,
    net::{SocketAddrV4, TcpListener, UdpSocket},
};

use crate::model::{Forward, Protocol};

/// Whether somebody can listen there right now.
///
/// # Errors
/// Why not: it is in use, needs a privilege, or the address is none of this host's.
pub fn check(forward: &Forward) -> io::Result<()> {
    let address = SocketAddrV4::new(forward.host_address, forward.host_port);
    match forward.protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    }
}
