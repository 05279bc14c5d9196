//! Sizes and limits of disks. Growing and throttling need nothing of the guest.

use serde_json::json;

use super::Setback;
use crate::{
    model::{Disk, IoLimits, VmSpec},
    qemu::devices,
    qmp::{QmpError, Session},
    vm::actor::Actor,
};

const GIB: u64 = 1 << 30;

impl Actor {
    /// `block_resize`; the guest sees the new size at once.
    pub(super) async fn resize_disks(&mut self) -> Result<(), Setback> {
        for disk in self.differing(|wanted, present| wanted.size > present.size) {
            let session = self.session()?;
            self.guarded(resize(&session, devices::node_name(&disk), disk.size * GIB)).await?;
            self.record_disk_in_effect(&disk.name, |present| present.size = disk.size).await?;
        }
        Ok(())
    }

    /// `block_set_io_throttle`, with zeros for what is no longer limited.
    pub(super) async fn throttle_disks(&mut self) -> Result<(), Setback> {
        for disk in self.differing(|wanted, present| wanted.io_limits != present.io_limits) {
            let session = self.session()?;
            self.guarded(throttle(&session, &disk, &disk.io_limits.unwrap_or_default())).await?;
            self.record_disk_in_effect(&disk.name, |present| present.io_limits = disk.io_limits).await?;
        }
        Ok(())
    }

    /// The disks that QEMU has, as they are defined, where `differ` says that it has them differently.
    fn differing(&mut self, differ: impl Fn(&Disk, &Disk) -> bool) -> Vec<Disk> {
        let wanted = self.record.spec.disks.clone();
        let Some(run) = self.live_run() else { return Vec::new() };
        let present = &run.in_effect;
        let pairs =
            wanted.into_iter().filter_map(|disk| present.disk(&disk.name).cloned().map(|present| (disk, present)));
        pairs.filter(|(wanted, present)| differ(wanted, present)).map(|(wanted, _)| wanted).collect()
    }

    pub(super) async fn record_disk_in_effect(
        &mut self,
        name: &str,
        step: impl FnOnce(&mut Disk),
    ) -> Result<(), Setback> {
        self.record_in_effect(|spec| {
            if let Some(disk) = spec.disk_mut(name) {
                step(disk);
            }
        })
        .await
    }

    /// The images of a VM without a process, with qemu-img.
    pub(super) async fn resize_offline(&mut self) -> Result<(), String> {
        for disk in &self.record.spec.disks {
            self.ctx.owns(disk, &self.record.spec).map_err(|error| error.to_string())?;
            // In QEMU's own words, and not by its header: a base image may have moved with the state directory.
            let image = format!("json:{}", devices::blockdev(disk));
            self.ctx.images.grow(&image, &disk.file, disk.size).await?;
        }
        Ok(())
    }
}

/// Sees to it before the guest runs that its disks have their defined size: a crash may have come between the
/// definition and the image.
pub(in crate::vm) async fn resize_at_start(session: &Session, spec: &VmSpec) -> Result<(), QmpError> {
    let blocks = session.query_block().await?;
    for disk in &spec.disks {
        let (node, size) = (devices::node_name(disk), disk.size * GIB);
        let inserted = blocks.iter().filter_map(|b| b.inserted.as_ref());
        let now = inserted.filter(|i| i.node_name.as_ref() == Some(&node)).map(|i| i.image.virtual_size).next();
        if now.is_some_and(|now| now < size) {
            resize(session, node, size).await?;
        }
    }
    Ok(())
}

async fn resize(session: &Session, node: String, size: u64) -> Result<(), QmpError> {
    session.execute_raw("block_resize", Some(json!({ "node-name": node, "size": size }))).await.map(drop)
}

/// Sets every limited disk's throttle, before the guest runs.
pub(in crate::vm) async fn throttle_at_start(session: &Session, spec: &VmSpec) -> Result<(), QmpError> {
    for disk in &spec.disks {
        if let Some(limits) = &disk.io_limits {
            throttle(session, disk, limits).await?;
        }
    }
    Ok(())
}

pub(super) async fn throttle(session: &Session, disk: &Disk, limits: &IoLimits) -> Result<(), QmpError> {
    session.execute_raw("block_set_io_throttle", Some(devices::throttle(disk, limits))).await.map(drop)
}
