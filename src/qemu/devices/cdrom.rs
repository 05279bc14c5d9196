//! The CD drive with an ISO image in it. On IDE, which every installer and firmware knows, at the controller that both
//! machine types have built in.

use std::path::Path;

use serde_json::{Value, json};

use super::HostFile;

/// QEMU's id of the drive.
pub const CDROM_ID: &str = "cdrom";
/// Names of its medium: at the start, and in turn with the other one after an exchange.
const NODES: [&str; 2] = ["cdrom-node", "cdrom-node-2"];

/// The name for the next medium of a drive that has `present` in it, and the other name.
pub fn cdrom_nodes(present: Option<&str>) -> [&'static str; 2] {
    let [first, second] = NODES;
    if present == Some(first) { [second, first] } else { [first, second] }
}

/// The medium that a VM starts with.
pub fn first_cdrom_blockdev(iso: &Path) -> Value {
    cdrom_blockdev(&cdrom_file(iso, NODES[0]), NODES[0])
}

/// The image for a node; each node has a set of its own.
pub fn cdrom_file(iso: &Path, node: &str) -> HostFile {
    HostFile::medium(iso, usize::from(node == NODES[1]))
}

/// The image, read-only: any number of VMs can have the same one.
pub fn cdrom_blockdev(file: &HostFile, node: &str) -> Value {
    json!({
        "driver": "raw", "node-name": node, "read-only": true,
        "file": { "driver": "file", "filename": file.name() },
    })
}

/// Behind the root disk in the order of booting: an installed system boots, and from an empty disk the firmware goes on
/// to the CD.
pub fn cdrom() -> Value {
    json!({ "driver": "ide-cd", "id": CDROM_ID, "drive": NODES[0], "bus": "ide.0", "bootindex": 2 })
}
