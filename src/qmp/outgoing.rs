//! What waits to be written to a monitor: bytes, and the descriptors that go with some of them.
//!
//! QEMU keeps the descriptors of one message until a `getfd` takes them, and forgets them when others
//! arrive before that; that there is one such command at a time is the driver's care.

use bytes::{Buf, BytesMut};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::Interest;
use tokio::net::UnixStream;

#[derive(Default)]
pub(super) struct Outgoing {
    bytes: BytesMut,
    /// Each goes with the byte at its place, counted from the first one that is still to be written.
    descriptors: VecDeque<(usize, OwnedFd)>,
}

impl Outgoing {
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub fn clear(&mut self) {
        self.bytes.clear();
        self.descriptors.clear();
    }

    /// Adds a message, whose first byte takes `descriptor` along.
    pub fn push(&mut self, message: &[u8], descriptor: Option<OwnedFd>) {
        self.descriptors.extend(descriptor.map(|descriptor| (self.bytes.len(), descriptor)));
        self.bytes.extend_from_slice(message);
    }

    /// Writes what the socket takes of it. Cancellation-safe.
    pub async fn write_to(&mut self, socket: &UnixStream) -> io::Result<()> {
        let written = socket.async_io(Interest::WRITABLE, || self.write(socket)).await?;
        self.bytes.advance(written);
        for (place, _) in &mut self.descriptors {
            *place -= written;
        }
        if self.bytes.is_empty() {
            // Otherwise the room that one long message needed would be kept for ever.
            self.bytes = BytesMut::new();
        }
        Ok(())
    }

    /// One `sendmsg`, up to the next descriptor.
    fn write(&mut self, socket: &UnixStream) -> io::Result<usize> {
        let now = self.descriptors.front().filter(|(place, _)| *place == 0).map(|(_, descriptor)| descriptor.as_fd());
        let next = self.descriptors.iter().map(|(place, _)| *place).find(|place| *place > 0);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let rights = now.as_ref().map(std::slice::from_ref);
        if let Some(rights) = rights {
            control.push(SendAncillaryMessage::ScmRights(rights));
        }
        let piece = IoSlice::new(&self.bytes[..next.unwrap_or(self.bytes.len())]);
        let written = sendmsg(socket, &[piece], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        if rights.is_some() && written > 0 {
            // The kernel has its own reference now.
            self.descriptors.pop_front();
        }
        Ok(written)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    use std::io::{IoSliceMut, Read, Write};

    /// What one `recvmsg` gives: bytes, and what stands in the files that came with them.
    fn receive(socket: &std::os::unix::net::UnixStream) -> (Vec<u8>, Vec<String>) {
        let mut bytes = vec![0; 1 << 20];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let got = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::empty()).unwrap().bytes;
        bytes.truncate(got);
        let mut files = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                files.extend(rights.map(|right| {
                    let mut text = String::new();
                    std::fs::File::from(right).read_to_string(&mut text).unwrap();
                    text
                }));
            }
        }
        (bytes, files)
    }

    fn pipe_with(text: &str) -> OwnedFd {
        let (read, write) = rustix::pipe::pipe().unwrap();
        std::fs::File::from(write).write_all(text.as_bytes()).unwrap();
        read
    }

    #[tokio::test]
    async fn a_descriptor_goes_with_the_first_byte_of_its_message() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let socket = UnixStream::from_std(ours).unwrap();
        let mut outgoing = Outgoing::default();
        outgoing.push(b"plain\n", None);
        outgoing.push(b"first\n", Some(pipe_with("1")));
        outgoing.push(b"second\n", Some(pipe_with("2")));
        outgoing.push(b"rest\n", None);
        for wanted in [("plain\n", vec![]), ("first\n", vec!["1"]), ("second\nrest\n", vec!["2"])] {
            outgoing.write_to(&socket).await.unwrap();
            let (bytes, files) = receive(&theirs);
            assert_eq!(
                (std::str::from_utf8(&bytes).unwrap(), files),
                (wanted.0, wanted.1.iter().map(|t| t.to_string()).collect())
            );
        }
        assert!(outgoing.is_empty() && outgoing.descriptors.is_empty());
    }

    #[tokio::test]
    async fn a_message_in_pieces_takes_its_descriptor_once() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&ours, 4096).unwrap();
        let socket = UnixStream::from_std(ours).unwrap();
        let mut outgoing = Outgoing::default();
        let long = vec![b'x'; 256 << 10];
        outgoing.push(&long, Some(pipe_with("only")));
        let reader = std::thread::spawn(move || {
            let (mut total, mut files) = (0, Vec::new());
            while total < 256 << 10 {
                let (bytes, got) = receive(&theirs);
                total += bytes.len();
                files.extend(got);
            }
            files
        });
        while !outgoing.is_empty() {
            outgoing.write_to(&socket).await.unwrap();
        }
        assert_eq!(reader.join().unwrap(), ["only"]);
    }
}
