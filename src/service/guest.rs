//! What is asked of a VM's guest by its agent: whether the VM is in a state in which that can be, what is told of it, and what is
//! refused before anybody is asked. The agent itself is `vm::Guest`'s.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::Service;
use crate::{
    host::image::hexadecimal,
    model::{
        About, Conflict, Error, Event, GuestRequest, Operation, Result, Status, VmId, VmView, What, around, now_ms,
    },
    store::Batch,
    vm::{self, AgentInfo, Command, Executed, Guest, GuestFile, Write},
};

/// Arguments of a command, and variables of its environment.
const MOST_WORDS: usize = 1024;
const MOST_USER: usize = 256;
const MOST_PATH: usize = 4096;
/// Of what is told.
const MOST_TARGET: usize = 256;
/// Seconds that a command may take.
const MOST_TIME: i64 = 3600;
const DEFAULT_TIME: i64 = 60;
/// Seconds that a guest is kept frozen.
const MOST_FROZEN: i64 = 600;

/// A command for a guest, as a client wants it.
#[derive(Clone, Debug, Default)]
pub struct Exec {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: Option<String>,
    pub user: Option<String>,
    pub stdin: Vec<u8>,
    /// Seconds.
    pub timeout: Option<i64>,
}

/// Why a file was not written whole.
#[derive(Debug)]
pub enum WriteError<E> {
    /// What was to be written was cut.
    Stream(E),
    Domain(Error),
}

impl<E> From<Error> for WriteError<E> {
    fn from(error: Error) -> Self {
        Self::Domain(error)
    }
}

impl Exec {
    /// # Errors
    /// [`Error::Invalid`].
    fn check(self) -> Result<Command> {
        let words = |param: &'static str, count: usize| match count {
            0..=MOST_WORDS => Ok(()),
            _ => Err(Error::invalid(param, format!("have at most {MOST_WORDS} entries"))),
        };
        words("argv", self.argv.len())?;
        words("env", self.env.len())?;
        let zero = |text: &str| text.contains('\0');
        if self.argv.first().is_none_or(String::is_empty) || self.argv.iter().any(|word| zero(word)) {
            return Err(Error::invalid("argv", "begin with a command, and have no zero bytes"));
        }
        if self.env.iter().any(|(name, value)| name.is_empty() || name.contains('=') || zero(name) || zero(value)) {
            return Err(Error::invalid("env", "have names without =, and no zero bytes"));
        }
        if !self.env.is_empty() && self.argv.first().is_some_and(|command| command.contains('=')) {
            return Err(Error::invalid("argv", "begin with a command without = where env is given"));
        }
        if self.cwd.as_deref().is_some_and(|cwd| cwd.is_empty() || zero(cwd) || cwd.len() > MOST_PATH) {
            return Err(Error::invalid("cwd", "be a folder of the guest"));
        }
        let odd = |user: &str| user.is_empty() || user.len() > MOST_USER || user.starts_with('-') || zero(user);
        if self.user.as_deref().is_some_and(odd) {
            return Err(Error::invalid("user", "be the name of a user of the guest"));
        }
        let seconds = self.timeout.unwrap_or(DEFAULT_TIME);
        if !(1..=MOST_TIME).contains(&seconds) {
            return Err(Error::invalid("timeout", format!("be between 1 and {MOST_TIME} seconds")));
        }
        let timeout = Duration::from_secs(seconds.unsigned_abs());
        let Self { argv, env, cwd, user, stdin, .. } = self;
        Ok(Command { argv, env, cwd, user, stdin, timeout })
    }
}

/// # Errors
/// [`Error::Invalid`].
fn check_path(path: &str) -> Result<()> {
    match path.is_empty() || path.len() > MOST_PATH || path.contains('\0') {
        true => Err(Error::invalid("path", format!("be a path of the guest, of at most {MOST_PATH} bytes"))),
        false => Ok(()),
    }
}

impl Service {
    /// A guest whose agent is there.
    ///
    /// # Errors
    /// Why it can be asked nothing.
    fn asked_guest(&self, id: VmId) -> Result<(VmView, Guest)> {
        let handle = self.handle(id)?;
        let view = handle.view();
        match view.status {
            Status::Running | Status::Rebooting => {}
            Status::Paused => return Err(Conflict::Suspended.into()),
            Status::Stopping => return Err(Conflict::Stopping.into()),
            Status::Unresponsive => return Err(Error::Unresponsive(id)),
            Status::Stopped | Status::Crashed | Status::Starting => return Err(Conflict::Off.into()),
        }
        if !view.agent {
            let why = "it is not running in the guest, or the guest is still booting; status?wait=agent waits for it";
            return Err(Error::NoAgent { why: why.to_owned() });
        }
        Ok((view, handle.guest()))
    }

    /// What its agent says of a guest.
    ///
    /// # Errors
    /// Why it says nothing.
    pub async fn agent(&self, id: VmId) -> Result<AgentInfo> {
        self.asked_guest(id)?.1.info().await
    }

