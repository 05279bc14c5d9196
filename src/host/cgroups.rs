//! A control group for each VM's QEMU: a bound on the memory and on the processes of all that it may become, and the way to
//! find whatever it leaves behind. Which there are is known by the kernel: `qherd-<mark>/<VM>.<start>`, where the mark is the
//! state directory's, in each hierarchy that has the controllers.
//!
//! A group of another mark is never touched, and none is removed that has a process in it: those of a VM that has ended are
//! ended first.

#![allow(clippy::disallowed_methods, reason = "files of the kernel, which answers at once")]

mod hierarchy;

use std::{
    fs::{self, File},
    io::{self, ErrorKind},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use uuid::Uuid;

use super::listed;
use hierarchy::{Controller, Hierarchy, Version, give, set};

/// Processes and threads of one VM: vCPUs, and those that QEMU reads and writes images with.
pub const PROCESSES: u64 = 2048;

/// What the members of a group have together at most.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes.
    pub memory: u64,
    /// And threads.
    pub processes: u64,
}
/// Processes that SIGKILL does not end by then are the kernel's; the next daemon looks again.
const ENDING: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(5);
const TRIES: usize = 100;

/// Where this host has groups.
#[derive(Debug)]
pub struct Cgroups {
    /// The folder of all groups of this state directory.
    folder: String,
    hierarchies: Vec<Hierarchy>,
}

/// The groups of one VM's run, one in each hierarchy.
#[derive(Clone, Debug)]
pub struct Group {
    /// Below each hierarchy's root.
    path: String,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
struct Part {
    version: Version,
    has_memory: bool,
    folder: PathBuf,
}

/// A child's way into its groups. To move a process has the kernel wait for all that are about to start another, some 20 ms; not so a
/// thread that moves itself (version 1), and one that begins in its group (version 2).
#[derive(Debug)]
pub struct Seat {
    /// To be written to.
    lists: Vec<OwnedFd>,
    unified: Option<Unified>,
}

#[derive(Debug)]
struct Unified {
    group: OwnedFd,
    list: OwnedFd,
}

impl Cgroups {
    /// `mark` is the state directory's.
    ///
    /// # Errors
    /// In words: what this host lacks.
    pub fn find(mark: &str) -> Result<Self, String> {
        Ok(Self { folder: format!("qherd-{mark}"), hierarchies: Hierarchy::find()? })
    }

    /// Groups for a start of a VM, or of another program, with these bounds.
    ///
    /// # Errors
    /// The kernel's; nothing is left then.
    pub fn make(&self, whose: &str, bounds: Bounds) -> io::Result<Group> {
        // Each start has its own: one that is being cleared away is not entered.
        let name = format!("{whose}.{:08x}", Uuid::new_v4().as_fields().0);
        let first = self.hierarchies.first().and_then(|first| first.parent.strip_prefix(&first.top).ok());
        let path = Path::new("/").join(first.unwrap_or(Path::new(""))).join(&self.folder).join(&name);
        let mut group = Group { path: path.display().to_string(), parts: Vec::new() };
        let made = self.hierarchies.iter().try_for_each(|hierarchy| {
            let folder = self.make_in(hierarchy, &name)?;
            group.parts.push(Part::new(hierarchy, folder.clone()));
            match hierarchy.controllers.contains(&Controller::Pids) {
                true => set(&folder.join("pids.max"), &bounds.processes.to_string()),
                false => Ok(()),
            }
        });
        let made = made.and_then(|()| group.bound_memory(bounds.memory));
        if made.is_err() {
            group.remove();
        }
        made.map(|()| group)
    }

    fn make_in(&self, hierarchy: &Hierarchy, name: &str) -> io::Result<PathBuf> {
        let all = hierarchy.parent.join(&self.folder);
        let make = || {
            make_folder(&all)?;
            if hierarchy.version == Version::Two {
                give(&all, &hierarchy.controllers)?;
            }
            fs::create_dir(all.join(name)).map(|()| all.join(name))
        };
        let mut made = make();
        // The folder of all goes with the last VM's group, which may be at this moment.
        for _ in 0..TRIES {
            if !matches!(&made, Err(error) if matches!(error.kind(), ErrorKind::NotFound)) {
                break;
            }
            made = make();
        }
        made
    }

