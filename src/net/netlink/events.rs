//! Where on the host's network the kernel says by itself that something has happened.

#![expect(unsafe_code, reason = "tokio's AsyncFd::register wants the descriptor kept open")]

use std::{collections::BTreeSet, io, os::fd::OwnedFd};

use rustix::net::{RecvFlags, recv};
use tokio::io::unix::AsyncFd;

use super::sockets;

/// Groups (linux/rtnetlink.h): links, queues, addresses and routes of both families.
const GROUPS: [u32; 6] = [1, 4, 5, 7, 9, 11];
/// Messages about an interface: that it is there, or is gone; its addresses; its queues (linux/rtnetlink.h).
const LINK: [u16; 2] = [16, 17];
const ADDRESS: [u16; 2] = [20, 21];
const QUEUE: [u16; 2] = [36, 37];
/// Of which routes there are, nobody keeps a list: whoever wants to know reads them.
const ROUTE: [u16; 2] = [24, 25];
/// Where all of these say which interface they are about, behind the header.
const INDEX: std::ops::Range<usize> = 20..24;
/// Whoever has heard of more interfaces looks at all of them.
const FEW: usize = 16;

/// Events of all kinds. They say where to look, and nothing of what is to be seen there: so none is missed, whichever
/// came before it.
pub struct Events(AsyncFd<OwnedFd>);

/// Where something has happened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct News {
    /// By their indices.
    pub links: BTreeSet<u32>,
    /// Somebody's addresses.
    pub addresses: bool,
    /// Anywhere.
    pub all: bool,
}

impl News {
    /// Of everything.
    pub fn everything() -> Self {
        Self { all: true, ..Self::default() }
    }

    fn hear(&mut self, message: &[u8]) {
        let kind = message.get(4..6).and_then(|kind| kind.try_into().ok()).map(u16::from_ne_bytes);
        let index = message.get(INDEX).and_then(|index| index.try_into().ok()).map(u32::from_ne_bytes);
        match (kind, index) {
            (Some(kind), Some(index)) if LINK.contains(&kind) || QUEUE.contains(&kind) => _ = self.links.insert(index),
            (Some(kind), _) if ADDRESS.contains(&kind) => self.addresses = true,
            (Some(kind), _) if ROUTE.contains(&kind) => {}
            _ => self.all = true,
        }
        self.all |= self.links.len() > FEW;
    }
}

impl Events {
    pub fn open() -> io::Result<Self> {
        let socket = sockets::open(GROUPS.iter().fold(0, |groups, group| groups | 1 << (group - 1)))?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        // SAFETY: it owns the descriptor, which nobody closes or replaces meanwhile.
        Ok(Self(unsafe { AsyncFd::register(socket) }?))
    }

    /// Returns when something has happened; where so much happened that the kernel lost count, that is anywhere.
    pub async fn next(&self) -> io::Result<News> {
        loop {
            let mut guard = self.0.readable().await?;
            let mut news = News::default();
            match guard.try_io(|socket| hear(socket, &mut news)) {
                Ok(reported) => return reported.map(|()| news),
                Err(_not_yet) => {}
            }
        }
    }

    /// Adds what has happened up to now.
    pub fn add_to(&self, news: &mut News) {
        match hear(&self.0, news) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => news.all = true,
            _ => {}
        }
    }
}

/// Takes all that is there. An error where that is nothing.
fn hear(socket: &AsyncFd<OwnedFd>, news: &mut News) -> io::Result<()> {
    let mut reported = Err(io::ErrorKind::WouldBlock.into());
    // Whatever of a message does not fit in is left out.
    let mut beginning = [0; INDEX.end];
    loop {
        match recv(socket.get_ref(), &mut beginning[..], RecvFlags::empty()) {
            Ok((length, _)) => {
                news.hear(&beginning[..length]);
                reported = Ok(());
            }
            Err(rustix::io::Errno::NOBUFS) => {
                news.all = true;
                reported = Ok(());
            }
            Err(rustix::io::Errno::AGAIN) => return reported,
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, index: u32) -> Vec<u8> {
        [&[0; 4][..], &kind.to_ne_bytes(), &[0; 10], &[0; 4], &index.to_ne_bytes()].concat()
    }

    #[test]
    fn an_event_says_where_to_look_and_one_that_does_not_anywhere() {
        let mut news = News::default();
        for (kind, index) in [(16, 7), (17, 300), (36, 7), (20, 9), (24, 5)] {
            news.hear(&message(kind, index));
        }
        assert_eq!(news, News { links: [7, 300].into(), addresses: true, all: false });
        for odd in [message(28, 7), message(16, 7)[..18].to_vec(), Vec::new()] {
            let mut news = News::default();
            news.hear(&odd);
            assert_eq!(news, News::everything());
        }
        let mut many = News::default();
        (1..=FEW as u32 + 1).for_each(|index| many.hear(&message(16, index)));
        assert!(many.all);
    }
}
