//! The control group of a switch's dnsmasq: how much of the host it may use, and the end of whatever it leaves behind. It answers
//! whatever guests send it. A daemon that is not root makes none.

use std::path::Path;

use tokio::task::spawn_blocking;

use super::Folders;
use crate::host::{
    cgroups::{Bounds, Cgroups, Group},
    process::Process,
};

/// A dnsmasq takes a few MiB, and a process for each client that asks by TCP, of which it has 20 at most.
const BOUNDS: Bounds = Bounds { memory: 256 << 20, processes: 64 };

/// Those of the switches of one state directory, which the folder of its lists is named by.
fn all(folders: &Folders) -> Option<Cgroups> {
    let state = folders.public.parent()?.file_name()?.to_str()?;
    let root = rustix::process::geteuid().is_root();
    root.then(|| Cgroups::find(&format!("{state}-net")).ok()).flatten()
}

/// One for a start. Blocks.
pub fn make(folders: &Folders) -> Option<Group> {
    let switch = folders.public.file_name()?.to_str()?;
    let made = all(folders)?.make(switch, BOUNDS);
    made.inspect_err(|error| tracing::warn!(switch, %error, "a dnsmasq has no group of its own")).ok()
}

/// That of one that runs.
pub fn of(folders: &Folders, process: &Process) -> Option<Group> {
    all(folders)?.of(process.pid())
}

/// Of a dnsmasq that has ended: what is left in it ends, and it goes.
pub async fn end(group: Option<Group>) {
    if let Some(group) = group {
        let _ = spawn_blocking(move || group.end()).await;
    }
}

/// Removes those that nobody is in, at the daemon's start: of switches with this state. Blocks.
pub fn sweep(lists: &Path) {
    let folders = Folders { own: lists.to_owned(), public: lists.join("any") };
    if let Some(groups) = all(&folders) {
        groups.sweep();
    }
}
