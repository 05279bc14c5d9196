//! What a child sees of the host's files by their names: system files that it needs to run, and nothing of any user. What it
//! works with is handed to it open. By Landlock, which also keeps it from signals and abstract sockets of everybody else.

#![allow(unsafe_code, reason = "the system call that puts it on")]
#![allow(clippy::disallowed_methods, reason = "system folders, at the daemon's start and before a child's")]

use std::{
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::{Path, PathBuf},
};

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, Scope,
};
use nix::libc;

/// Programs, libraries and firmware.
const PROGRAMS: &[&str] = &["/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64"];
/// What libraries and QEMU look into. Of others' processes the kernel shows one that is kept so only what anybody sees.
const READ: &[&str] = &[
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/resolv.conf",
    "/etc/qemu",
    "/proc",
    "/sys/devices/system",
    "/sys/kernel/mm",
    "/dev/urandom",
    "/dev/random",
];
/// A name server's address changes with the file that tells it.
const NAME_SERVERS: &str = "/etc/resolv.conf";
const DEVICES: &[&str] = &["/dev/null", "/dev/kvm"];

/// What a child is shown beside the system's files.
#[derive(Clone, Debug, Default)]
pub struct Shown {
    /// Folders of programs, and of what belongs to them.
    pub programs: Vec<PathBuf>,
    /// What those programs are called by, where that leads to them by links.
    pub names: Vec<PathBuf>,
    pub read: Vec<PathBuf>,
    /// Files that it works on.
    pub written: Vec<PathBuf>,
    /// Folders that it makes and works on files in.
    pub own: Vec<PathBuf>,
}

/// What may be done to something that is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    Run,
    Read,
    Work,
    Own,
    Device,
}

impl Shown {
    /// All that there may be to see, with what may be done to it; by no means everything is on every host.
    pub(super) fn all(&self) -> impl Iterator<Item = (PathBuf, Use)> {
        // What a symbolic link of /etc leads to is exchanged within its folder.
        let name_servers = Path::new(NAME_SERVERS).canonicalize().ok().and_then(|file| Some(file.parent()?.to_owned()));
        let name_servers = name_servers.filter(|folder| folder != Path::new("/etc"));
        let named = |paths: &'static [&str]| paths.iter().map(PathBuf::from);
        let run = named(PROGRAMS).chain(self.programs.iter().cloned()).map(|path| (path, Use::Run));
        let read = named(READ).chain(name_servers).chain(self.read.iter().cloned()).map(|path| (path, Use::Read));
        let work = self.written.iter().map(|path| (path.clone(), Use::Work));
        let work = work.chain(self.own.iter().map(|path| (path.clone(), Use::Own)));
        run.chain(read).chain(work).chain(named(DEVICES).map(|path| (path, Use::Device)))
    }
}

/// Whether a child may connect, and be connected to, by TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tcp {
    None,
    /// Listens on these ports, and connects to those.
    Ports {
        bind: &'static [u16],
        connect: &'static [u16],
    },
    Any,
}

/// A set of rules of the kernel's, ready to be put on.
#[derive(Debug)]
pub struct View(OwnedFd);

impl View {
    /// With no connections but those of `tcp`, where the kernel can refuse them (6.7). Blocks, if what is shown lies on storage that
    /// hangs.
    ///
    /// # Errors
    /// Where the kernel has no Landlock.
    pub fn of(shown: &Shown, tcp: Tcp) -> io::Result<Self> {
        Self::try_of(shown, tcp).map_err(io::Error::other)?.map(Self).ok_or_else(|| {
            io::Error::other("this kernel has no Landlock (CONFIG_SECURITY_LANDLOCK, and `landlock` in lsm=)")
        })
    }

    /// Of a child that mounts, which rules about files would keep it from: no signals to anybody else, and no abstract sockets.
    ///
    /// # Errors
    /// Where the kernel's Landlock knows neither (6.12 and later do).
    pub fn of_scopes() -> io::Result<Self> {
        let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement).scope(Scope::from_all(ABI::V6));
        let made = rules.and_then(|rules| rules.create()).map(Option::<OwnedFd>::from).map_err(io::Error::other)?;
        made.map(Self).ok_or_else(|| io::Error::other("this kernel has no Landlock"))
    }

    fn try_of(shown: &Shown, tcp: Tcp) -> Result<Option<OwnedFd>, landlock::RulesetError> {
        let all = ABI::V6;
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(all))?
            .scope(Scope::from_all(all))?;
        // What is handled and has no rule is refused.
        let ports = match tcp {
            Tcp::Any => None,
            Tcp::None => Some((&[][..], &[][..])),
            Tcp::Ports { bind, connect } => Some((bind, connect)),
        };
        if ports.is_some() {
            rules = rules.handle_access(AccessNet::from_all(all))?;
        }
        let mut rules = rules.create()?;
        if let Some((bind, connect)) = ports {
            let bind = bind.iter().map(|port| (*port, AccessNet::BindTcp));
            for (port, access) in bind.chain(connect.iter().map(|port| (*port, AccessNet::ConnectTcp))) {
                rules = rules.add_rule(NetPort::new(port, access))?;
            }
        }
        for (path, used) in shown.all() {
            let access = match used {
                Use::Run => AccessFs::from_read(all),
                Use::Read => AccessFs::ReadFile | AccessFs::ReadDir,
                Use::Work => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate,
                Use::Own => {
                    AccessFs::ReadFile
                        | AccessFs::ReadDir
                        | AccessFs::WriteFile
                        | AccessFs::Truncate
                        | AccessFs::MakeReg
                }
                Use::Device => AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev,
            };
            // What is not there is not shown.
            if let Ok(descriptor) = PathFd::new(&path) {
                let access = if path.is_dir() { access } else { access & AccessFs::from_file(all) };
                rules = rules.add_rule(PathBeneath::new(descriptor, access))?;
            }
        }
        Ok(rules.into())
    }

    /// Whether this kernel can refuse connections.
    ///
    /// # Errors
    /// Where it cannot.
    pub fn can_refuse_tcp() -> io::Result<()> {
        let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let rules = rules.handle_access(AccessNet::from_all(ABI::V4)).and_then(|rules| rules.create());
        rules
            .map(drop)
            .map_err(|_| io::Error::other("the Landlock of this kernel knows no TCP (Linux 6.7 and later do)"))
    }

    /// In the child, for good; new privileges must be out of the question already. Allocates nothing.
    ///
    /// # Errors
    /// None that the kernel tells of.
    pub(super) fn put_on(&self) -> io::Result<()> {
        // SAFETY: numbers only.
        match unsafe { libc::syscall(libc::SYS_landlock_restrict_self, self.0.as_raw_fd(), 0) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}
