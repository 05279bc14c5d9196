//! Changes of a VM's definition, and how a running VM comes to have them. What was acknowledged is in the record; what
//! QEMU has is in `LiveRun::in_effect`; each step towards the other is stored when it is made. So a change that was cut
//! short, by a crash of the daemon or a guest that did not follow, is simply a difference between the two, which
//! `GET …/config` shows as `pending` and which the next start, at the latest, makes up for.

mod cpu;
mod disk;
mod hotplug;
mod medium;
mod memory;
mod nics;
mod pinning;
mod policy;
mod release;

pub(super) use disk::{resize_at_start, throttle_at_start};
pub(super) use memory::Source as MemorySource;
pub(super) use nics::check_ports;
pub(super) use pinning::pin;

use std::sync::Arc;

use super::{
    actor::{Actor, Interrupted},
    lifecycle::{Action, Decision, Request},
    live::{Instance, Live},
};
use crate::{
    model::{Applied, Change, Conflict, Error, LiveRun, Operation, Redefinition, Result, Run, VmRecord, VmSpec},
    qmp::{QmpError, Session},
    store::StoreError,
};

/// Why a step towards the definition was not made.
enum Setback {
    /// The guest, or QEMU in its state of the moment, does not follow: the next start will.
    NotNow(String),
    /// QEMU refuses what it should take: the change is taken back.
    Refused(String),
    /// The guest holds on to a device. A disk stays then; a NIC goes when the guest lets go of it.
    InUse,
    /// In words of our own: the change is taken back.
    Reported(Error),
    Interrupted(Interrupted),
}

impl std::fmt::Display for Setback {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotNow(why) | Self::Refused(why) => f.write_str(why),
            Self::InUse => f.write_str("the guest has not let go of it"),
            Self::Reported(error) => error.fmt(f),
            Self::Interrupted(_) => f.write_str("something else came first"),
        }
    }
}

impl From<Interrupted> for Setback {
    fn from(interrupted: Interrupted) -> Self {
        match interrupted {
            Interrupted::Qmp(QmpError::Refused { desc, .. }) => Self::Refused(desc),
            other => Self::Interrupted(other),
        }
    }
}

impl Actor {
    /// Stores a change and brings it into effect as far as that is possible now.
    ///
    /// # Errors
    /// [`Error::Invalid`]; [`Error::Failed`] when QEMU refuses or the store fails, and the definition is the old one then.
    pub(super) async fn change(&mut self, change: Change) -> Result<Applied> {
        if let Change::AddDisk { disk, .. } = &change
            && let Some(made) = self.record.spec.disk_of(disk.request)
        {
            return Ok(self.applied(&made.name));
        }
        let mut before = (*self.record.spec).clone();
        let in_effect = self.live_run().map(|run| run.in_effect.clone());
        let wanted = change.clone().apply(&before, in_effect.as_deref(), self.ctx.host.memory)?;
        let decision = self.decide(Request::Change);
        if let Decision::Refuse(refusal) = decision {
            return Err(self.refused(refusal));
        }
        if let Change::AddDisk { .. } = &change
            && let Some(disk) = wanted.disks.last()
            && std::fs::symlink_metadata(&disk.file).is_ok()
        {
            let file = disk.file.display();
            return Err(Error::Storage(format!(
                "There is a file {file} that no record names, as there may be after an older export was restored; qherd \
                 does not write over it. Move it away and try again."
            )));
        }
        // Taken back or not, the name of a device that was added is used up: its image may be there.
        (before.disks_added, before.nics_added) = (wanted.disks_added, wanted.nics_added);
        let owed = self.record.upkeep;
        self.record.upkeep = owed.within(&wanted.policy);
        let defined = match &change {
            // It frees space, which a full disk must not prevent.
            Change::RemoveDisk(_) | Change::RemoveNic(_) => self.define(wanted).await,
            _ => self.define_anew(wanted).await,
        };
        if let Err(error) = defined {
            self.record.upkeep = owed;
            return Err(error);
        }
        if let Err(error) = self.make_images().await {
            self.define(before).await?;
            self.remove_orphans().await;
            return Err(error);
        }
        let outcome = self.carry_out(&change, before, decision).await;
        self.remove_orphans().await;
        outcome
    }

