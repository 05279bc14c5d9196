//! The disk that a guest's cloud-init reads its data from. On virtio, like the root disk: kernels made for clouds have drivers for
//! little else, and no CD drive.

use serde_json::{Value, json};

use super::{HostFile, address, root_bus, slot};
use crate::model::{Seed, VmSpec};

const NODE: &str = "seed-node";

/// Read-only: it is made anew for each start.
pub fn seed_blockdev(seed: &Seed, spec: &VmSpec) -> Value {
    let file = HostFile::seed(seed, spec);
    json!({
        "driver": "raw", "node-name": NODE, "read-only": true,
        "file": { "driver": "file", "filename": file.name() },
    })
}

pub fn seed(spec: &VmSpec) -> Value {
    json!({
        "driver": "virtio-blk-pci", "id": "seed", "drive": NODE,
        "bus": root_bus(spec), "addr": address(slot::SEED),
    })
}
