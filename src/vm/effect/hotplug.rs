//! Disks that come and go while the VM runs, and their images. NICs are `nics`'s.

use serde_json::json;

use super::{Setback, disk::throttle, release::Device};
use crate::{
    model::{Conflict, Disk, Error, Operation},
    qemu::devices,
    vm::actor::Actor,
};

impl Actor {
    /// Makes the images of disks that have none yet.
    ///
    /// # Errors
    /// qemu-img's words, or a forced request that overtakes a long copy; a half-made image is left for
    /// [`Self::remove_orphans`].
    pub(super) async fn make_images(&mut self) -> crate::model::Result<()> {
        let images = self.ctx.images.clone();
        for disk in self.record.spec.disks.clone().into_iter().filter(|disk| disk.in_making) {
            let made = self.guarded(async {
                Ok(match &disk.base {
                    Some(base) => images.clone_base(base, disk.clone, &disk.file, disk.size).await,
                    None => images.create(&disk.file, disk.size).await,
                })
            });
            match made.await {
                Ok(made) => made.map_err(|why| Error::failed(Operation::Change, why))?,
                Err(_) => return Err(Conflict::Overtaken.into()),
            }
            let mut made = (*self.record.spec).clone();
            if let Some(made) = made.disk_mut(&disk.name) {
                made.in_making = false;
            }
            self.define(made).await?;
        }
        Ok(())
    }

    /// Forgets disks whose image an earlier daemon did not finish: nobody was told of them.
    pub(in crate::vm) async fn drop_unmade_disks(&mut self) {
        if self.record.spec.disks.iter().any(|disk| disk.in_making) {
            let mut spec = (*self.record.spec).clone();
            spec.disks.retain(|disk| !disk.in_making);
            if let Err(error) = self.define(spec).await {
                tracing::warn!(vm = %self.record.spec.id, %error, "cannot forget a disk that was not made");
            }
        }
        self.remove_orphans().await;
    }

    /// Plugs what is defined and not there, and unplugs what is there and no longer defined: the disk `only`, or all of
    /// them. What stands in the way of one does not keep the others.
    pub(super) async fn plug_disks(&mut self, only: Option<&str>) -> Result<(), Setback> {
        let wanted = self.record.spec.disks.clone();
        let Some(run) = self.live_run() else { return Ok(()) };
        let there = run.in_effect.disks.clone();
        let meant = |disk: &&Disk| only.is_none_or(|name| disk.name == name);
        let missing = |disk: &&Disk, disks: &[Disk]| disks.iter().all(|d| d.name != disk.name);
        let mut outcome = Ok(());
        for disk in there.iter().filter(meant).filter(|disk| missing(disk, &wanted)) {
            outcome = outcome.and(self.unplug_disk(disk).await);
        }
        for disk in wanted.iter().filter(meant).filter(|disk| missing(disk, &there) && !disk.in_making) {
            outcome = outcome.and(self.plug_disk(disk).await);
        }
        outcome
    }

    /// Asks QEMU first: a daemon may have died after it was plugged and before that was stored.
    async fn plug_disk(&mut self, disk: &Disk) -> Result<(), Setback> {
        let session = self.session()?;
        let device = devices::disk(disk, &self.record.spec);
        let node = json!({ "node-name": devices::node_name(disk) });
        self.guarded(async {
            if !Device::Disk(disk).is_plugged(&session).await? {
                // A node without its device is from a try that was cut short.
                let _ = session.execute_raw("blockdev-del", Some(node.clone())).await;
                // Raw JSON: qapi's type drops `"backing": null`, and QEMU would follow the header then.
                session.execute_raw("blockdev-add", Some(devices::blockdev(disk))).await?;
                if let Err(error) = session.execute_raw("device_add", Some(device)).await {
                    let _ = session.execute_raw("blockdev-del", Some(node)).await;
                    return Err(error);
                }
            }
            Ok(())
        })
        .await?;
        // QEMU has it from here on, and so its image is one that is in use, whatever comes of its limits.
        let plugged = Disk { io_limits: None, ..disk.clone() };
        self.record_in_effect(|spec| spec.disks.push(plugged)).await?;
        if let Some(limits) = &disk.io_limits {
            self.guarded(throttle(&session, disk, limits)).await?;
            self.record_disk_in_effect(&disk.name, |present| present.io_limits = disk.io_limits).await?;
        }
        Ok(())
    }

    async fn unplug_disk(&mut self, disk: &Disk) -> Result<(), Setback> {
        self.release(Device::Disk(disk)).await?;
        self.unplugged(disk).await
    }

    /// As with NICs: a removal that was cut short is taken up again.
    pub(super) async fn ask_for_disks_again(&mut self) {
        let Some(run) = self.live_run() else { return };
        let there = run.in_effect.disks.clone();
        let leaving: Vec<&Disk> = there.iter().filter(|disk| self.record.spec.disk(&disk.name).is_none()).collect();
        for disk in leaving {
            let Ok(session) = self.session() else { return };
            // What comes of it is an event.
            let _ = self.guarded(Device::Disk(disk).ask(&session)).await;
        }
    }

    /// What QEMU no longer has of what it is known to have: the guest has let go of it while no daemon listened.
    pub(super) async fn note_lost_devices(&mut self) {
        let (Some(run), Ok(session)) = (self.live_run().map(|run| run.in_effect.clone()), self.session()) else {
            return;
        };
        for disk in run.disks.iter().filter(|disk| disk.slot.is_some()) {
            if matches!(self.guarded(Device::Disk(disk).is_plugged(&session)).await, Ok(false)) {
                tracing::info!(vm = %self.record.spec.id, disk = disk.name, "the guest had let go of a disk");
                let _ = self.unplugged(disk).await;
            }
        }
        for nic in run.nics.iter().filter(|nic| nic.slot.is_some()) {
            self.nic_deleted(&nic.name).await;
        }
    }

    /// The guest has let go of a disk that nobody is taking out, or no longer: a removal was refused, and then the guest
    /// came round to it. What is defined comes back.
    pub(in crate::vm) async fn disk_deleted(&mut self, device: &str) {
        let Some(run) = self.live_run() else { return };
        let disk = run.in_effect.disks.iter().find(|disk| devices::device_id(disk) == device).cloned();
        let (Some(disk), Ok(session)) = (disk, self.session()) else { return };
        // Perhaps it has been plugged again since.
        if !matches!(self.guarded(Device::Disk(&disk).is_plugged(&session)).await, Ok(false)) {
            return;
        }
        tracing::info!(vm = %self.record.spec.id, disk = disk.name, "the guest has let go of a disk");
        if self.unplugged(&disk).await.is_ok() && self.plug_disks(Some(&disk.name)).await.is_err() {
            tracing::warn!(vm = %self.record.spec.id, disk = disk.name, "the disk is back at the next start");
        }
        self.remove_orphans().await;
    }

    /// The device is gone; its image is closed.
    async fn unplugged(&mut self, disk: &Disk) -> Result<(), Setback> {
        let session = self.session()?;
        let node = json!({ "node-name": devices::node_name(disk) });
        match self.guarded(async { session.execute_raw("blockdev-del", Some(node)).await }).await.map_err(Setback::from)
        {
            // Gone already: a daemon died after this and before it was stored.
            Ok(_) | Err(Setback::Refused(_)) => {}
            Err(other) => return Err(other),
        }
        self.record_in_effect(|spec| spec.disks.retain(|d| d.name != disk.name)).await
    }
}
