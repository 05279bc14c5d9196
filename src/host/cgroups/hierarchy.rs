//! Where control groups can be made on this host: the hierarchies that have the controllers which are wanted, of version 2 or,
//! where a controller is bound there, of version 1.

use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use procfs::process::{MountInfo, Process};

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Controller {
    Pids,
    Memory,
}

impl Controller {
    pub const ALL: [Self; 2] = [Self::Pids, Self::Memory];

    pub fn name(self) -> &'static str {
        match self {
            Self::Pids => "pids",
            Self::Memory => "memory",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    One,
    Two,
}

/// One tree of groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    pub version: Version,
    pub controllers: Vec<Controller>,
    /// Where it is mounted, and what of it is.
    pub top: PathBuf,
    root: String,
    /// Below which new groups are made.
    pub parent: PathBuf,
}

/// A line of `/proc/PID/cgroup`.
struct Line<'a> {
    controllers: &'a str,
    path: &'a str,
}

fn lines(text: &str) -> impl Iterator<Item = Line<'_>> {
    text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some(Line { controllers: fields.next()?, path: fields.next()? })
    })
}

impl Hierarchy {
    /// Those of this process that have the wanted controllers.
    ///
    /// # Errors
    /// In words: which there is not.
    pub fn find() -> Result<Vec<Self>, String> {
        let mounts = Process::myself().and_then(|me| me.mountinfo()).map_err(|e| e.to_string())?.0;
        let own = fs::read_to_string("/proc/self/cgroup").map_err(|e| format!("/proc/self/cgroup: {e}"))?;
        let mut found: Vec<Self> = Vec::new();
        for controller in Controller::ALL {
            let version_1 = lines(&own).find(|line| line.controllers.split(',').any(|name| name == controller.name()));
            let hierarchy = match version_1 {
                Some(line) => Self::of_version_1(controller, line.path, &mounts)?,
                None => Self::of_version_2(controller, &own, &mounts)?,
            };
            match found.iter_mut().find(|other| other.top == hierarchy.top) {
                Some(other) => other.controllers.push(controller),
                None => found.push(hierarchy),
            }
        }
        let mut unified = found.iter_mut().filter(|hierarchy| hierarchy.version == Version::Two);
        unified.try_for_each(Self::choose_parent)?;
        Ok(found)
    }

    fn of_version_1(controller: Controller, own: &str, mounts: &[MountInfo]) -> Result<Self, String> {
        let name = controller.name();
        let is_it = |mount: &&MountInfo| mount.fs_type == "cgroup" && mount.super_options.contains_key(name);
        let mount =
            mounts.iter().rfind(is_it).ok_or_else(|| format!("the cgroup controller {name} is mounted nowhere"))?;
        Ok(Self::mounted(mount, Version::One, controller, own))
    }

    fn of_version_2(controller: Controller, own: &str, mounts: &[MountInfo]) -> Result<Self, String> {
        let none = || format!("this kernel has no cgroup controller {}", controller.name());
        let mount = mounts.iter().rfind(|mount| mount.fs_type == "cgroup2").ok_or_else(none)?;
        let own = lines(own).find(|line| line.controllers.is_empty()).ok_or_else(none)?;
        match lists(&mount.mount_point.join("cgroup.controllers"), controller) {
            true => Ok(Self::mounted(mount, Version::Two, controller, own.path)),
            false => Err(none()),
        }
    }

    /// `own` is the daemon's group, as the kernel calls it.
    fn mounted(mount: &MountInfo, version: Version, controller: Controller, own: &str) -> Self {
        let (top, root) = (mount.mount_point.clone(), mount.root.clone());
        let parent = place(&top, &root, own);
        // A group that is not to be seen from here is no place.
        let parent = if parent.is_dir() { parent } else { top.clone() };
        Self { version, controllers: vec![controller], top, root, parent }
    }

    /// The nearest group, from the daemon's own upwards, whose children have the controllers. A group with processes in it can
    /// have none, so that is hardly ever the daemon's own; only the host's root is asked to give them.
    fn choose_parent(&mut self) -> Result<(), String> {
        let all = |group: &Path| {
            self.controllers.iter().all(|controller| lists(&group.join("cgroup.subtree_control"), *controller))
        };
        let upwards = self.parent.ancestors().take_while(|group| group.starts_with(&self.top));
        if let Some(parent) = upwards.into_iter().find(|group| all(group)) {
            self.parent = parent.to_owned();
            return Ok(());
        }
        let given = give(&self.top, &self.controllers);
        given.map_err(|error| {
            let names: Vec<_> = self.controllers.iter().map(|controller| controller.name()).collect();
            format!(
                "no group that this daemon is in gives its children the controllers {}: {error}",
                names.join(" and ")
            )
        })?;
        self.parent = self.top.clone();
        Ok(())
    }

    /// Where a process is in it.
    pub fn place_of(&self, pid: i32) -> Option<PathBuf> {
        let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let is_here = |line: &Line| match self.version {
            Version::One => line.controllers.split(',').any(|name| self.controllers.iter().any(|c| c.name() == name)),
            Version::Two => line.controllers.is_empty(),
        };
        lines(&text).find(is_here).map(|line| place(&self.top, &self.root, line.path))
    }
}

/// Has children of a group have these controllers.
pub(super) fn give(group: &Path, controllers: &[Controller]) -> io::Result<()> {
    let wanted: Vec<String> = controllers.iter().map(|controller| format!("+{}", controller.name())).collect();
    set(&group.join("cgroup.subtree_control"), &wanted.join(" "))
}

/// What is not there is not found: to make it, as for other files, would be forbidden.
pub(super) fn set(file: &Path, text: &str) -> io::Result<()> {
    fs::File::options().write(true).open(file)?.write_all(text.as_bytes())
}

fn lists(list: &Path, controller: Controller) -> bool {
    fs::read_to_string(list).is_ok_and(|names| names.split_whitespace().any(|name| name == controller.name()))
}

/// Where a group is to be seen of a hierarchy of which this much is mounted.
fn place(top: &Path, root: &str, group: &str) -> PathBuf {
    let below = Path::new(group).strip_prefix(root).or(Path::new(group).strip_prefix("/"));
    below.map_or_else(|_| top.to_owned(), |below| top.join(below))
}
