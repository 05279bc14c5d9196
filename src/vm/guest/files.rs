//! Reads and writes a guest's files by its agent, a piece at a time: each is a turn of its own, so that a large file keeps the
//! agent from nobody. What is open in the guest is closed when nobody has it any more.

use std::sync::Arc;

use base64ct::{Base64, Encoding};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::{Channel, Guest, SOON, command_in};
use crate::model::{Error, Result};

/// Bytes that an agent is asked for at a time, and given at a time: some 100 ms of an emulated guest.
const PIECE: usize = 192 << 10;

/// How a file is opened to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// From its beginning; what it had is gone.
    Anew,
    /// Behind what it has.
    Append,
}

/// A file that is open in a guest.
pub struct GuestFile {
    guest: Guest,
    handle: i64,
    is_open: bool,
}

#[derive(Deserialize)]
struct Piece {
    #[serde(rename = "buf-b64", default)]
    data: String,
    count: i64,
}

#[derive(Deserialize)]
struct Written {
    count: i64,
}

impl Guest {
    /// Opens a file to be read from `offset` on.
    ///
    /// # Errors
    /// [`Error::GuestFileNotFound`], [`Error::GuestRefuses`], and as of any command.
    pub async fn open(&self, path: &str, offset: u64) -> Result<GuestFile> {
        let file = self.opened(path, "r").await?;
        if offset > 0 {
            let seek = json!({ "handle": file.handle, "offset": offset, "whence": "set" });
            file.guest.ask::<Value>("guest-file-seek", seek, SOON).await?;
        }
        Ok(file)
    }

    /// Opens a file to be written, and makes it where there is none.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn write(&self, path: &str, how: Write) -> Result<GuestFile> {
        let mode = match how {
            Write::Anew => "w",
            Write::Append => "a",
        };
        self.opened(path, mode).await
    }

    async fn opened(&self, path: &str, mode: &str) -> Result<GuestFile> {
        let opened = self.ask("guest-file-open", json!({ "path": path, "mode": mode }), SOON).await;
        let handle = opened.map_err(|error| match error {
            Error::GuestRefuses { why, .. } if why.contains("No such file or directory") => {
                Error::GuestFileNotFound { path: path.to_owned() }
            }
            error => error,
        })?;
        Ok(GuestFile { guest: Guest(Arc::clone(self.channel())), handle, is_open: true })
    }

    fn channel(&self) -> &Arc<Channel> {
        &self.0
    }
}

impl GuestFile {
    /// What comes next; nothing at the end of the file.
    ///
    /// # Errors
    /// As of any command.
    pub async fn read(&mut self) -> Result<Bytes> {
        const READ: &str = "guest-file-read";
        let piece: Piece = self.guest.ask(READ, json!({ "handle": self.handle, "count": PIECE }), SOON).await?;
        let odd = || Error::AgentFails { why: format!("its answer to {READ} is none") };
        let data = Base64::decode_vec(&piece.data).map_err(|_| odd())?;
        if data.len() > PIECE || usize::try_from(piece.count) != Ok(data.len()) {
            return Err(odd());
        }
        Ok(data.into())
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// As of any command; how much of it is written is not known then.
    pub async fn write(&mut self, data: &[u8]) -> Result<()> {
        const WRITE: &str = "guest-file-write";
        for mut rest in data.chunks(PIECE) {
            while !rest.is_empty() {
                let buffer = Base64::encode_string(rest);
                let write = json!({ "handle": self.handle, "buf-b64": buffer });
                let Written { count } = self.guest.ask(WRITE, write, SOON).await?;
                let count = usize::try_from(count).ok().filter(|count| (1..=rest.len()).contains(count));
                let Some(count) = count else {
                    return Err(Error::AgentFails { why: format!("its answer to {WRITE} is none") });
                };
                rest = &rest[count..];
            }
        }
        Ok(())
    }

    /// What was written is in the file.
    ///
    /// # Errors
    /// As of any command.
    pub async fn close(mut self) -> Result<()> {
        self.is_open = false;
        let mut turn = self.guest.turn(SOON).await?;
        command_in::<Value>(&mut turn, "guest-file-flush", json!({ "handle": self.handle })).await?;
        command_in::<Value>(&mut turn, "guest-file-close", json!({ "handle": self.handle })).await.map(drop)
    }
}

impl Drop for GuestFile {
    fn drop(&mut self) {
        let (true, Ok(runtime)) = (self.is_open, Handle::try_current()) else { return };
        let (guest, handle) = (Guest(self.guest.channel().clone()), self.handle);
        runtime.spawn(async move {
            if let Err(error) = guest.ask::<Value>("guest-file-close", json!({ "handle": handle }), SOON).await {
                tracing::debug!(%error, "a file in a guest stays open");
            }
        });
    }
}
