//! What the kernel tells by itself of the host's network.

use std::io;

use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};

/// Groups (linux/rtnetlink.h): links, queues, addresses and routes of both families, and what sysctls say of both.
const GROUPS: [u32; 8] = [1, 4, 5, 7, 9, 11, 24, 25];

/// Events of all kinds. Their content is not looked at: whoever follows them looks at the whole anyway, and
/// so an overrun loses nothing.
pub struct Events(TokioSocket);

impl Events {
    pub fn open() -> io::Result<Self> {
        let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
        socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
        for group in GROUPS {
            socket.socket_mut().add_membership(group)?;
        }
        Ok(Self(socket))
    }

    /// Returns when something has happened, also when so much happened that the kernel lost count.
    pub async fn next(&self) -> io::Result<()> {
        let mut buffer = Vec::with_capacity(64 << 10);
        match self.0.recv(&mut buffer).await {
            Err(error) if error.raw_os_error() != Some(nix::libc::ENOBUFS) => Err(error),
            _ => Ok(()),
        }
    }
}