    /// The groups of a process that an earlier daemon has started; none of one that is in no group of ours.
    pub fn of(&self, pid: i32) -> Option<Group> {
        let places = self.hierarchies.iter().filter_map(|hierarchy| {
            let folder = hierarchy.place_of(pid)?;
            let is_ours = folder.parent().and_then(Path::file_name).is_some_and(|name| *name == *self.folder);
            (is_ours && folder.is_dir()).then(|| (Part::new(hierarchy, folder.clone()), hierarchy))
        });
        let places: Vec<_> = places.collect();
        let (first, hierarchy) = places.first()?;
        let path = Path::new("/").join(first.folder.strip_prefix(&hierarchy.top).ok()?).display().to_string();
        Some(Group { path, parts: places.into_iter().map(|(part, _)| part).collect() })
    }

    /// Those of a run whose process has ended while there was no daemon, by what [`Group::path`] was: somebody may be in them.
    pub fn left(&self, path: &str) -> Option<Group> {
        let name = Path::new(path).file_name()?;
        let parts = self.hierarchies.iter().flat_map(|hierarchy| {
            let folders = found(&hierarchy.top, &self.folder).into_iter().map(|folder| folder.join(name));
            folders.filter(|folder| folder.is_dir()).map(|folder| Part::new(hierarchy, folder))
        });
        let parts: Vec<Part> = parts.collect();
        (!parts.is_empty()).then(|| Group { path: path.to_owned(), parts })
    }

    /// Removes all groups of this state directory that nobody is in, wherever an earlier daemon was when it made them. Nothing
    /// may be started meanwhile. Returns how many there are that somebody is in. Blocks.
    pub fn sweep(&self) -> usize {
        let mut busy = 0;
        for hierarchy in &self.hierarchies {
            for folder in found(&hierarchy.top, &self.folder) {
                // The kernel removes no group with a process in it.
                for group in groups_in(&folder) {
                    busy += usize::from(fs::remove_dir(group).is_err());
                }
                let _ = fs::remove_dir(folder);
            }
        }
        busy
    }
}

impl Part {
    fn new(hierarchy: &Hierarchy, folder: PathBuf) -> Self {
        let has_memory = hierarchy.controllers.contains(&Controller::Memory);
        Self { version: hierarchy.version, has_memory, folder }
    }

    /// In words of this version: what bounds memory, what bounds memory and swap space, and how much there is.
    fn files(&self) -> [PathBuf; 3] {
        let names = match self.version {
            Version::One => ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "memory.usage_in_bytes"],
            Version::Two => ["memory.max", "memory.swap.max", "memory.current"],
        };
        names.map(|name| self.folder.join(name))
    }

    fn processes(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    /// As much swap space as memory at most.
    fn set_memory(&self, bytes: u64) -> io::Result<()> {
        let [memory, swap, _] = self.files();
        let with_swap = match self.version {
            Version::One => bytes.saturating_mul(2),
            Version::Two => bytes,
        };
        // Version 1 holds the former to be below the latter at any time.
        let _ = set(&swap, &with_swap.to_string());
        set(&memory, &bytes.to_string())?;
        match set(&swap, &with_swap.to_string()) {
            // Where swap space is not counted.
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            done => done,
        }
    }
}

impl Group {
    /// As it is called below the root of its hierarchies.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// # Errors
    /// The kernel's.
    pub fn seat(&self) -> io::Result<Seat> {
        let mut seat = Seat { lists: Vec::new(), unified: None };
        for part in &self.parts {
            let open = |name: &str| File::options().write(true).open(part.folder.join(name)).map(OwnedFd::from);
            match part.version {
                Version::One => seat.lists.push(open("tasks")?),
                Version::Two => {
                    let (group, list) = (File::open(&part.folder)?.into(), open("cgroup.procs")?);
                    seat.unified = Some(Unified { group, list });
                }
            }
        }
        Ok(seat)
    }

    /// Who is in it.
    pub fn processes(&self) -> Vec<i32> {
        self.parts.first().map(Part::processes).unwrap_or_default()
    }

