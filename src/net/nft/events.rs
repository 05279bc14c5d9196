//! Tells that somebody has changed a table. What has changed is not looked at: whoever follows looks at the whole
//! anyway, and so nothing is lost when the kernel loses count.

#![allow(unsafe_code, reason = "tokio's AsyncFd::register wants the descriptor kept open")]

use std::{io, os::fd::OwnedFd};

use rustix::net::{RecvFlags, recv};
use tokio::io::unix::AsyncFd;

use super::{
    TableName, kernel,
    wire::{Received, messages},
};

/// NFNLGRP_NFTABLES, as a bit.
const GROUP: u32 = 1 << 6;

/// Changes as they happen.
pub struct Events(AsyncFd<OwnedFd>);

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Something in this table. It was made over the connection with this number ([`super::Kernel::port_id`]).
    Table { name: TableName, by: u32 },
    /// More than the kernel could tell.
    Anything,
}

impl Events {
    /// Follows from now on.
    ///
    /// # Errors
    /// Where the kernel has no nf_tables.
    pub fn open() -> io::Result<Self> {
        let (socket, _) = kernel::open(GROUP)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        // SAFETY: it owns the descriptor, which nobody closes or replaces meanwhile.
        Ok(Self(unsafe { AsyncFd::register(socket) }?))
    }

    /// Waits for changes; several that are there together come together, each table once.
    ///
    /// # Errors
    /// Of the kernel; that it lost count is none.
    pub async fn next(&self) -> io::Result<Vec<Change>> {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let mut guard = self.0.readable().await?;
            let received = guard.try_io(|socket| Ok(recv(socket, &mut buffer[..], RecvFlags::empty())?.0));
            let Ok(received) = received else { continue };
            let mut changes = Vec::new();
            match received {
                Ok(length) => {
                    for change in messages(&buffer[..length]).filter_map(|message| change(&message)) {
                        if !changes.contains(&change) {
                            changes.push(change);
                        }
                    }
                }
                Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error()) => {
                    changes.push(Change::Anything);
                }
                Err(error) => return Err(error),
            }
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }
}

/// All that is in a table begins with the table's name.
fn change(message: &Received) -> Option<Change> {
    let name = message.attributes().text(1).filter(|_| message.is_nftables() && !message.is(GENERATION))?;
    Some(Change::Table { name: TableName { family: message.family()?, name: name.to_owned() }, by: message.port })
}

/// Who made the changes before it; not one itself.
const GENERATION: u8 = 15;
