//! Which of the layers around a VM's QEMU, or another program that works on what others bring, this host has, tried out once at the
//! daemon's start; and the cell of each.
//! The layers themselves are in [`super::launcher`].

#![allow(clippy::disallowed_methods, reason = "before the daemon serves anybody, and on threads that may wait")]

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::timeout};
use uuid::Uuid;

use super::{
    cgroups::{Bounds, Cgroups, Group, PROCESSES},
    launcher::{Apart, Cell, Child, Layers, Permit, Roots, Shown, Tcp, User, View},
};
use crate::model::{self, Layer, MissingLayer, Uids, VmId};

/// A program that says its version takes milliseconds; this is for a host under heavy load.
const TRIAL: Duration = Duration::from_secs(30);
const KVM: &str = "/dev/kvm";
/// Those that not every host has, or not every daemon may use.
const OPTIONAL: [Layer; 7] =
    [Layer::Cgroup, Layer::Mounts, Layer::Network, Layer::Ipc, Layer::User, Layer::Landlock, Layer::Tcp];
/// For a program that says its version, and that of a script before it, in bytes.
const TRIAL_MEMORY: u64 = 1 << 30;
/// Threads of a program that works on images.
const THREADS: u64 = 256;

/// What there is of the layers that not every host has.
#[derive(Debug)]
pub struct Sandbox {
    uids: Uids,
    /// Of the devices that QEMU opens itself.
    groups: Vec<u32>,
    shown: Shown,
    roots: Roots,
    cgroups: Result<Cgroups, String>,
    missing: Vec<MissingLayer>,
}

/// What is to be run.
#[derive(Clone, Copy, Debug)]
pub struct Programs<'a> {
    pub program: &'a Path,
    /// What it says outside; a script may find another one inside.
    pub version: &'a str,
    /// What else it may come to execute.
    pub others: &'a [PathBuf],
    /// As what it is tried.
    pub permit: Permit,
    pub kvm: bool,
}

/// What one VM's cell has to leave it, or that of a program which works on images.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    pub vm: Option<VmId>,
    /// The way to the host's network, for QEMU's user-mode network.
    pub network: bool,
    /// Bytes at most.
    pub memory: u64,
}

/// A cell that a child can be put into.
#[derive(Debug)]
pub struct Made {
    pub cell: Cell,
    /// How it is told to people.
    pub shown: model::Sandbox,
    /// To be ended with the VM.
    pub group: Option<Group>,
}

impl Made {
    /// One without anything of the host's that would have to be cleared away.
    pub fn of(cell: Cell) -> Self {
        Self { cell, shown: model::Sandbox::default(), group: None }
    }
}

impl Needs {
    fn group(self, cgroups: &Cgroups) -> io::Result<Group> {
        let Self { vm, memory, .. } = self;
        match vm {
            Some(vm) => cgroups.make(&vm.to_string(), Bounds { memory, processes: PROCESSES }),
            None => cgroups.make("image", Bounds { memory, processes: THREADS }),
        }
    }
}

impl Sandbox {
    /// Tries what there is with a program, which must say the same version as outside. `mark` is the state directory's.
    pub async fn find(programs: Programs<'_>, uids: Uids, mark: &str) -> Self {
        let all = programs.others.iter().map(PathBuf::as_path).chain([programs.program]);
        let (names, folders) = (all.clone().map(Path::to_owned).collect(), all.filter_map(installed_in).collect());
        let shown = Shown { programs: folders, names, ..Shown::default() };
        // What anybody may read there is nothing to a user that is nobody else.
        let with_settings = Shown { read: vec![PathBuf::from("/etc")], ..shown.clone() };
        let cgroups = match rustix::process::geteuid().is_root() {
            true => Cgroups::find(mark),
            false => Err("the daemon is not root, so it makes no control groups".to_owned()),
        };
        let mut sandbox =
            Self { uids, groups: Vec::new(), shown, roots: Roots::new(with_settings), cgroups, missing: Vec::new() };
        match programs.kvm.then(group_of_kvm).transpose() {
            Ok(group) => sandbox.groups.extend(group.flatten()),
            Err(why) => sandbox.missing.push(MissingLayer { layer: Layer::User, why }),
        }
        if sandbox.missing.is_empty() && sandbox.runs(programs, &OPTIONAL).await.is_ok() {
            return sandbox;
        }
        for layer in OPTIONAL {
            // One that Landlock puts on is tried with it.
            let tried = if layer == Layer::Tcp { vec![Layer::Landlock, layer] } else { vec![layer] };
            if sandbox.offers(layer)
                && let Err(why) = sandbox.runs(programs, &tried).await
            {
                sandbox.missing.push(MissingLayer { layer, why });
            }
        }
        sandbox
    }