    /// Bounds it anew. A bound below what it has would have the kernel end it, so that is not done.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bound_memory(&self, bytes: u64) -> io::Result<()> {
        for part in self.parts.iter().filter(|part| part.has_memory) {
            let [_, _, usage] = part.files();
            let usage = fs::read_to_string(usage).ok().and_then(|text| text.trim().parse::<u64>().ok());
            if usage.is_none_or(|usage| usage < bytes) {
                part.set_memory(bytes)?;
            }
        }
        Ok(())
    }

    /// Ends whatever is in it, of a VM that has ended, and removes it. Blocks.
    pub fn end(&self) {
        let begun = Instant::now();
        loop {
            for part in &self.parts {
                // It makes no more; what only version 2 can do is quicker.
                let _ = set(&part.folder.join("pids.max"), "0");
                let _ = set(&part.folder.join("cgroup.kill"), "1");
                part.processes().into_iter().for_each(|pid| kill(part, pid));
            }
            self.remove();
            if !self.parts.iter().any(|part| part.folder.exists()) || begun.elapsed() > ENDING {
                return;
            }
            sleep(LOOK);
        }
    }

    fn remove(&self) {
        for part in &self.parts {
            if fs::remove_dir(&part.folder).is_ok() {
                // With the last VM's.
                let _ = part.folder.parent().map(fs::remove_dir);
            }
        }
    }
}

/// A process that is in this group now: what had its number a moment ago is not meant.
fn kill(part: &Part, pid: i32) {
    let Some(handle) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return };
    if part.processes().contains(&pid) {
        let _ = pidfd_send_signal(handle, Signal::KILL);
    }
}

impl Seat {
    /// The group that a child may begin in.
    pub fn group(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(|unified| unified.group.as_fd())
    }

    /// In the child, which has a single thread: from here on it is in its groups. Allocates nothing.
    ///
    /// # Errors
    /// The kernel's.
    pub fn take(&self, has_begun_there: bool) -> io::Result<()> {
        let unified = self.unified.iter().filter(|_| !has_begun_there).map(|unified| &unified.list);
        // 0 is whoever writes.
        self.lists.iter().chain(unified).try_for_each(|list| Ok(rustix::io::write(list, b"0").map(drop)?))
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made,
    }
}

/// The groups of this name, however deep.
fn found(top: &Path, name: &str) -> Vec<PathBuf> {
    let (mut found, mut rest) = (Vec::new(), vec![top.to_owned()]);
    while let Some(folder) = rest.pop() {
        for group in groups_in(&folder) {
            let is_it = group.file_name().is_some_and(|found| *found == *name);
            if is_it { &mut found } else { &mut rest }.push(group);
        }
    }
    found
}

/// Those that cannot be listed are the next daemon's, and told.
fn groups_in(folder: &Path) -> Vec<PathBuf> {
    let entries = listed(folder).unwrap_or_else(|error| {
        tracing::warn!(%error, "what VMs have left in control groups is not seen");
        Vec::new()
    });
    let folders = entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    folders.map(fs::DirEntry::path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::launcher::{Cell, Child, QEMU};

    /// In the unified hierarchy, which every host has somewhere, without any controller.
    #[test]
    fn a_child_begins_in_its_group_and_is_not_moved_there() {
        let mounts = procfs::process::Process::myself().unwrap().mountinfo().unwrap();
        let top =
            mounts.into_iter().rfind(|mount| mount.fs_type == "cgroup2").expect("a hierarchy of version 2").mount_point;
        let folder = top.join(format!("qherd-test-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        // To be moved takes a list that can be written to.
        let list = File::open("/dev/null").unwrap().into();
        let unified = Some(Unified { group: File::open(&folder).unwrap().into(), list });
        let cell = Cell { seat: Some(Seat { lists: Vec::new(), unified }), ..Cell::default() };
        let child = Child::new(QEMU, Path::new("/bin/cat")).arg("/proc/self/cgroup").within(cell);
        let said = String::from_utf8(child.piped().spawn().unwrap().output().unwrap().stdout).unwrap();
        fs::remove_dir(&folder).unwrap();
        let name = folder.file_name().unwrap().to_str().unwrap();
        assert!(said.lines().any(|line| line.starts_with("0::") && line.ends_with(name)), "{said}");
    }
}
