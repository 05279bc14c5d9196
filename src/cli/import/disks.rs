//! The disks of a domain: files are attached where they are; other kinds are listed.

use std::path::Path;

use roxmltree::Node;

use super::{
    left::List,
    xml::{all, child, children, of_child, words},
};
use crate::{
    api::kvm::bodies::DiskBody,
    model::{ImageFormat, IoLimits},
};

pub struct Drives {
    /// The one that it boots from first.
    pub disks: Vec<DiskBody>,
    pub iso: Option<String>,
}

/// # Errors
/// In words: a disk that would be damaged or not understood, or none that can be attached.
pub fn read(domain: Node<'_, '_>, left: &mut List) -> Result<Drives, String> {
    let mut disks: Vec<(u32, DiskBody)> = Vec::new();
    let mut iso = None;
    let mut lost = Vec::new();
    // Of all, also of those that are left out: those without an order keep theirs.
    let mut first: Option<(u32, Option<String>)> = None;
    let devices = child(domain, "devices").into_iter();
    for node in devices.flat_map(|devices| all(devices, "disk")) {
        let what = called(node);
        match node.attribute("device").unwrap_or("disk") {
            "cdrom" => match (file(node), &iso) {
                (Some(path), None) => iso = Some(path.to_owned()),
                (Some(_), Some(_)) => left.add(what, "a VM has one CD drive"),
                // Empty, which is as good as none.
                (None, _) if source(node).is_none() => {}
                (None, _) => left.add(what, "only a CD in a file can be in the drive"),
            },
            "disk" | "lun" => {
                let order = order(node);
                let is_first = first.as_ref().is_none_or(|(before, _)| order < *before);
                let missing = match disk(node, &what, left)? {
                    Ok(disk) if disks.iter().any(|(_, other)| other.path == disk.path) => {
                        return Err(format!(
                            "its {what} is another of its disks as well; take one of the two out of it"
                        ));
                    }
                    Ok(disk) => {
                        disks.push((order, disk));
                        None
                    }
                    Err(why) => {
                        let text = format!("{what} ({why})");
                        lost.push(text.clone());
                        left.add(what, why);
                        Some(text)
                    }
                };
                if is_first {
                    first = Some((order, missing));
                }
            }
            _ => left.add(what, "there are disks and one CD drive"),
        }
    }
    if disks.is_empty() {
        let why = if lost.is_empty() { "it has none".to_owned() } else { lost.join(", ") };
        return Err(format!(
            "it has no disk that can be attached: {why}. A disk is a raw or qcow2 file; qemu-img convert makes one of anything \
             else"
        ));
    }
    if let Some((_, Some(missing))) = first {
        return Err(format!(
            "it boots from a disk that cannot be attached, and would boot from another: {missing}. Make it a raw or qcow2 file \
             with qemu-img convert, or take it out of the domain"
        ));
    }
    disks.sort_by_key(|(order, _)| *order);
    Ok(Drives { disks: disks.into_iter().map(|(_, disk)| disk).collect(), iso })
}

/// For people: `disk vda (/srv/a.img)`.
fn called(node: Node<'_, '_>) -> String {
    let device = node.attribute("device").unwrap_or("disk");
    let target = of_child(node, "target", "dev").unwrap_or("?");
    source(node).map_or_else(|| format!("{device} {target}"), |source| format!("{device} {target} ({source})"))
}

fn source<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    let source = child(node, "source")?;
    ["file", "dev", "dir", "name", "volume"].iter().find_map(|name| source.attribute(*name))
}

/// Of one that is in a file.
fn file<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    of_child(node, "source", "file").filter(|path| !path.is_empty())
}

fn order(node: Node<'_, '_>) -> u32 {
    of_child(node, "boot", "order").and_then(|order| order.parse().ok()).unwrap_or(u32::MAX)
}