    /// Runs a command in a guest, and returns when it has ended, or was killed when its time was over. Its client may go: what
    /// has begun is seen to its end all the same. What bears the id `once` is never run twice.
    ///
    /// # Errors
    /// Why it was not run, or what became of it is not known.
    pub async fn exec(&self, id: VmId, wish: Exec, once: Option<Uuid>) -> Result<Executed> {
        self.view(id)?;
        let command = wish.check()?;
        let (view, guest) = self.asked_guest(id)?;
        vm::begins(&view.spec.name);
        self.tell_of(&view, GuestRequest::Exec, command.argv.first().map(String::as_str), once).await?;
        let seen_to = tokio::spawn(async move { guest.run(&command).await });
        seen_to.await.unwrap_or_else(|error| Err(Error::failed(Operation::AskGuest, error)))
    }

    /// Opens a file of a guest to be read from `offset` on.
    ///
    /// # Errors
    /// Why it cannot be read.
    pub async fn read_guest_file(&self, id: VmId, path: &str, offset: u64) -> Result<GuestFile> {
        self.view(id)?;
        check_path(path)?;
        self.asked_guest(id)?.1.open(path, offset).await
    }

    /// Writes a file of a guest. Returns how many bytes, and their SHA-256 sum. What it had before is gone as soon as that
    /// begins, and what is cut is left as far as it came.
    ///
    /// # Errors
    /// What the stream ends with, or why it cannot be written.
    pub async fn write_guest_file<E>(
        &self,
        id: VmId,
        (path, how): (&str, Write),
        mut stream: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<(u64, String), WriteError<E>> {
        self.view(id)?;
        check_path(path)?;
        let (view, guest) = self.asked_guest(id)?;
        vm::begins(&view.spec.name);
        self.tell_of(&view, GuestRequest::WriteFile, Some(path), None).await?;
        let mut file = guest.write(path, how).await?;
        let (mut sum, mut length) = (Sha256::new(), 0);
        while let Some(piece) = stream.next().await {
            let piece = piece.map_err(WriteError::Stream)?;
            sum.update(&piece);
            length += piece.len() as u64;
            file.write(&piece).await?;
        }
        file.close().await?;
        Ok((length, hexadecimal(&sum.finalize())))
    }

    /// Sets the clock of a guest to this many milliseconds since 1970, or by that of the host.
    ///
    /// # Errors
    /// Why it is not set.
    pub async fn set_guest_time(&self, id: VmId, time: Option<u64>) -> Result<u64> {
        self.view(id)?;
        let time = time.unwrap_or_else(now_ms);
        let nanoseconds = i64::try_from(time).ok().and_then(|time| time.checked_mul(1_000_000));
        let nanoseconds = nanoseconds.ok_or_else(|| Error::invalid("time", "be before the year 2262"))?;
        let (view, guest) = self.asked_guest(id)?;
        vm::begins(&view.spec.name);
        self.tell_of(&view, GuestRequest::SetTime, None, None).await?;
        guest.set_time(nanoseconds).await?;
        Ok(time)
    }

    /// Has the file systems of a guest frozen, for so many seconds at most. Returns how many, and when they thaw by themselves,
    /// in milliseconds since 1970.
    ///
    /// # Errors
    /// Why they are not.
    pub async fn freeze(&self, id: VmId, seconds: Option<i64>) -> Result<(u64, u64)> {
        let handle = self.handle(id)?;
        let seconds = seconds.unwrap_or(DEFAULT_TIME);
        if !(1..=MOST_FROZEN).contains(&seconds) {
            return Err(Error::invalid("timeout", format!("be between 1 and {MOST_FROZEN} seconds")));
        }
        let time = Duration::from_secs(seconds.unsigned_abs());
        let thaws_at = now_ms() + seconds.unsigned_abs() * 1000;
        Ok((handle.freeze(time).await?, thaws_at))
    }

    /// Has them thawed. Returns how many.
    ///
    /// # Errors
    /// Why they are not.
    pub async fn thaw(&self, id: VmId) -> Result<u64> {
        self.handle(id)?.thaw().await
    }

    /// What a guest is told to do is told before it is done; and that `once` is used, with it.
    async fn tell_of(
        &self,
        view: &VmView,
        request: GuestRequest,
        target: Option<&str>,
        once: Option<Uuid>,
    ) -> Result<()> {
        let riders = &self.ctx.riders;
        if once.is_some_and(|once| riders.has_made(once)) {
            return Err(Error::AnswerLost);
        }
        let spec = &view.spec;
        let labels = around(&spec.metadata.labels, None);
        let about = About::Vm { id: spec.id, name: spec.name.clone(), labels };
        let cut = |text: &str| text.chars().filter(|c| !c.is_control()).take(MOST_TARGET).collect();
        let what = What::Guest { request, target: target.map(cut) };
        let event = Event { at: now_ms(), about, what, by: vm::asker().into_iter().collect() };
        let failed = |error| Error::failed(Operation::AskGuest, error);
        let batch = riders.join(Batch::new().tell(&event).map_err(failed)?, once);
        self.ctx.store.commit(batch).await.map_err(failed)
    }
}
