//! Disks that come and go while the VM runs, their sizes and limits. Their images are `images`'s.

use futures_util::future::join_all;
use qapi::qmp::{block_resize, blockdev_del};

use super::{Brief, Done, Hands, host_files, release};
use crate::{
    model::{Disk, IoLimits, VmSpec},
    qemu::devices,
    qmp::{QmpError, Session},
    vm::core::{DiskNo, Setback, StepReport as Report},
};

/// Plugs it, as large as it is defined. QEMU has it from here on, whatever comes of its limits.
pub(super) async fn plug(hands: &Hands, brief: &Brief, disk: Disk) -> Done {
    let session = hands.session()?;
    if is_plugged(&session, &disk).await? {
        // A daemon has died after that. Its size is made up for at the next start, if at all.
        if let Err(why) = enlarge(&session, &disk, disk.size).await {
            tracing::warn!(vm = %hands.id, disk = disk.name, ?why, "a disk is smaller than it is to be");
        }
        return Ok(Report::Done);
    }
    // A node without its device is from a try that was cut short.
    close_node(&session, &disk).await?;
    let plugged = async {
        open_node(hands, &session, &disk).await?;
        enlarge(&session, &disk, disk.size).await?;
        let device = devices::disk(&disk, brief.definition());
        // Raw, as everything that `qemu::devices` states once, for the command line and for here.
        Ok(session.execute_raw("device_add", Some(device)).await.map(drop)?)
    };
    if let Err(setback) = plugged.await {
        if let Setback::Refused(_) = setback {
            close_node(&session, &disk).await?;
        }
        return Err(setback);
    }
    Ok(Report::Done)
}

/// Has QEMU ask the guest to let go of it.
pub(super) async fn release(hands: &Hands, brief: &Brief, no: DiskNo) -> Done {
    let (session, disk) = (hands.session()?, live(brief, no)?);
    if !is_plugged(&session, disk).await? {
        return Ok(Report::Out);
    }
    release::ask(&session, &devices::device_id(disk)).await
}

/// The guest has let go of it: its image is closed.
pub(super) async fn close(hands: &Hands, brief: &Brief, no: DiskNo) -> Done {
    let (session, disk) = (hands.session()?, live(brief, no)?);
    // The news may be old: a disk that has come back since has the same name.
    if is_plugged(&session, disk).await? {
        return Ok(Report::StillThere);
    }
    close_node(&session, disk).await?;
    if brief.definition().disk(&disk.name).is_some() {
        tracing::info!(vm = %hands.id, disk = disk.name, "the guest has let go of a disk that it is to have; plugging it anew");
    }
    Ok(Report::Done)
}

/// `block_resize`; the guest sees the new size at once.
pub(super) async fn resize(hands: &Hands, brief: &Brief, no: DiskNo, size: u64) -> Done {
    let (session, disk) = (hands.session()?, live(brief, no)?);
    enlarge(&session, disk, size).await?;
    Ok(Report::Done)
}

/// `block_set_io_throttle`, with zeros for what is no longer limited.
pub(super) async fn limit(hands: &Hands, brief: &Brief, no: DiskNo, limits: Option<IoLimits>) -> Done {
    let (session, disk) = (hands.session()?, live(brief, no)?);
    throttle(&session, disk, &limits.unwrap_or_default()).await?;
    Ok(Report::Done)
}

/// A disk as QEMU has it.
fn live(brief: &Brief, no: DiskNo) -> Result<&Disk, Setback> {
    let gone = || Setback::NotNow(format!("QEMU does not have {}", no.name()));
    brief.up()?.in_effect.disk(&no.name()).ok_or_else(gone)
}

/// Whether QEMU has it: not before the disk has let go of its node, which comes after the device is out of the tree.
pub(in crate::vm) async fn is_plugged(session: &Session, disk: &Disk) -> Result<bool, QmpError> {
    let id = format!("/{}/", devices::device_id(disk));
    let blocks = session.query_block().await?;
    Ok(blocks.iter().any(|block| block.qdev.as_ref().is_some_and(|qdev| qdev.contains(&id))))
}

/// Opens its image, and what that hangs on, and has QEMU take them.
pub(super) async fn open_node(hands: &Hands, session: &Session, disk: &Disk) -> Result<(), Setback> {
    host_files::give(hands, session, &devices::disk_files(disk)).await?;
    // Raw JSON: qapi's type drops `"backing": null`, and QEMU would follow the header then.
    session.execute_raw("blockdev-add", Some(devices::blockdev(disk))).await?;
    Ok(())
}

/// Closes the image of a disk that QEMU no longer has, and may never have had.
pub(super) async fn close_node(session: &Session, disk: &Disk) -> Result<(), Setback> {
    let node = devices::node_name(disk);
    match session.execute(blockdev_del { node_name: node.clone() }).await {
        Ok(_) => {}
        Err(QmpError::Refused { desc, .. }) => {
            if size_of(session, &node).await?.is_some() {
                return Err(Setback::Host(desc));
            }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(host_files::take_back(session, &devices::disk_files(disk)).await?)
}

/// Bytes that a node shows its guest.
async fn size_of(session: &Session, node: &str) -> Result<Option<u64>, QmpError> {
    let nodes = session.query_named_block_nodes().await?;
    let found = nodes.into_iter().find(|found| found.node_name.as_deref() == Some(node));
    Ok(found.map(|found| found.image.virtual_size))
}

/// It never shrinks.
async fn enlarge(session: &Session, disk: &Disk, size: u64) -> Result<(), Setback> {
    let (node, size) = (devices::node_name(disk), disk.file.bytes(size));
    if size_of(session, &node).await?.is_none_or(|present| present < size) {
        set_size(session, node, size).await?;
    }
    Ok(())
}

async fn set_size(session: &Session, node: String, size: u64) -> Result<(), QmpError> {
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    session.execute(block_resize { node_name: Some(node), device: None, size }).await.map(drop)
}

pub(in crate::vm) async fn throttle(session: &Session, disk: &Disk, limits: &IoLimits) -> Result<(), QmpError> {
    // Raw, as what `qemu::devices` states; qapi's type asks for limits that nobody set.
    session.execute_raw("block_set_io_throttle", Some(devices::throttle(disk, limits))).await.map(drop)
}

/// Sees to it before the guest runs that its disks have their defined size: a crash may have come between the
/// definition and the image. `short` are those whose image is smaller.
pub(super) async fn resize_at_start(session: &Session, spec: &VmSpec, short: &[String]) -> Result<(), QmpError> {
    let resized = spec.disks.iter().filter(|disk| short.contains(&disk.name));
    let resized = resized.map(|disk| set_size(session, devices::node_name(disk), disk.bytes()));
    join_all(resized).await.into_iter().collect()
}

/// Sets every limited disk's throttle, before the guest runs.
pub(super) async fn throttle_at_start(session: &Session, spec: &VmSpec) -> Result<(), QmpError> {
    let limited = spec.disks.iter().filter_map(|disk| Some((disk, disk.io_limits.as_ref()?)));
    let throttled = limited.map(|(disk, limits)| throttle(session, disk, limits));
    join_all(throttled).await.into_iter().collect()
}
