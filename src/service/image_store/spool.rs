//! Receives an upload: to a file that is nobody's yet, with its sum, within what is free, holding a few pieces of it at a
//! time. What it is, `import` looks at.

use std::{
    fs::File,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tokio::{sync::mpsc, task::spawn_blocking, time::timeout};

use super::work::{Part, SPARE, Unfinished};
use crate::{
    host::{free_space, image::hexadecimal},
    model::{Error, Operation},
    service::Service,
};

/// Pieces between the network and the disk.
const PIECES: usize = 8;
/// Bytes after which it is looked how much is free.
const LOOK: u64 = 16 << 20;
/// What the disk may take over one piece.
const STALL: Duration = Duration::from_secs(60);

/// What was received.
#[derive(Debug)]
pub struct Spooled {
    pub(super) file: File,
    pub(super) unfinished: Unfinished,
    pub(super) sha256: String,
}

/// Why nothing was.
#[derive(Debug)]
pub enum SpoolError<E> {
    /// It was cut.
    Stream(E),
    Domain(Error),
}

impl Service {
    /// # Errors
    /// What the stream ends with; [`Error::NoRoom`], before anything is read where `declared` says how long it is.
    pub async fn spool<E>(
        &self,
        declared: Option<u64>,
        mut stream: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Spooled, SpoolError<E>> {
        let folder = &self.image_store.folder;
        let free = self.free().await.map_err(SpoolError::Domain)?;
        let no_room = |what: String| SpoolError::Domain(Error::NoRoom { what, free, place: folder.clone() });
        if let Some(needed) = declared.filter(|needed| *needed > free) {
            return Err(no_room(format!("the upload, which has {needed} bytes")));
        }
        let failed = |error: io::Error| SpoolError::Domain(Error::failed(Operation::Import, error));
        let unfinished = Unfinished::new(folder, Part::Upload);
        let file = unfinished.make().await.map_err(failed)?;
        let (pieces, received) = mpsc::channel(PIECES);
        let writing = file.try_clone().map_err(failed)?;
        let at = folder.clone();
        let written = spawn_blocking(move || write(writing, received, &at));
        let late = || failed(io::Error::new(io::ErrorKind::TimedOut, "the storage has not answered for 60 s"));
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(SpoolError::Stream)?;
            // One that has gone says why below.
            if timeout(STALL, pieces.send(piece)).await.map_err(|_| late())?.is_err() {
                break;
            }
        }
        drop(pieces);
        let written =
            timeout(STALL, written).await.map_err(|_| late())?.map_err(|error| failed(io::Error::other(error)))?;
        let sha256 = written.map_err(|error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                no_room("the upload, which has more".to_owned())
            }
            _ => failed(error),
        })?;
        Ok(Spooled { file, unfinished, sha256 })
    }
}

fn write(mut file: File, mut received: mpsc::Receiver<Bytes>, at: &Path) -> io::Result<String> {
    let (mut sum, mut since) = (Sha256::new(), 0);
    while let Some(piece) = received.blocking_recv() {
        sum.update(&piece);
        file.write_all(&piece)?;
        since += piece.len() as u64;
        if since >= LOOK {
            since = 0;
            if free_space(at)? < SPARE {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
    }
    Ok(hexadecimal(&sum.finalize()))
}
