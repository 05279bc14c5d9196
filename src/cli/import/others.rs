//! Everything else of a domain: what a VM here has anyway is passed over, and the rest is listed. What nobody here has heard
//! of is listed too.

use roxmltree::Node;

use super::{
    left::List,
    xml::{child, children, said, words},
};

pub fn list(domain: Node<'_, '_>, left: &mut List) {
    for node in children(domain) {
        let name = node.tag_name().name();
        match name {
            // Looked at elsewhere.
            "name" | "uuid" | "title" | "description" | "metadata" | "memory" | "currentMemory" | "maxMemory"
            | "vcpu" | "cputune" | "os" | "cpu" | "devices" | "sysinfo" => {}
            // Of the running process, of libvirt's own, or as every VM has it.
            "resource" | "seclabel" | "pm" | "on_poweroff" | "on_reboot" | "iothreadids" | "vcpus" | "genid" => {
                ends(node, left)
            }
            "on_crash" => match words(node) {
                "destroy" | "restart" | "" => {}
                other => left.add(
                    format!("on_crash {other}"),
                    "a crashed VM is kept as crashed, and starts again by its restart_policy",
                ),
            },
            "clock" => clock(node, left),
            "features" => features(node, left),
            "iothreads" => left.add(format!("iothreads {}", words(node)), "qherd has its own way with disks"),
            "memoryBacking" | "numatune" | "memtune" | "blkiotune" => {
                left.add(name, "memory is the host's to place; bounds are in io_limits and cpu_pinning");
            }
            "launchSecurity" => left.add(name, "memory is not encrypted"),
            "commandline" => left.add("qemu:commandline", "QEMU's command line is qherd's own"),
            _ => left.add(name, "qherd does not know it"),
        }
    }
    for device in child(domain, "devices").into_iter().flat_map(children) {
        self::device(device, left);
    }
}

fn ends(node: Node<'_, '_>, left: &mut List) {
    match (node.tag_name().name(), words(node)) {
        ("on_poweroff", "restart") => {
            left.add("on_poweroff restart", "a VM that powers off is off; restart_policy always starts it again")
        }
        ("on_reboot", "destroy") => left.add("on_reboot destroy", "a guest that reboots, reboots"),
        ("genid", _) => left.add("genid", "the guest sees no generation id"),
        _ => {}
    }
}

fn clock(node: Node<'_, '_>, left: &mut List) {
    let offset = node.attribute("offset").unwrap_or("utc");
    if offset != "utc" {
        left.add(
            format!("clock offset={offset}"),
            "the clock of a VM is UTC: a Windows guest has to be told so (RealTimeIsUniversal)",
        );
    }
}

fn features(node: Node<'_, '_>, left: &mut List) {
    for feature in children(node) {
        let name = feature.tag_name().name();
        match name {
            "acpi" | "apic" | "pae" | "vmport" | "privnet" | "viridian" | "hap" => {}
            "hyperv" => left.add("features/hyperv", "hv-… in cpu.features switches them on, under KVM"),
            "kvm" => left.add("features/kvm", "QEMU's defaults"),
            _ => left.add(format!("features/{name}"), "QEMU's default"),
        }
    }
}

fn device(node: Node<'_, '_>, left: &mut List) {
    let name = node.tag_name().name();
    let kind = node.attribute("type").or(node.attribute("model")).unwrap_or_default();
    let what = format!("{name} {kind}");
    let what = what.trim_end();
    match name {
        // Looked at elsewhere.
        "disk" | "interface" => {}
        // As every VM has them.
        "emulator" | "controller" | "memballoon" | "panic" | "rng" | "alias" => {}
        "serial" | "console" => {
            let number = child(node, "target").and_then(|target| target.attribute("port")).unwrap_or("0");
            if number != "0" {
                left.add(format!("{what} port={number}"), "a VM has one serial port, its console");
            }
        }
        "channel" => {
            let to = child(node, "target").and_then(|target| target.attribute("name")).unwrap_or_default();
            if to != "org.qemu.guest_agent.0" {
                left.add(format!("{what} {to}").trim_end().to_owned(), "a VM has the guest agent's channel");
            }
        }
        // Of a screen that is not there.
        "input" | "audio" | "hub" => {}
        "graphics" | "video" | "sound" | "redirdev" | "smartcard" => {
            left.add(what, "a VM has a serial console, and no screen");
        }
        "hostdev" => left
            .add(format!("{what} {}", address(node)).trim_end().to_owned(), "no device of the host is given to a VM"),
        "tpm" => left.add(what, "a VM has no TPM: a guest that keeps keys in it (BitLocker) does not find them"),
        "watchdog" => left.add(what, "a VM has no watchdog"),
        "filesystem" => left.add(what, "no folder of the host is shared with a guest"),
        "memory" => left.add(what, "memory is plugged by qherd itself: max_memory"),
        "parallel" | "shmem" | "vsock" | "iommu" | "nvram" | "crypto" | "pstore" | "lease" => {
            left.add(what, "a VM has no such device");
        }
        _ => left.add(format!("devices/{name}"), "qherd does not know it"),
    }
}

/// Which device of the host, where it says.
fn address(node: Node<'_, '_>) -> String {
    let Some(source) = child(node, "source") else { return String::new() };
    let Some(address) = child(source, "address") else { return said(source, "name").unwrap_or_default().to_owned() };
    let part = |name: &str| address.attribute(name).map(|value| value.trim_start_matches("0x"));
    match (part("bus"), part("slot"), part("function")) {
        (Some(bus), Some(slot), Some(function)) => {
            format!("{}:{bus}:{slot}.{function}", part("domain").unwrap_or("0000"))
        }
        _ => String::new(),
    }
}