    /// Layers that VMs here go without, and why.
    pub fn missing(&self) -> &[MissingLayer] {
        &self.missing
    }

    /// Those that they have.
    pub fn layers(&self) -> Vec<Layer> {
        let in_force = Layers::in_force();
        let wanted = |layer: &Layer| in_force.includes(*layer) && self.offers(*layer);
        let without_landlock = !wanted(&Layer::Landlock);
        Layer::ALL.into_iter().filter(|layer| wanted(layer) && !(without_landlock && *layer == Layer::Tcp)).collect()
    }

    /// A cell for a VM's QEMU. Blocks.
    ///
    /// # Errors
    /// When no user is free, a group cannot be made, or the kernel has no descriptor left.
    pub fn cell(&self, needs: Needs) -> io::Result<Made> {
        let mut layers = self.layers();
        if needs.network {
            layers.retain(|layer| !matches!(layer, Layer::Network | Layer::Tcp));
        }
        self.made(needs, layers)
    }

    /// A cell for what speaks to the network for a VM's QEMU: its user and its group, and the host's network. Files it is kept from
    /// by itself, as it makes an empty root. Blocks.
    ///
    /// # Errors
    /// When the kernel has no descriptor left, or the group is gone.
    pub fn cell_beside(&self, run: &model::Sandbox, group: Option<&Group>) -> io::Result<Cell> {
        let seat = group.map(Group::seat).transpose()?;
        Ok(Cell { seat, apart: Apart::default(), user: run.uid.map(User::beside), view: View::of_scopes().ok() })
    }

    /// The same, by itself, to try a program in. Blocks.
    ///
    /// # Errors
    /// Where VMs have no users of their own here; when none is free.
    pub fn cell_to_try(&self) -> io::Result<(Cell, u32)> {
        if !self.offers(Layer::User) {
            let why = "it is kept in a user of its VM's, and VMs have none here";
            return Err(io::Error::other(why));
        }
        let user = User::take(&self.uids, Uuid::new_v4().as_fields().0, &[])?;
        let uid = user.id();
        Ok((Cell { seat: None, apart: Apart::default(), user: Some(user), view: View::of_scopes().ok() }, uid))
    }

    /// Clears away what earlier daemons have left of VMs that have ended. Before the first VM of this one; blocks.
    pub fn sweep(&self) {
        if let Ok(cgroups) = &self.cgroups {
            cgroups.sweep();
        }
        User::forget_all_unused();
    }

    /// The groups of a QEMU that an earlier daemon has started.
    pub fn group_of(&self, pid: i32) -> Option<Group> {
        self.cgroups.as_ref().ok()?.of(pid)
    }

    /// What is left of a run whose QEMU has ended while there was no daemon.
    pub fn left_by(&self, run: &model::Sandbox) -> Option<Group> {
        self.cgroups.as_ref().ok()?.left(run.cgroup.as_deref()?)
    }

    fn offers(&self, layer: Layer) -> bool {
        !self.missing.iter().any(|missing| missing.layer == layer)
    }

