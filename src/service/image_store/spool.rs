//! Receives a file piece by piece, holding a few pieces of it at a time: to a file that is nobody's yet, within what is free,
//! with the sum of what is there. What was cut off can go on there. What it is, `import` looks at.

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use tokio::{sync::mpsc, task::spawn_blocking, time::timeout};

use super::work::{Part, SPARE, Unfinished};
use crate::{
    host::{
        STORAGE, free_space,
        image::{Copied, hexadecimal},
        on_storage,
    },
    model::{Error, Operation, Result},
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

/// A file of which a part is there.
#[derive(Debug)]
pub(super) struct Partial {
    part: Written,
    unfinished: Unfinished,
    /// Where the files of layers are.
    folder: PathBuf,
}

#[derive(Debug)]
struct Written {
    file: File,
    /// Of what is there.
    sum: Sha256,
    length: u64,
}

impl Service {
    /// # Errors
    /// What the stream ends with; [`Error::NoRoom`], before anything is read where `declared` says how long it is.
    pub async fn spool<E>(
        &self,
        declared: Option<u64>,
        stream: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<Spooled, SpoolError<E>> {
        self.check_room_for("the upload", declared).await.map_err(SpoolError::Domain)?;
        let partial = Partial::begin(&self.image_store.folder).await.map_err(SpoolError::Domain)?;
        let (partial, cut) = partial.append(stream, &Arc::default()).await.map_err(SpoolError::Domain)?;
        cut.map_or_else(|| Ok(partial.whole()), |cut| Err(SpoolError::Stream(cut)))
    }

    /// # Errors
    /// [`Error::NoRoom`].
    pub(super) async fn check_room_for(&self, what: &str, bytes: Option<u64>) -> Result<()> {
        let Some(needed) = bytes else { return Ok(()) };
        match self.free().await? {
            free if needed > free => {
                let what = format!("{what}, of which {needed} bytes are to come");
                Err(Error::NoRoom { what, free, place: self.image_store.folder.clone() })
            }
            _ => Ok(()),
        }
    }
}

impl Partial {
    /// # Errors
    /// [`Error::Failed`].
    pub async fn begin(folder: &Path) -> Result<Self> {
        let unfinished = Unfinished::new(folder, Part::Upload);
        let file = unfinished.make().await.map_err(failed)?;
        Ok(Self { part: Written { file, sum: Sha256::new(), length: 0 }, unfinished, folder: folder.to_owned() })
    }

    /// Bytes that are there.
    pub fn length(&self) -> u64 {
        self.part.length
    }

    /// Throws away what is there.
    ///
    /// # Errors
    /// [`Error::Failed`].
    pub async fn clear(&mut self) -> Result<()> {
        let file = self.part.file.try_clone().map_err(failed)?;
        on_storage(self.unfinished.path(), STORAGE, move || file.set_len(0)).await.map_err(failed)?;
        (self.part.sum, self.part.length) = (Sha256::new(), 0);
        Ok(())
    }

    /// Takes what comes, behind what is there. Returns with what the stream ended with, where it was cut.
    ///
    /// # Errors
    /// [`Error::NoRoom`], [`Error::Failed`].
    pub async fn append<E>(
        self,
        mut stream: impl Stream<Item = Result<Bytes, E>> + Unpin,
        copied: &Arc<Copied>,
    ) -> Result<(Self, Option<E>)> {
        let Self { part, unfinished, folder } = self;
        let (pieces, received) = mpsc::channel(PIECES);
        let (at, copied) = (folder.clone(), copied.clone());
        let written = spawn_blocking(move || write(part, received, &at, &copied));
        let late = || failed(io::Error::new(io::ErrorKind::TimedOut, "the storage has not answered for 60 s"));
        let mut cut = None;
        while let Some(piece) = stream.next().await {
            let piece = match piece {
                Ok(piece) => piece,
                Err(error) => {
                    cut = Some(error);
                    break;
                }
            };
            // One that has gone says why below.
            if timeout(STALL, pieces.send(piece)).await.map_err(|_| late())?.is_err() {
                break;
            }
        }
        drop(pieces);
        let written = timeout(STALL, written).await.map_err(|_| late())?;
        let (part, outcome) = written.map_err(|error| failed(io::Error::other(error)))?;
        match outcome {
            Ok(()) => Ok((Self { part, unfinished, folder }, cut)),
            Err(error) if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) => {
                let free = free_after(&folder).await;
                Err(Error::NoRoom { what: format!("what comes, after {} bytes", part.length), free, place: folder })
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// Of what is there.
    pub fn sha256(&self) -> String {
        hexadecimal(&self.part.sum.clone().finalize())
    }

    pub fn file(&self) -> (&File, &Path) {
        (&self.part.file, self.unfinished.path())
    }

    /// All of it is there.
    pub fn whole(self) -> Spooled {
        let Written { file, sum, .. } = self.part;
        Spooled { file, unfinished: self.unfinished, sha256: hexadecimal(&sum.finalize()) }
    }
}

/// For people: none where that cannot be told.
async fn free_after(folder: &Path) -> u64 {
    let at = folder.to_owned();
    on_storage(folder, STORAGE, move || free_space(&at)).await.unwrap_or(0).saturating_sub(SPARE)
}

fn failed(error: io::Error) -> Error {
    Error::failed(Operation::Import, error)
}

fn write(
    mut part: Written,
    mut received: mpsc::Receiver<Bytes>,
    at: &Path,
    copied: &Copied,
) -> (Written, io::Result<()>) {
    let mut since = 0;
    while let Some(piece) = received.blocking_recv() {
        // Where it belongs, and not behind what another one may have left there.
        if let Err(error) = part.file.write_all_at(&piece, part.length) {
            return (part, Err(error));
        }
        part.sum.update(&piece);
        part.length += piece.len() as u64;
        copied.is_at(part.length);
        since += piece.len() as u64;
        if since >= LOOK {
            since = 0;
            match free_space(at) {
                Ok(free) if free >= SPARE => {}
                Ok(_) => return (part, Err(io::ErrorKind::StorageFull.into())),
                Err(error) => return (part, Err(error)),
            }
        }
    }
    (part, Ok(()))
}
