//! Disks: the block graph, the virtio-blk device on it, and its throttle.

use serde_json::{Map, Value, json};

use super::{FileUse, HostFile, address, hotplug_slot, root_bus, slot};
use crate::model::{Disk, ImageFormat, IoLimits, OnIoError, VmSpec};

/// Name of the top block node, the one that is resized and measured.
pub fn node_name(disk: &Disk) -> String {
    format!("{}-node", disk.name)
}

/// QEMU's id of the disk device.
pub fn device_id(disk: &Disk) -> String {
    format!("disk-{}", disk.name)
}

/// What `block_set_io_throttle` calls a virtio-blk disk on a `-blockdev`: the QOM path of its backend. The plain
/// device id answers "Device does not have a block device backend".
pub fn throttle_id(disk: &Disk) -> String {
    format!("/machine/peripheral/{}/virtio-backend", device_id(disk))
}

/// The block graph, every format spelt out: QEMU never probes, and a header never leads to another file.
pub fn blockdev(disk: &Disk) -> Value {
    graph(disk, |file| file.name().into())
}

/// The same for a tool that opens the files itself.
pub fn blockdev_by_path(disk: &Disk) -> Value {
    graph(disk, |file| json!(file.path))
}

fn graph(disk: &Disk, name: impl Fn(&HostFile) -> Value) -> Value {
    let file = |file: &HostFile| json!({ "driver": "file", "filename": name(file) });
    // From below. The last one stood alone when it was cloned; one that was exchanged since must not bring in another file.
    let mut backing = Value::Null;
    for (depth, below) in HostFile::below(disk).iter().enumerate().rev() {
        let (FileUse::Base(format) | FileUse::Overlay(format)) = below.used else { continue };
        let level = if depth == 0 { String::new() } else { format!("-{depth}") };
        let mut node = json!({
            "driver": format.driver(), "node-name": format!("{}-base{level}", disk.name),
            "read-only": true, "file": file(below),
        });
        if format == ImageFormat::Qcow2 {
            node["backing"] = backing;
        }
        backing = node;
    }
    let format = disk.file.format();
    let mut node = json!({
        "driver": format.driver(), "node-name": node_name(disk), "discard": "unmap",
        "file": file(&HostFile::disk(disk)),
    });
    // QEMU's raw driver knows no such option.
    if format == ImageFormat::Qcow2 {
        node["backing"] = backing;
    }
    node
}

/// The disk device, halting the guest on an error of the host unless it is to be told. The root disk, which the firmware boots, has a place of its own; the others sit in hot-plug slots,
/// from the start of the VM too, so that each can be taken out.
pub fn disk(disk: &Disk, spec: &VmSpec) -> Value {
    let mut device = json!({ "driver": "virtio-blk-pci", "id": device_id(disk), "drive": node_name(disk) });
    let (bus, addr) = match disk.slot {
        None => {
            device["bootindex"] = 1.into();
            (root_bus(spec).to_owned(), address(slot::ROOT_DISK))
        }
        Some(number) => hotplug_slot(number, spec),
    };
    let on_error = if spec.policy.on_io_error == OnIoError::Report { "report" } else { "stop" };
    device["rerror"] = on_error.into();
    device["werror"] = on_error.into();
    device["bus"] = bus.into();
    device["addr"] = addr.into();
    device
}

/// Arguments of `block_set_io_throttle`: every value, so that what is no longer limited is set back to 0.
pub fn throttle(disk: &Disk, limits: &IoLimits) -> Value {
    let mut arguments = Map::new();
    arguments.insert("id".into(), throttle_id(disk).into());
    for rate in limits.rates() {
        let name = rate.qemu_name;
        arguments.insert(name.into(), rate.average.unwrap_or(0).into());
        arguments.insert(format!("{name}_max"), rate.burst.unwrap_or(0).into());
        if rate.burst.is_some() {
            arguments.insert(format!("{name}_max_length"), rate.burst_seconds.unwrap_or(1).into());
        }
    }
    Value::Object(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BaseImage, CloneMode, DiskFile, ForeignFile, LayerId};

    #[test]
    fn a_throttle_names_every_value() {
        let disk = Disk {
            name: "root".into(),
            layer: LayerId::random(),
            file: "/f".into(),
            size: 1,
            clone: CloneMode::Full,
            base: Some(BaseImage::at("/b", ImageFormat::Raw)),
            io_limits: None,
            slot: None,
            request: None,
        };
        let limits = IoLimits { iops: Some(100), iops_burst: Some(200), ..IoLimits::default() };
        let arguments = throttle(&disk, &limits);
        assert_eq!(arguments["iops"], 100);
        assert_eq!(arguments["iops_max"], 200);
        assert_eq!(arguments["iops_max_length"], 1);
        assert_eq!(arguments["bps_rd"], 0);
        assert_eq!(arguments.as_object().unwrap().len(), 14);
        assert_eq!(blockdev(&disk)["backing"], Value::Null);
    }

    #[test]
    fn an_attached_disk_is_read_as_its_user_says_that_it_is() {
        let disk = |format| Disk {
            name: "root".into(),
            layer: LayerId::random(),
            file: DiskFile::Foreign(ForeignFile { path: "/f".into(), format, bytes: 1, below: Vec::new() }),
            size: 1,
            clone: CloneMode::Linked,
            base: None,
            io_limits: None,
            slot: None,
            request: None,
        };
        let node = blockdev(&disk(ImageFormat::Raw));
        assert_eq!((&node["driver"], node.get("backing")), (&json!("raw"), None));
        let node = blockdev(&disk(ImageFormat::Qcow2));
        assert_eq!((&node["driver"], node.get("backing")), (&json!("qcow2"), Some(&Value::Null)));
    }

    #[test]
    fn a_base_image_that_was_exchanged_brings_in_no_other_file() {
        let linked = |format| Disk {
            name: "root".into(),
            layer: LayerId::random(),
            file: "/f".into(),
            size: 1,
            clone: CloneMode::Linked,
            base: Some(BaseImage::at("/b", format)),
            io_limits: None,
            slot: None,
            request: None,
        };
        let backing = |format| blockdev(&linked(format))["backing"].clone();
        assert_eq!(backing(ImageFormat::Qcow2).get("backing"), Some(&Value::Null));
        // QEMU's raw driver knows no such option.
        assert_eq!(backing(ImageFormat::Raw).get("backing"), None);
    }
}
