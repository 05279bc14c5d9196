//! What a VM's guest and its QEMU write, as dialects read it: piece by piece, from the files and what is held in memory, so that a
//! log of any size takes no more than a piece. Nothing of it holds up the guest, or anybody else.

use std::{io, path::PathBuf, sync::Arc};

use super::Service;
use crate::{
    host::{STORAGE, on_storage},
    model::{Error, Operation, Result, VmId},
    vm::{Console, Extent, Follower, Piece, Refused, Source, VmHandle, Writer},
};

/// Of one VM.
#[derive(Clone)]
pub(crate) struct Output {
    vm: VmHandle,
    console: Arc<Console>,
    source: Source,
    /// Which storage is read.
    folder: PathBuf,
}

impl Service {
    /// What a VM has written, and goes on to write.
    ///
    /// # Errors
    /// [`Error::VmNotFound`].
    pub(crate) fn output(&self, id: VmId, source: Source) -> Result<Output> {
        let vm = self.handle(id)?;
        let (console, folder) = (vm.console(), self.ctx.run_paths(&id).dir().to_owned());
        Ok(Output { vm, console, source, folder })
    }
}

impl Output {
    async fn ask<T: Send + 'static>(
        &self,
        what: impl FnOnce(&Console, Source) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let (console, source) = (self.console.clone(), self.source);
        on_storage(&self.folder, STORAGE, move || what(&console, source)).await
    }

    /// The positions of the last `lines` lines; one that has not ended yet counts.
    ///
    /// # Errors
    /// [`Error::Failed`] when the log cannot be read.
    pub async fn last(&self, lines: usize) -> Result<Extent> {
        self.ask(move |console, source| console.last(source, lines)).await.map_err(failed)
    }

    /// Where what was written since then begins, in milliseconds since 1970.
    ///
    /// # Errors
    /// As [`Self::last`].
    pub async fn since(&self, time: u64) -> Result<u64> {
        self.ask(move |console, source| console.since(source, time)).await.map_err(failed)
    }

    /// At most `most` bytes from a position on.
    ///
    /// # Errors
    /// The storage's.
    pub async fn read(&self, from: u64, most: u64) -> io::Result<Piece> {
        self.ask(move |console, source| console.read(source, from, most)).await
    }

    /// When what stands at these positions was written, in milliseconds since 1970, as far as that is known.
    ///
    /// # Errors
    /// The storage's.
    pub async fn written_at(&self, positions: Vec<u64>) -> io::Result<Vec<Option<u64>>> {
        self.ask(move |console, source| console.written_at(source, &positions)).await
    }

    /// Tells when there is more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn follower(&self) -> io::Result<Follower> {
        Follower::new(self.console.clone(), self.source)
    }

    /// Lets somebody type at the console.
    ///
    /// # Errors
    /// With who does already.
    pub fn writer(&self, name: &str, shared: bool) -> std::result::Result<Writer, Refused> {
        self.console.writer(name, shared)
    }

    /// Returns when the VM is no more.
    pub async fn gone(&self) {
        self.vm.gone().await;
    }
}

fn failed(error: io::Error) -> Error {
    Error::failed(Operation::ConsoleLog, error.to_string())
}