    /// Whether QEMU has a disk that was added before.
    fn applied(&self, disk: &str) -> Applied {
        match &self.record.run {
            Run::Live(run) if run.in_effect.disk(disk).is_some() => Applied::Live,
            _ => Applied::NextStart,
        }
    }

    /// Stores a definition that takes effect at the next start; one that is the present one already is fine in any state.
    pub(super) async fn redefine(&mut self, redefinition: Redefinition) -> Result<bool> {
        let before = (*self.record.spec).clone();
        let wanted = redefinition.apply(&before, self.ctx.host.memory)?;
        if wanted == before {
            return Ok(false);
        }
        // Only its client calls something differently.
        if wanted.is_same_but_for_names(&before) {
            return self.define_anew(wanted).await.map(|()| false);
        }
        if let Decision::Refuse(refusal) = self.decide(Request::Redefine) {
            return Err(self.refused(refusal));
        }
        let grows = wanted.disks != before.disks;
        self.define_anew(wanted).await?;
        if grows && let Err(why) = self.resize_offline().await {
            self.define(before).await?;
            return Err(Error::failed(Operation::Change, why));
        }
        Ok(true)
    }

    /// Brings a stored change into effect, or takes it back.
    async fn carry_out(&mut self, change: &Change, before: VmSpec, decision: Decision) -> Result<Applied> {
        if decision != Decision::Do(Action::Apply) {
            if matches!(change, Change::Disk { size: Some(_), .. })
                && self.instance.process().is_none()
                && let Err(why) = self.resize_offline().await
            {
                self.define(before).await?;
                return Err(Error::failed(Operation::Change, why));
            }
            return Ok(Applied::NextStart);
        }
        match self.bring_into_effect(change).await {
            Ok(()) => Ok(Applied::Live),
            Err(Setback::NotNow(why)) => {
                tracing::info!(vm = %self.record.spec.id, why, "a change waits for the next start");
                Ok(Applied::NextStart)
            }
            Err(Setback::Refused(why)) => {
                self.define(before).await?;
                Err(Error::failed(Operation::Change, why))
            }
            Err(Setback::Reported(error)) => {
                self.define(before).await?;
                Err(error)
            }
            Err(Setback::InUse) if matches!(change, Change::RemoveNic(_)) => Ok(Applied::NextStart),
            Err(Setback::InUse) => {
                self.define(before).await?;
                Err(Conflict::DiskInUse.into())
            }
            // Refused, so nothing of it may stay: a disk whose removal was refused keeps its image.
            Err(Setback::Interrupted(Interrupted::Overtaken)) => {
                self.define(before).await?;
                Err(Conflict::Overtaken.into())
            }
            // The definition is stored; the VM gets it when it starts again or its monitor is back.
            Err(Setback::Interrupted(_)) => Ok(Applied::NextStart),
        }
    }

    /// Brings what a change is about into effect; what waits of others does not delay it, nor does it answer for them.
    async fn bring_into_effect(&mut self, change: &Change) -> std::result::Result<(), Setback> {
        match change {
            Change::Cpu { vcpus, .. } => {
                let adjusted = if vcpus.is_some() { self.adjust_vcpus().await } else { Ok(()) };
                // Also for those that came before the others did not.
                let pinned = self.pin_threads().await;
                adjusted.and(pinned)
            }
            Change::Memory(_) => self.adjust_memory().await,
            Change::Disk { name, .. } => {
                if self.live_run().is_some_and(|run| run.in_effect.disk(name).is_none()) {
                    return Err(Setback::NotNow("the disk itself waits for the next start".into()));
                }
                self.resize_disks().await?;
                self.throttle_disks().await
            }
            Change::AddDisk { .. } => {
                let added = self.record.spec.disks.last().map(|disk| disk.name.clone());
                self.plug_disks(added.as_deref()).await
            }
            Change::RemoveDisk(name) => self.plug_disks(Some(name)).await,
            Change::Policy(_) => self.adjust_policy().await,
            Change::Medium(_) => self.adjust_medium().await,
            Change::AddNic(nic) => self.plug_nics(Some(nic.id)).await,
            Change::RemoveNic(id) => self.plug_nics(Some(*id)).await,
            Change::Port { nic, .. } => self.adjust_ports(Some(*nic)).await,
        }
    }

