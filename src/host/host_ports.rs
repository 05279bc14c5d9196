//! Ports of the host that are to lead into a guest.

use std::{
    io,
    net::{SocketAddrV4, TcpListener, UdpSocket},
};

use crate::model::Protocol;

/// Whether somebody can listen there right now.
///
/// # Errors
/// Why not: it is in use, needs a privilege, or the address is none of this host's.
pub fn check(protocol: Protocol, address: SocketAddrV4) -> io::Result<()> {
    match protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
    }
}
