//! Connects to the monitor of a VM that runs, and asks it how things are. QEMU serves one client at a time, so one
//! connection is kept waiting until it is greeted.

use std::time::Duration;

use super::{Brief, Done, Hands, IoError, Report, pinning};
use crate::{
    qmp::{QmpError, RunState, Session, StatusInfo, socket},
    vm::core::{DiskNo, Guest, Look, Setback},
};

/// One pending connection waits this long for QEMU to greet; then another one takes its place.
const PATIENCE: Duration = Duration::from_secs(3600);
/// QEMU's id of the guest agent's character device.
const AGENT_CHARDEV: &str = "agent0";

pub(super) async fn connect(hands: &Hands) -> Done {
    let stream = socket::connect(&hands.paths.qmp(), PATIENCE).await;
    let stream = stream.map_err(|error| Setback::Host(error.to_string()))?;
    // One that does not keep to the protocol says so at once, and is tried again later.
    let (session, events) = Session::open(stream, PATIENCE).await.map_err(|error| Setback::Host(error.to_string()))?;
    let threads = pinning::threads(&session).await?;
    let chardevs = session.query_chardev().await?;
    let agent = chardevs.iter().any(|chardev| chardev.label == AGENT_CHARDEV && chardev.frontend_open);
    hands.opened(session, events, threads);
    Ok(Report::Connected { agent })
}

/// How the guest is and, where that is asked, what QEMU has.
pub(super) async fn look(hands: &Hands, brief: &Brief, devices: bool) -> Done {
    let session = hands.session()?;
    let status = session.query_status().await?;
    let look = read(hands, &session, status).await?;
    if !devices {
        return Ok(Report::Guest(look));
    }
    let blocks = session.query_block().await?;
    let peripherals = session.peripherals().await?;
    let threads = pinning::threads(&session).await?;
    let vcpus = u32::try_from(threads.len()).unwrap_or(u32::MAX);
    hands.set_threads(threads);
    // Not before a disk has let go of its node, which comes after the device is out of the tree.
    let ids = blocks.iter().filter_map(|block| block.qdev.as_deref()).flat_map(|qdev| qdev.split('/'));
    let disks = ids.filter_map(disk_no).collect();
    let known = [Some(brief.definition()), brief.record.run.up().map(|up| &up.in_effect)];
    let held = brief.record.run.held.ports.values().map(|nic| &**nic);
    let all = known.into_iter().flatten().flat_map(|spec| &spec.nics).chain(held);
    let mut nics: Vec<_> = all.filter(|nic| peripherals.contains(&nic.name)).map(|nic| nic.id).collect();
    nics.sort_unstable();
    nics.dedup();
    Ok(Report::Devices { look, disks, nics, vcpus })
}

/// Of the id that QEMU knows a disk by (`qemu::devices::device_id`).
fn disk_no(id: &str) -> Option<DiskNo> {
    DiskNo::of(id.strip_prefix("disk-")?)
}

async fn read(hands: &Hands, session: &Session, status: StatusInfo) -> Result<Look, Setback> {
    let paused = |reason| Look::Is(Guest::Paused { reason, critical: false });
    let halted = |reason| Look::Is(Guest::Paused { reason: Some(reason), critical: true });
    Ok(match status.status {
        RunState::Shutdown => Look::PoweredOff,
        RunState::GuestPanicked => Look::Panicked,
        _ if status.running => {
            hands.set_io_error(None);
            Look::Is(Guest::Running)
        }
        RunState::Paused | RunState::Prelaunch => paused(None),
        RunState::IoError => Look::IoError(io_error(hands, session).await?),
        RunState::InternalError => {
            halted(format!("internal error of the accelerator: {}", hands.console.last_complaints()))
        }
        RunState::Suspended => paused(Some("the guest sleeps (ACPI S3)".to_owned())),
        other => paused(Some(format!("QEMU says {other:?}"))),
    })
}

/// In words; where the error was told to an earlier daemon QEMU is asked which disk it was.
async fn io_error(hands: &Hands, session: &Session) -> Result<String, QmpError> {
    if hands.io_error().is_none() {
        for block in session.query_block().await? {
            let node = block.inserted.and_then(|medium| medium.node_name).unwrap_or_default();
            match block.io_status.as_deref() {
                Some("nospace") => hands.set_io_error(Some(IoError::of(&node, true))),
                Some("failed") => hands.set_io_error(Some(IoError::of(&node, false))),
                _ => {}
            }
        }
    }
    Ok(match hands.io_error() {
        Some(IoError { disk, nospace: true }) => format!("I/O error on {disk}: no space left on the host"),
        Some(IoError { disk, nospace: false }) => format!("I/O error on {disk}: the host's storage failed"),
        None => "I/O error".to_owned(),
    })
}