    /// Makes up for every difference between what is defined and what QEMU has. Harmless when there is none.
    async fn make_up(&mut self) -> std::result::Result<(), Setback> {
        let ruled = self.adjust_policy().await;
        let plugged = self.plug_disks(None).await;
        let connected = self.plug_nics(None).await;
        let inserted = self.adjust_medium().await;
        let adjusted = self.adjust_ports(None).await;
        let resized = self.resize_disks().await;
        let throttled = self.throttle_disks().await;
        // Each of these may have to wait for the guest, and none waits for the other.
        let vcpus = self.adjust_vcpus().await;
        let pinned = self.pin_threads().await;
        let memory = self.adjust_memory().await;
        ruled
            .and(plugged)
            .and(connected)
            .and(inserted)
            .and(adjusted)
            .and(resized)
            .and(throttled)
            .and(vcpus)
            .and(pinned)
            .and(memory)
    }

    /// Goes on with what an earlier daemon had begun, as far as that works.
    pub(super) async fn take_up_changes(&mut self) {
        self.note_lost_devices().await;
        self.recount_vcpus().await;
        match self.make_up().await {
            Ok(()) | Err(Setback::Interrupted(_)) => {}
            Err(why) => tracing::info!(vm = %self.record.spec.id, %why, "a change waits for the next start"),
        }
        // A disk whose removal the daemon died over is out now.
        self.remove_orphans().await;
    }

    /// Makes `spec` the definition, on stable storage and published.
    async fn define(&mut self, spec: VmSpec) -> Result<()> {
        let record = VmRecord { spec: spec.into(), ..self.record.clone() };
        let stored = self.ctx.persist(&record).await;
        self.defined(record, stored)
    }

    /// As [`Self::define`], where a full disk refuses it.
    async fn define_anew(&mut self, spec: VmSpec) -> Result<()> {
        let record = VmRecord { spec: spec.into(), ..self.record.clone() };
        let stored = self.ctx.persist_wish(&record).await;
        self.defined(record, stored)
    }

    fn defined(&mut self, record: VmRecord, stored: std::result::Result<(), StoreError>) -> Result<()> {
        stored.map_err(|error| Error::failed(Operation::Change, error))?;
        self.record = record;
        self.publish();
        Ok(())
    }

    /// Notes a step that QEMU has made, if it is none that is noted already.
    async fn record_in_effect(&mut self, step: impl FnOnce(&mut VmSpec)) -> std::result::Result<(), Setback> {
        let Some(run) = self.live_run() else { return Ok(()) };
        let before = run.in_effect.clone();
        step(Arc::make_mut(&mut run.in_effect));
        if run.in_effect == before {
            return Ok(());
        }
        let stored = self.ctx.persist(&self.record).await;
        self.publish();
        stored.map_err(|e| Setback::NotNow(e.to_string()))
    }

    fn live_run(&mut self) -> Option<&mut LiveRun> {
        match &mut self.record.run {
            Run::Live(run) => Some(run),
            _ => None,
        }
    }

    fn live(&mut self) -> std::result::Result<&mut Live, Setback> {
        match &mut self.instance {
            Instance::Live(live) => Ok(live),
            _ => Err(Setback::NotNow("its monitor does not answer".into())),
        }
    }

    fn session(&mut self) -> std::result::Result<Session, Setback> {
        Ok(self.live()?.session.clone())
    }
}
