//! The one way in which a program is started: with what its kind is declared to need ([`Permit`]), and nothing else of the
//! daemon's – no environment, no descriptors, no capabilities, no system calls beyond (docs/adr/0028).
//!
//! Everything is made before there is a child: until it executes its program it is on the daemon's memory, and only makes
//! system calls.

#![allow(unsafe_code, reason = "what a child does before it executes its program")]
#![allow(clippy::disallowed_methods, reason = "/dev/null, which answers at once")]

mod apart;
mod capabilities;
mod cell;
mod clone;
mod filter;
mod handed;
mod layer;
mod limits;
mod permit;
mod root;
mod spawn;
mod user;
mod view;

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::libc;
use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal},
};

pub use apart::Apart;
pub use cell::Cell;
pub use layer::Layers;
pub use limits::Limits;
pub use permit::{
    DNSMASQ, Lifetime, PASST, Permit, QEMU, QEMU_IMG, QEMU_IMG_THAT_OPENS, QEMU_PROBE, STORE_TRIAL, UNPACK,
    UNPACK_THAT_OPENS,
};
pub use root::Roots;
pub use spawn::Spawned;
pub use user::{NoneFree, User};
pub use view::{Shown, Tcp, View};

use crate::{host::cgroups::Seat, model::Layer};
use capabilities::Capabilities;
use filter::Filter;
use handed::{Lent, Way};
use spawn::{Plan, Program};

/// A program that is to be started.
#[derive(Debug)]
pub struct Child {
    permit: Permit,
    program: PathBuf,
    args: Vec<OsString>,
    inherit: Vec<RawFd>,
    lent: Vec<(RawFd, io::Result<OwnedFd>)>,
    folder: Option<PathBuf>,
    stderr: Option<File>,
    piped: bool,
    cell: Cell,
}

impl Child {
    /// `program` is looked for on the daemon's PATH, unless it is a path.
    pub fn new(permit: Permit, program: &Path) -> Self {
        Self {
            permit,
            program: program.to_owned(),
            args: Vec::new(),
            inherit: Vec::new(),
            lent: Vec::new(),
            folder: None,
            stderr: None,
            piped: false,
            cell: Cell::default(),
        }
    }

    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    #[must_use]
    pub fn arg(self, arg: impl AsRef<OsStr>) -> Self {
        self.args([arg])
    }

    /// Descriptors that it has under the same numbers, beside its standard ones; nothing else is open in it.
    #[must_use]
    pub fn inherit(mut self, descriptors: impl IntoIterator<Item = RawFd>) -> Self {
        self.inherit.extend(descriptors);
        self
    }

    /// An open file that it has under the number that it has here, whatever becomes of that number until it begins.
    #[must_use]
    pub fn lend(mut self, file: &File) -> Self {
        self.lent.push((file.as_raw_fd(), file.as_fd().try_clone_to_owned()));
        self
    }

    /// Where it begins, so that what it is told needs no path in it.
    #[must_use]
    pub fn folder(mut self, folder: &Path) -> Self {
        self.folder = Some(folder.to_owned());
        self
    }

    /// Where its complaints go.
    #[must_use]
    pub fn stderr(mut self, stderr: File) -> Self {
        self.stderr = Some(stderr);
        self
    }

    /// What it is kept in beside what its kind says.
    #[must_use]
    pub fn within(mut self, cell: Cell) -> Self {
        self.inherit.extend(cell.user.as_ref().and_then(User::descriptor));
        self.cell = cell;
        self
    }

    /// What it says on standard output and error is kept for [`Spawned::output`].
    #[must_use]
    pub fn piped(mut self) -> Self {
        self.piped = true;
        self
    }

