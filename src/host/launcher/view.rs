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
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    Scope,
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
    pub read: Vec<PathBuf>,
    /// Files that it works on.
    pub written: Vec<PathBuf>,
}

/// A set of rules of the kernel's, ready to be put on.
#[derive(Debug)]
pub struct View(OwnedFd);

impl View {
    /// Blocks, if what is shown lies on storage that hangs.
    ///
    /// # Errors
    /// Where the kernel has no Landlock.
    pub fn of(others: &Shown) -> io::Result<Self> {
        Self::try_of(others).map_err(io::Error::other)?.map(Self).ok_or_else(|| {
            io::Error::other("this kernel has no Landlock (CONFIG_SECURITY_LANDLOCK, and `landlock` in lsm=)")
        })
    }

    fn try_of(others: &Shown) -> Result<Option<OwnedFd>, landlock::RulesetError> {
        let all = ABI::V6;
        let mut rules = Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(all))?
            .scope(Scope::from_all(all))?
            .create()?;
        let run = AccessFs::from_read(all);
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let device = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::IoctlDev;
        // What a symbolic link of /etc leads to is exchanged within its folder.
        let name_servers = Path::new(NAME_SERVERS).canonicalize().ok().and_then(|file| Some(file.parent()?.to_owned()));
        let name_servers = name_servers.filter(|folder| folder != Path::new("/etc"));
        let named = |paths: &'static [&str]| paths.iter().map(PathBuf::from);
        let shown = named(PROGRAMS).chain(others.programs.iter().cloned()).map(|path| (path, run));
        let to_read = named(READ).chain(name_servers).chain(others.read.iter().cloned());
        let shown = shown.chain(to_read.map(|path| (path, read)));
        let work = AccessFs::ReadFile | AccessFs::WriteFile | AccessFs::Truncate;
        let shown = shown.chain(others.written.iter().map(|path| (path.clone(), work)));
        for (path, access) in shown.chain(named(DEVICES).map(|path| (path, device))) {
            // What is not there is not shown.
            if let Ok(descriptor) = PathFd::new(&path) {
                let access = if path.is_dir() { access } else { access & AccessFs::from_file(all) };
                rules = rules.add_rule(PathBeneath::new(descriptor, access))?;
            }
        }
        Ok(rules.into())
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
