//! Which of the layers around a VM's QEMU this host has, tried out once at the daemon's start; and the cell of each VM.
//! The layers themselves are in [`super::launcher`].

#![allow(clippy::disallowed_methods, reason = "before the daemon serves anybody, and on threads that may wait")]

use std::{
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{task::spawn_blocking, time::timeout};

use super::launcher::{Cell, Child, Layers, QEMU_PROBE, Shown, User, View};
use crate::model::{self, Layer, MissingLayer, Uids};

/// A program that says its version takes milliseconds; this is for a host under heavy load.
const TRIAL: Duration = Duration::from_secs(30);
const KVM: &str = "/dev/kvm";

/// What there is of the layers that not every host has.
#[derive(Debug)]
pub struct Sandbox {
    uids: Uids,
    /// Of the devices that QEMU opens itself.
    groups: Vec<u32>,
    /// Where QEMU's program and what belongs to it lie, if that is not where the system's do.
    shown: Vec<PathBuf>,
    missing: Vec<MissingLayer>,
}

impl Sandbox {
    /// Tries `program` in a cell, where it must say the same `version` as outside: a script may find another one there.
    /// `others` are what it may come to execute, `kvm` is whether VMs run under that.
    pub async fn find(program: &Path, version: &str, others: &[PathBuf], kvm: bool, uids: Uids) -> Self {
        let programs = others.iter().map(PathBuf::as_path).chain([program]);
        let shown = programs.filter_map(installed_in).collect();
        let mut sandbox = Self { uids, groups: Vec::new(), shown, missing: Vec::new() };
        match kvm.then(group_of_kvm).transpose() {
            Ok(group) => sandbox.groups.extend(group.flatten()),
            Err(why) => sandbox.missing.push(MissingLayer { layer: Layer::User, why }),
        }
        let both = [Layer::User, Layer::Landlock];
        if !sandbox.missing.is_empty() || sandbox.runs(program, version, &both).await.is_err() {
            for layer in both {
                if sandbox.offers(layer)
                    && let Err(why) = sandbox.runs(program, version, &[layer]).await
                {
                    sandbox.missing.push(MissingLayer { layer, why });
                }
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
        Layer::ALL.into_iter().filter(|layer| in_force.includes(*layer) && self.offers(*layer)).collect()
    }

    /// A cell for a child whose user is searched for from `seed` on, and how it is told to people. Blocks.
    ///
    /// # Errors
    /// When no user is free, or the kernel has no descriptor left.
    pub fn cell(&self, seed: u32) -> io::Result<(Cell, model::Sandbox)> {
        let layers = self.layers();
        let cell = self.made(seed, &layers)?;
        let uid = cell.user.as_ref().map(User::id);
        Ok((cell, model::Sandbox { uid, layers }))
    }

    fn offers(&self, layer: Layer) -> bool {
        !self.missing.iter().any(|missing| missing.layer == layer)
    }

    fn made(&self, seed: u32, layers: &[Layer]) -> io::Result<Cell> {
        let with_user = layers.contains(&Layer::User);
        let user = with_user.then(|| User::take(&self.uids, seed, &self.groups)).transpose()?;
        // What anybody may read there is nothing to a user that is nobody else.
        let settings = with_user.then(|| PathBuf::from("/etc"));
        let read = settings.into_iter().collect();
        let shown = Shown { programs: self.shown.clone(), read, written: Vec::new() };
        let view = layers.contains(&Layer::Landlock).then(|| View::of(&shown)).transpose()?;
        Ok(Cell { user, view })
    }

    /// Whether a program can be run in a cell of these layers, or why not.
    async fn runs(&self, program: &Path, version: &str, layers: &[Layer]) -> Result<(), String> {
        if layers.contains(&Layer::User) && !rustix::process::geteuid().is_root() {
            return Err("the daemon is not root, so its VMs run as its own user".to_owned());
        }
        let cell = self.made(std::process::id(), layers).map_err(|error| error.to_string())?;
        let uid = cell.user.as_ref().map(User::id);
        let whom = uid.map_or_else(String::new, |uid| format!(" as a user of its own (such as {uid})"));
        let fails = |why: String| format!("{} does not run{whom}: {why}", program.display());
        let trial = Child::new(QEMU_PROBE, program).arg("--version").within(cell).piped().spawn();
        let trial = trial.map_err(|error| fails(error.to_string()))?;
        // It ends with the thread that started it, which is one of the runtime's.
        let ended = spawn_blocking(move || trial.output());
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
pub(super) fn installed_in(program: &Path) -> Option<PathBuf> {
    let program = program.canonicalize().ok()?;
    let folder = program.parent()?;
    let prefix = folder.parent().filter(|prefix| prefix.join("share/qemu").is_dir());
    Some(prefix.unwrap_or(folder).to_owned())
}