    /// Starts it, with standard input closed off, and the others where nobody has said otherwise. Returns when it executes its
    /// program. For one whose [`Lifetime`] is the daemon's, the thread that starts it counts.
    ///
    /// # Errors
    /// When the program cannot be executed, a layer cannot be put on, or the kernel has no process left.
    pub fn spawn(self) -> io::Result<Spawned> {
        let layers = Layers::in_force();
        let path = std::env::var_os("PATH");
        let mut environment: BTreeMap<OsString, OsString> = match layers.includes(Layer::Environment) {
            // It may be a script that looks for what it ends in.
            true => path.iter().map(|path| ("PATH".into(), path.clone())).collect(),
            false => std::env::vars_os().collect(),
        };
        let named = [("LC_ALL", "C")].into_iter().chain(self.permit.environment.iter().copied());
        environment.extend(named.map(|(name, value)| (name.into(), value.into())));
        let none = || File::options().read(true).write(true).open("/dev/null").map(OwnedFd::from);
        let pipe = || -> io::Result<_> {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            Ok((Some(File::from(reader)), writer))
        };
        let (stdout, to_stdout) = if self.piped { pipe()? } else { (None, none()?) };
        let (stderr, to_stderr) = match self.stderr {
            Some(file) => (None, file.into()),
            None if self.piped => pipe()?,
            None => (None, none()?),
        };
        let lent = self.lent.into_iter().map(|(number, file)| Ok((number, file?)));
        let lent: Lent = Arc::new(lent.collect::<io::Result<_>>()?);
        // It is the filter that asks.
        let asks = self.permit.opens_what_is_lent && layers.includes(Layer::Filter);
        let way = asks.then(Way::new).transpose()?.map(Arc::new);
        let confinement = Confinement {
            layers,
            inherit: self.inherit,
            lent: lent.clone(),
            way: way.clone(),
            limits: self.permit.limits,
            capabilities: self.permit.capabilities,
            cell: self.cell,
            filter: Filter::new(self.permit.sockets, self.permit.walls_itself_in, asks),
            ends_with: (self.permit.lifetime == Lifetime::Ours).then(rustix::process::getpid),
        };
        let plan = Plan::new(
            Program { name: &self.program, path: path.as_deref(), folder: self.folder.as_deref() },
            &self.args,
            environment,
            [none()?, to_stdout, to_stderr],
            confinement,
        )?;
        let mut spawned = Spawned { pid: plan.spawn()?, stdout, stderr, questions: None };
        match way.map(|way| way.receive(spawned.pid, lent)).transpose() {
            Ok(questions) => spawned.questions = questions,
            Err(error) => {
                spawned.kill();
                spawned.output()?;
                return Err(error);
            }
        }
        Ok(spawned)
    }
}

/// What the child puts on, made whole before there is one.
struct Confinement {
    layers: Layers,
    inherit: Vec<RawFd>,
    lent: Lent,
    /// Where we are asked about what it opens.
    way: Option<Arc<Way>>,
    limits: Limits,
    capabilities: Capabilities,
    cell: Cell,
    filter: Filter,
    /// The daemon, with which it ends.
    ends_with: Option<Pid>,
}

impl Confinement {
    /// In the child. Each layer while the ones before still let it be put on; the filter last but for a limit.
    fn enter(&self, begun_in_group: bool) -> io::Result<()> {
        // A session of its own: a Ctrl-C or a hang-up at the daemon's terminal does not reach the guests.
        rustix::process::setsid()?;
        rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
        self.keep_descriptors()?;
        if let Some(seat) = self.seat() {
            seat.take(begun_in_group)?;
        }
        self.cell.apart.enter(self.layers)?;
        if self.layers.includes(Layer::Limits) {
            self.limits.set()?;
        }
        let capabilities = self.layers.includes(Layer::Capabilities).then_some(self.capabilities);
        if let Some(kept) = capabilities {
            kept.bound();
        }
        if let Some(user) = self.cell.user.as_ref().filter(|_| self.layers.includes(Layer::User)) {
            user.become_it()?;
        }
        if let Some(kept) = capabilities {
            kept.keep_only()?;
        }
        // Behind every change of rights: the kernel forgets it with those.
        if let Some(daemon) = self.ends_with {
            rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
            // A daemon that has ended before that sends no signal any more.
            if rustix::process::getppid() != Some(daemon) {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        let view = self.cell.view.as_ref().filter(|_| self.layers.includes(Layer::Landlock));
        // The kernel asks for the first before it puts on the others.
        if self.layers.includes(Layer::NoNewPrivileges) || self.layers.includes(Layer::Filter) || view.is_some() {
            rustix::thread::set_no_new_privs(true)?;
        }
        if let Some(view) = view {
            view.put_on()?;
        }
        if self.layers.includes(Layer::Filter) {
            match &self.way {
                Some(way) => way.send(self.filter.install_and_listen()?.as_fd())?,
                None => self.filter.install()?,
            }
        }
        if self.layers.includes(Layer::Limits) {
            self.limits.set_descriptors()?;
        }
        Ok(())
    }

    fn seat(&self) -> Option<&Seat> {
        self.cell.seat.as_ref().filter(|_| self.layers.includes(Layer::Cgroup))
    }

    /// The group that it may be in from its beginning.
    fn begins_in(&self) -> Option<BorrowedFd<'_>> {
        self.seat().and_then(Seat::group)
    }

    /// Everything but the standard ones and those that are named is closed by exec: the daemon opens nothing else without that
    /// mark, but whoever started the daemon may have left it something.
    fn keep_descriptors(&self) -> io::Result<()> {
        if self.layers.includes(Layer::Descriptors) {
            // SAFETY: numbers only. Of kernels before 5.11, which cannot do this, the daemon's own marks hold.
            unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        }
        for &number in &self.inherit {
            // SAFETY: whoever starts the child holds it open until then.
            let descriptor = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
            rustix::io::fcntl_setfd(descriptor, rustix::io::FdFlags::empty())?;
        }
        for (number, file) in self.lent.iter() {
            // SAFETY: numbers only. What has this one in the child by now is not needed in it.
            if unsafe { libc::dup2(file.as_raw_fd(), *number) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
