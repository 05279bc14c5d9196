//! Questions to the kernel and its answers. The kernel works on a request while it is being sent, for as long as that takes
//! (an interface that goes may be held by somebody), so each has a socket and a thread of its own: whoever is kept waiting
//! keeps nobody else waiting.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use rtnetlink::{
    packet_core::{NLM_F_ACK, NLM_F_DUMP_INTR, NLM_F_MULTIPART, NetlinkBuffer, NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, recv, send,
    socket_with,
};
use tokio::sync::Semaphore;

use crate::host::fail_point::step;

/// Requests that the kernel works on at once: more are not sent while all of these are kept waiting.
const AT_ONCE: usize = 64;
/// More than the kernel writes at once.
const BUFFER: usize = 64 << 10;

/// Cheap to share.
#[derive(Clone)]
pub struct Sockets {
    idle: Arc<Mutex<Vec<OwnedFd>>>,
    room: Arc<Semaphore>,
}

impl Sockets {
    /// Opens the first.
    ///
    /// # Errors
    /// Of the kernel.
    pub fn open() -> io::Result<Self> {
        let idle = Arc::new(Mutex::new(vec![open(0)?]));
        Ok(Self { idle, room: Arc::new(Semaphore::new(AT_ONCE)) })
    }

    /// # Errors
    /// What the kernel says; [`io::ErrorKind::Interrupted`] for a list that changed meanwhile.
    pub async fn ask(&self, mut request: NetlinkMessage<RouteNetlinkMessage>) -> io::Result<Vec<RouteNetlinkMessage>> {
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        let acknowledged = request.header.flags & NLM_F_ACK != 0;
        let room = self.room.clone().acquire_owned().await.map_err(io::Error::other)?;
        let idle = self.idle.clone();
        let exchange = move || {
            let _room = room;
            let socket = lock(&idle).pop();
            let socket = socket.map_or_else(|| open(0), Ok)?;
            send(&socket, &bytes, SendFlags::empty())?;
            // Read to its end, so that the next answer is another's.
            let answer = answer(&socket, acknowledged)?;
            lock(&idle).push(socket);
            answer
        };
        let exchange = move || if acknowledged { step(exchange) } else { exchange() };
        tokio::task::spawn_blocking(exchange).await.map_err(io::Error::other)?
    }
}

/// A socket that hears of these groups.
pub fn open(groups: u32) -> io::Result<OwnedFd> {
    // NETLINK_ROUTE is the first of the protocols.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// What the kernel says, or why it could not be heard.
fn answer(socket: &OwnedFd, acknowledged: bool) -> io::Result<io::Result<Vec<RouteNetlinkMessage>>> {
    let (mut found, mut interrupted) = (Vec::new(), false);
    let mut buffer = vec![0; BUFFER];
    loop {
        let (length, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Ok(header) = NetlinkBuffer::new_checked(rest) {
            let (length, flags) = (header.length() as usize, header.flags());
            // What the library cannot read is of no interest here.
            let payload = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map(|message| message.payload);
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            interrupted |= flags & NLM_F_DUMP_INTR != 0;
            let listed = |found| if interrupted { Err(io::ErrorKind::Interrupted.into()) } else { Ok(found) };
            match payload {
                Ok(NetlinkPayload::Error(error)) if error.code.is_some() => return Ok(Err(error.to_io())),
                Ok(NetlinkPayload::Done(done)) if done.code != 0 => {
                    return Ok(Err(io::Error::from_raw_os_error(done.code.abs())));
                }
                Ok(NetlinkPayload::Error(_) | NetlinkPayload::Done(_)) => return Ok(listed(found)),
                Ok(NetlinkPayload::InnerMessage(message)) => found.push(message),
                _ => {}
            }
            if !acknowledged && flags & NLM_F_MULTIPART == 0 {
                return Ok(Ok(found));
            }
        }
    }
}

// Every change under the lock is whole, so a panic leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
