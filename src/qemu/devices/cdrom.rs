//! The CD drive with an ISO image in it. On IDE, which every installer and firmware knows, at the controller that both
//! machine types have built in.

use std::path::Path;

use serde_json::{Value, json};

const NODE: &str = "cdrom-node";

/// The image, read-only: any number of VMs can have the same one.
pub fn cdrom_blockdev(iso: &Path) -> Value {
    json!({
        "driver": "raw", "node-name": NODE, "read-only": true,
        "file": { "driver": "file", "filename": iso },
    })
}

/// Behind the root disk in the order of booting: an installed system boots, and from an empty disk the firmware goes on
/// to the CD.
pub fn cdrom() -> Value {
    json!({ "driver": "ide-cd", "id": "cdrom", "drive": NODE, "bus": "ide.0", "bootindex": 2 })
}
