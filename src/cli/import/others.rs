//! Everything else of a domain: what a VM here has anyway is passed over, and the rest is listed. What nobody here has heard
//! of is listed too.

use std::collections::BTreeSet;

use roxmltree::Node;

use super::{
    left::List,
    xml::{all, child, children, of_child, said, words},
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
            "memoryBacking" | "numatune" => left.add(name, "memory is the host's to place"),
            "memtune" => left.add(name, "a VM has no bound of memory beside its own"),
            "blkiotune" => left.add(name, "there are no weights; the bounds of a disk are its io_limits"),
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
        ("seclabel", _) if node.attribute("type") != Some("dynamic") || node.attribute("relabel") == Some("no") => {
            let kind = node.attribute("type").unwrap_or_default();
            left.add(
                format!("seclabel {kind}").trim_end().to_owned(),
                "QEMU is confined in qherd's own way, without labels",
            );
        }
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
    let timers: BTreeSet<&str> = all(node, "timer").filter_map(|timer| timer.attribute("name")).collect();
    if !timers.is_empty() {
        let timers: Vec<&str> = timers.into_iter().collect();
        left.add(format!("clock/timer {}", timers.join(", ")), "the timers are as QEMU has them");
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
        "emulator" | "controller" | "panic" | "rng" | "alias" => {}
        "memballoon" if kind == "none" => left.add(what, "a VM has a balloon, by which its guest tells what it uses"),
        "memballoon" => {}
        "serial" | "console" => {
            let number = of_child(node, "target", "port").unwrap_or("0");
            let to = of_child(node, "target", "type").unwrap_or("serial");
            if number != "0" || name == "console" && to != "serial" {
                left.add(format!("{what} port={number}"), "a VM has one serial port, its console");
            } else if name == "serial" && kind != "pty" {
                left.add(what, "what is written there is had by qherd console and logs, and goes nowhere else");
            }
        }
        "channel" => {
            let to = child(node, "target").and_then(|target| target.attribute("name")).unwrap_or_default();
            if to != "org.qemu.guest_agent.0" {
                left.add(format!("{what} {to}").trim_end().to_owned(), "a VM has the guest agent's channel");
            }
        }
        // Of a screen that is not there.
        "audio" if kind == "none" => {}
        "input" | "audio" | "graphics" | "video" | "sound" | "redirdev" | "smartcard" => {
            left.add(what, "a VM has a serial console, and no screen");
        }
        "hostdev" => left
            .add(format!("{what} {}", address(node)).trim_end().to_owned(), "no device of the host is given to a VM"),
        "tpm" => left.add(what, "a VM has no TPM: a guest that keeps keys in it (BitLocker) does not find them"),
        "watchdog" => left.add(what, "a VM has no watchdog"),
        "filesystem" => left.add(what, "no folder of the host is shared with a guest"),
        "memory" => left.add(what, "memory is plugged by qherd itself: max_memory"),
        "parallel" | "shmem" | "vsock" | "iommu" | "nvram" | "hub" | "crypto" | "pstore" | "lease" => {
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