/// A disk, or why it is left out.
///
/// # Errors
/// In words, for what makes the whole domain one that is not taken over.
fn disk(node: Node<'_, '_>, what: &str, left: &mut List) -> Result<Result<DiskBody, String>, String> {
    let encrypted = child(node, "encryption").is_some()
        || child(node, "source").is_some_and(|source| child(source, "encryption").is_some());
    if encrypted {
        return Err(format!(
            "its {what} is encrypted, and qherd keeps no secrets of disks; decrypt it with qemu-img convert"
        ));
    }
    let kind = node.attribute("type").unwrap_or("file");
    let Some(path) = file(node) else {
        let why = match kind {
            "block" => "it is a block device of the host, and disks are files",
            "network" => "it is on the network, and disks are files of the host",
            "volume" => "it is a volume of a pool; virsh vol-path says which file that is",
            _ => "disks are files of the host",
        };
        return Ok(Err(why.into()));
    };
    for (flag, why) in [
        ("readonly", "it may not be written to, and a VM writes to its disks"),
        ("shareable", "it is shared with other domains, and a disk has one VM"),
        ("transient", "what is written to it is to be forgotten, and a VM writes to its disks"),
    ] {
        if child(node, flag).is_some() {
            return Ok(Err(why.into()));
        }
    }
    let driver = child(node, "driver");
    let format = match driver.and_then(|driver| driver.attribute("type")).unwrap_or("raw") {
        "raw" => ImageFormat::Raw,
        "qcow2" => ImageFormat::Qcow2,
        other => return Err(format!("its {what} is {other}; make it qcow2 first with qemu-img convert -O qcow2")),
    };
    let bus = of_child(node, "target", "bus").unwrap_or("virtio");
    if bus != "virtio" {
        let why =
            format!("it was on {bus} and is on virtio here: the guest needs its drivers, and calls it by another name");
        left.add(what, why);
    }
    if let Some(driver) = driver {
        let odd = |name: &str, usual: &[&str]| {
            let value = driver.attribute(name)?;
            (!usual.contains(&value)).then(|| format!("{name}={value}"))
        };
        let options = [
            odd("cache", &["none", "default", "writeback"]),
            odd("io", &["native", "threads"]),
            odd("error_policy", &["stop"]),
            odd("rerror_policy", &["stop"]),
            odd("iothread", &[]),
            odd("queues", &[]),
            odd("detect_zeroes", &["off"]),
        ];
        let options: Vec<String> = options.into_iter().flatten().collect();
        if !options.is_empty() {
            left.add(format!("{what}: {}", options.join(" ")), "qherd has its own way with disks");
        }
    }
    for (name, why) in [
        ("rawio", "no VM speaks to devices of the host"),
        ("sgio", "no VM speaks to devices of the host"),
        ("snapshot", "there are no snapshots"),
    ] {
        if let Some(value) = node.attribute(name) {
            left.add(format!("{what}: {name}={value}"), why);
        }
    }
    for name in ["serial", "wwn", "geometry", "blockio", "mirror", "auth"] {
        if let Some(node) = child(node, name) {
            left.add(format!("{what}: {name} {}", words(node)).trim_end().to_owned(), "the guest does not see it");
        }
    }
    let io_limits = child(node, "iotune").map(|tune| limits(tune, what, left)).filter(|l| *l != IoLimits::default());
    // Relative paths are of a folder that nobody knows any more.
    if !Path::new(path).is_absolute() {
        return Err(format!("its {what} has no absolute path"));
    }
    Ok(Ok(DiskBody { path: Some(path.into()), format: Some(format), io_limits, ..DiskBody::default() }))
}

fn limits(tune: Node<'_, '_>, what: &str, left: &mut List) -> IoLimits {
    let mut limits = IoLimits::default();
    for node in children(tune) {
        let name = node.tag_name().name();
        let place = match name {
            "total_iops_sec" => &mut limits.iops,
            "total_iops_sec_max" => &mut limits.iops_burst,
            "total_iops_sec_max_length" => &mut limits.iops_burst_seconds,
            "read_iops_sec" => &mut limits.iops_read,
            "read_iops_sec_max" => &mut limits.iops_read_burst,
            "read_iops_sec_max_length" => &mut limits.iops_read_burst_seconds,
            "write_iops_sec" => &mut limits.iops_write,
            "write_iops_sec_max" => &mut limits.iops_write_burst,
            "write_iops_sec_max_length" => &mut limits.iops_write_burst_seconds,
            "total_bytes_sec" => &mut limits.bps,
            "total_bytes_sec_max" => &mut limits.bps_burst,
            "total_bytes_sec_max_length" => &mut limits.bps_burst_seconds,
            "read_bytes_sec" => &mut limits.bps_read,
            "read_bytes_sec_max" => &mut limits.bps_read_burst,
            "read_bytes_sec_max_length" => &mut limits.bps_read_burst_seconds,
            "write_bytes_sec" => &mut limits.bps_write,
            "write_bytes_sec_max" => &mut limits.bps_write_burst,
            "write_bytes_sec_max_length" => &mut limits.bps_write_burst_seconds,
            _ => {
                left.add(
                    format!("{what}: iotune/{name} {}", words(node)),
                    "a disk has limits of its own, in operations and bytes",
                );
                continue;
            }
        };
        // What is 0 is no limit.
        *place = words(node).parse().ok().filter(|rate| *rate > 0);
    }
    limits
}