    fn made(&self, needs: Needs, layers: Vec<Layer>) -> io::Result<Made> {
        let wanted = |layer: Layer| layers.contains(&layer);
        let seed = needs.vm.map_or_else(|| Uuid::new_v4().as_fields().0, |vm| vm.number());
        let user = wanted(Layer::User).then(|| User::take(&self.uids, seed, &self.groups)).transpose()?;
        let read = user.iter().map(|_| PathBuf::from("/etc")).collect();
        let shown = Shown { read, ..self.shown.clone() };
        let tcp = if wanted(Layer::Tcp) { Tcp::None } else { Tcp::Any };
        let view = wanted(Layer::Landlock).then(|| View::of(&shown, tcp)).transpose()?;
        let root = wanted(Layer::Mounts).then(|| self.roots.root()).transpose()?;
        let apart = Apart { network: wanted(Layer::Network), ipc: wanted(Layer::Ipc), root };
        let uid = user.as_ref().map(User::id);
        // The last that can fail: it is of the host.
        let group = match &self.cgroups {
            Ok(cgroups) if wanted(Layer::Cgroup) => Some(needs.group(cgroups)?),
            Err(why) if wanted(Layer::Cgroup) => return Err(io::Error::other(why.clone())),
            Ok(_) | Err(_) => None,
        };
        let seat = group.as_ref().map(Group::seat).transpose().inspect_err(|_| group.iter().for_each(Group::end))?;
        let cgroup = group.as_ref().map(|group| group.path().to_owned());
        Ok(Made {
            cell: Cell { seat, apart, user, view },
            shown: model::Sandbox { uid, layers, cgroup, carrier: None },
            group,
        })
    }

    /// Whether a program can be run in a cell of these layers, or why not.
    async fn runs(&self, programs: Programs<'_>, layers: &[Layer]) -> Result<(), String> {
        let Programs { program, version, permit, .. } = programs;
        if layers.contains(&Layer::User) && !rustix::process::geteuid().is_root() {
            return Err("the daemon is not root, so what it starts runs as its own user".to_owned());
        }
        if layers.contains(&Layer::Tcp) {
            View::can_refuse_tcp().map_err(|error| error.to_string())?;
        }
        let needs = Needs { vm: None, network: false, memory: TRIAL_MEMORY };
        let Made { cell, shown, group } = self.made(needs, layers.to_vec()).map_err(|error| error.to_string())?;
        let whom = shown.uid.map_or_else(String::new, |uid| format!(" as a user of its own (such as {uid})"));
        let fails = |why: String| format!("{} does not run{whom}: {why}", program.display());
        let trial = Child::new(permit, program).arg("--version").within(cell).piped().spawn();
        let clear = move || {
            group.iter().for_each(Group::end);
            shown.uid.map_or(Ok(()), User::forget)
        };
        let trial = match trial {
            Ok(trial) => trial,
            Err(error) => {
                let _ = clear();
                return Err(fails(error.to_string()));
            }
        };
        // It ends with the thread that started it, which is one of the runtime's.
        let ended = spawn_blocking(move || {
            let output = trial.output();
            let _ = clear();
            output
        });
        match timeout(TRIAL, ended).await {
            Ok(Ok(Ok(output))) if !output.status.success() => Err(fails(format!("it ends with {}", output.status))),
            Ok(Ok(Ok(output))) if !String::from_utf8_lossy(&output.stdout).contains(version) => {
                Err(fails(format!("it comes to another program there than version {version}")))
            }
            Ok(Ok(Ok(_))) => Ok(()),
            Ok(Ok(Err(error))) => Err(fails(error.to_string())),
            Ok(Err(_)) | Err(_) => Err(fails("it does not end".to_owned())),
        }
    }
}

/// Whose members may use KVM; none where everybody may.
fn group_of_kvm() -> Result<Option<u32>, String> {
    let device = std::fs::metadata(KVM).map_err(|error| format!("{KVM}: {error}"))?;
    let may = |bits: u32| device.mode() & bits == bits;
    match device.gid() {
        _ if may(0o006) => Ok(None),
        group if group != 0 && may(0o060) => Ok(Some(group)),
        _ => Err(format!("{KVM} is for root alone (chgrp kvm {KVM} && chmod 0660 {KVM} lets VMs use it)")),
    }
}

/// The folder that a QEMU was installed in with all that belongs to it, or else the program's own.
pub fn installed_in(program: &Path) -> Option<PathBuf> {
    let program = program.canonicalize().ok()?;
    let folder = program.parent()?;
    let prefix = folder.parent().filter(|prefix| prefix.join("share/qemu").is_dir());
    Some(prefix.unwrap_or(folder).to_owned())
}
