//! The one way in which a program is started: with what its kind is declared to need ([`Permit`]), and nothing else of the
//! daemon's – no environment, no descriptors, no capabilities, no system calls beyond (docs/adr/0028).
//!
//! Everything is made before the fork. Between fork and exec the child only makes system calls: the daemon has other threads,
//! and one of them may have held the lock of the allocator.

#![allow(unsafe_code, reason = "what a child does between fork and exec")]
#![allow(clippy::disallowed_methods, reason = "the place where programs are started")]

mod capabilities;
mod cell;
mod filter;
mod layer;
mod limits;
mod permit;
mod user;
mod view;

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{fd::RawFd, unix::process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::libc;
use rustix::process::{Pid, Signal};

pub use cell::Cell;
pub use layer::Layers;
pub use limits::Limits;
pub use permit::{DNSMASQ, Lifetime, Permit, QEMU, QEMU_IMG, QEMU_PROBE, STORE_TRIAL};
pub use user::User;
pub use view::{Shown, View};

use crate::model::Layer;
use capabilities::Capabilities;
use filter::Filter;

/// A program that is to be started.
#[derive(Debug)]
pub struct Child {
    permit: Permit,
    program: PathBuf,
    args: Vec<OsString>,
    inherit: Vec<RawFd>,
    folder: Option<PathBuf>,
    stderr: Option<File>,
    cell: Cell,
}

impl Child {
    /// `program` is looked for on the daemon's PATH, unless it is a path.
    pub fn new(permit: Permit, program: &Path) -> Self {
        let (args, inherit) = (Vec::new(), Vec::new());
        let cell = Cell::default();
        Self { permit, program: program.to_owned(), args, inherit, folder: None, stderr: None, cell }
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
        self.inherit.extend(cell.user.as_ref().map(User::descriptor));
        self.cell = cell;
        self
    }

    /// The command that starts it, with standard input and output closed off; whoever starts it may say otherwise. For one
    /// whose [`Lifetime`] is the daemon's, the thread that starts it counts.
    ///
    /// # Errors
    /// None today; what is made before the fork may fail.
    pub fn command(self) -> io::Result<Command> {
        let Self { permit, program, args, inherit, folder, stderr, cell } = self;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(stderr.map_or_else(Stdio::null, Stdio::from));
        let layers = Layers::in_force();
        if layers.includes(Layer::Environment) {
            command.env_clear();
            // It may be a script that looks for what it ends in.
            command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        }
        command.env("LC_ALL", "C").envs(permit.environment.iter().copied());
        if let Some(folder) = folder {
            command.current_dir(folder);
        }
        let confinement = Confinement {
            layers,
            inherit,
            limits: permit.limits,
            capabilities: permit.capabilities,
            cell,
            filter: Filter::new(permit.sockets),
            ends_with: (permit.lifetime == Lifetime::Ours).then(rustix::process::getpid),
        };
        // SAFETY: `enter` makes system calls only, with what was made before the fork.
        unsafe { command.pre_exec(move || confinement.enter()) };
        Ok(command)
    }
}

/// What the child puts on, made whole before the fork.
struct Confinement {
    layers: Layers,
    inherit: Vec<RawFd>,
    limits: Limits,
    capabilities: Capabilities,
    cell: Cell,
    filter: Filter,
    /// The daemon, with which it ends.
    ends_with: Option<Pid>,
}

impl Confinement {
    /// In the child. Each layer while the ones before still let it be put on; the filter last.
    fn enter(&self) -> io::Result<()> {
        // A session of its own: a Ctrl-C or a hang-up at the daemon's terminal does not reach the guests.
        rustix::process::setsid()?;
        rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
        self.keep_descriptors()?;
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
            self.filter.install()?;
        }
        Ok(())
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
        Ok(())
    }
}

#[cfg(test)]
mod tests;
