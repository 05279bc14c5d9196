//! Taps: network devices whose other end is a file descriptor, which QEMU gets. They are not persistent: a tap goes with
//! the last process that holds it.

#![allow(unsafe_code, reason = "the ioctl that makes a tap takes a pointer")]
#![allow(clippy::disallowed_methods, reason = "files of the kernel, which answers at once")]

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
};

use nix::libc::{self, IFF_MULTI_QUEUE, IFF_NO_PI, IFF_TAP, IFF_TUN_EXCL, IFF_VNET_HDR};

use crate::host::fail_point::step;

nix::ioctl_write_int!(tun_set_iff, b'T', 202);

/// Makes a tap with as many queues, each a descriptor. It must not be there yet: a queue more of one with several, whosever
/// it is, would be given frames that are meant for its guest.
pub fn create(name: &str, queues: u8) -> io::Result<Vec<OwnedFd>> {
    let multi = if queues > 1 { IFF_MULTI_QUEUE } else { 0 };
    let first = |queue| if queue == 0 { IFF_TUN_EXCL } else { 0 };
    (0..queues.max(1)).map(|queue| attach(name, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | multi | first(queue))).collect()
}

fn attach(name: &str, flags: i32) -> io::Result<OwnedFd> {
    let file = File::options().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: an all-zero ifreq is a valid one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::other("its name is too long"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF takes a pointer to an ifreq, which lives until the call returns. The kernel defines it as a
    // request with an int, hence the macro.
    step(|| unsafe { tun_set_iff(file.as_raw_fd(), &raw const request as libc::c_ulong) })?;
    Ok(file.into())
}
