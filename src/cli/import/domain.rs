//! A libvirt domain as a request of this API: what both have is taken over, the rest is listed. What would not boot, or would
//! not be the same machine, is refused.

use std::collections::{BTreeMap, BTreeSet};

use roxmltree::Node;

use super::{
    Options, cpu, disks,
    left::{Left, List},
    nics, others,
    xml::{all, child, children, of_child, said, words},
};
use crate::{
    api::kvm::bodies::CreateBody,
    model::{RestartPolicy, check_label_key, check_name},
};

/// Characters of a description.
const DESCRIPTION: usize = 1024;
/// Characters of a label's value.
const VALUE: usize = 255;
/// Labels that are made of metadata.
const LABELS: usize = 24;
/// Of those that are not labels, so many are named.
const NAMED: usize = 8;

/// A domain, taken over.
#[derive(Debug)]
pub struct Imported {
    pub request: CreateBody,
    pub left: Vec<Left>,
}

/// # Errors
/// In words: what is no domain, or cannot be a VM here.
pub fn read(root: Node<'_, '_>, options: &Options) -> Result<Imported, String> {
    let domain = match root.tag_name().name() {
        "domain" => root,
        // As libvirt keeps it of one that runs.
        "domstatus" => child(root, "domain").ok_or("it holds no <domain>")?,
        other => return Err(format!("it describes a <{other}>, and not a <domain>; virsh dumpxml NAME writes one")),
    };
    let kind = domain.attribute("type").unwrap_or("kvm");
    if !matches!(kind, "kvm" | "qemu") {
        return Err(format!("it is a domain of the type {kind}, and only those of kvm and qemu are VMs of QEMU's"));
    }
    let mut left = List::default();
    let profile = machine(domain, &mut left)?;
    let name = name(domain, options)?;
    let size = cpu::size(domain, &mut left)?;
    let drives = disks::read(domain, &mut left)?;
    let networks = nics::read(domain, options, &mut left)?;
    let cpu = options.cpu.over(cpu::model(domain, &mut left));
    let labels = labels(domain, &mut left);
    others::list(domain, &mut left);
    let request = CreateBody {
        name: Some(name),
        description: description(domain, &mut left),
        vcpus: size.vcpus,
        max_vcpus: size.max_vcpus,
        memory: size.memory,
        max_memory: size.max_memory,
        cpu,
        cpu_pinning: cpu::pinning(domain, size.vcpus, &mut left)?,
        profile: Some(profile.to_owned()),
        disks: drives.disks,
        iso: drives.iso,
        networks: Some(networks),
        restart_policy: (said(domain, "on_crash") == Some("restart")).then_some(RestartPolicy::OnFailure),
        labels: (!labels.is_empty()).then_some(labels),
        start: options.start,
        ..CreateBody::default()
    };
    Ok(Imported { request, left: left.0 })
}

/// The profile that is like its machine.
fn machine(domain: Node<'_, '_>, left: &mut List) -> Result<&'static str, String> {
    let os = child(domain, "os").ok_or("it has no <os>")?;
    let kind = child(os, "type");
    if kind.is_some_and(|kind| words(kind) != "hvm") {
        return Err("it is no fully virtualized (hvm) domain".into());
    }
    let arch = kind.and_then(|kind| kind.attribute("arch")).unwrap_or("x86_64");
    if !matches!(arch, "x86_64" | "i686") {
        return Err(format!("it is a domain for {arch}, and VMs of qherd are for x86_64"));
    }
    let loader = child(os, "loader");
    let by_efi = os.attribute("firmware") == Some("efi")
        || loader.is_some_and(|loader| {
            let path = words(loader).to_ascii_lowercase();
            loader.attribute("type") == Some("pflash") || path.contains("ovmf") || path.contains("edk2")
        })
        || child(os, "nvram").is_some();
    if by_efi {
        return Err(
            "it boots by UEFI, and VMs of qherd boot by SeaBIOS: its disk would not boot here. Install a BIOS boot loader \
             in the guest first, or keep it where it is"
                .into(),
        );
    }
    if let Some(loader) = loader.map(words).filter(|path| !path.is_empty()) {
        left.add(format!("os/loader {loader}"), "VMs boot by the SeaBIOS of this host's QEMU");
    }
    for part in ["kernel", "initrd", "cmdline", "dtb"] {
        if let Some(value) = said(os, part) {
            if part == "kernel" {
                return Err(format!("it boots the kernel {value} of the host, and VMs of qherd boot from their disk"));
            }
            left.add(format!("os/{part} {value}"), "VMs boot from their disk");
        }
    }
    let order: Vec<&str> = all(os, "boot").filter_map(|boot| boot.attribute("dev")).collect();
    if order.first().is_some_and(|first| *first != "hd") {
        left.add(format!("os/boot {}", order.join(", ")), "VMs boot from their first disk, then from the CD");
    }
    if os.attribute("firmware").is_none() && of_child(os, "bootmenu", "enable") == Some("yes") {
        left.add("os/bootmenu", "there is no menu of the firmware");
    }
    if child(os, "smbios").is_some() || child(domain, "sysinfo").is_some() {
        left.add("sysinfo", "the guest sees QEMU's own SMBIOS tables");
    }
    let machine = kind.and_then(|kind| kind.attribute("machine")).unwrap_or("pc");
    let profile = if machine == "q35" || machine.starts_with("pc-q35") {
        "q35"
    } else if machine == "pc" || machine.starts_with("pc-") || machine.starts_with("rhel") {
        "pc"
    } else {
        return Err(format!("its machine is {machine}, and VMs of qherd are of the kinds pc (i440FX) and q35"));
    };
    if !matches!(machine, "pc" | "q35") {
        let why = format!(
            "the machine is this QEMU's newest of the profile {profile}: a guest may find its devices at other places"
        );
        left.add(format!("os/type machine={machine}"), why);
    }
    if let Some(uuid) = said(domain, "uuid") {
        left.add(
            format!("uuid {uuid}"),
            "the VM has an id of its own, which its guest sees; the old one is the label libvirt/uuid",
        );
    }
    Ok(profile)
}

fn name(domain: Node<'_, '_>, options: &Options) -> Result<String, String> {
    if let Some(name) = &options.name {
        return Ok(name.clone());
    }
    let name = said(domain, "name").ok_or("it has no <name>; give one with --name")?;
    check_name(name).map_err(|error| format!("{error} It is called {name:?}; give another name with --name."))
}

/// Title and description are one here.
fn description(domain: Node<'_, '_>, left: &mut List) -> Option<String> {
    let text =
        [said(domain, "title"), said(domain, "description")].into_iter().flatten().collect::<Vec<_>>().join("\n");
    let fits = |c: &char| !c.is_control() || matches!(c, '\n' | '\t');
    let text: String = text.chars().filter(fits).collect();
    let length = text.chars().count();
    if length > DESCRIPTION {
        left.add("description", format!("of its {length} characters the first {DESCRIPTION} are kept"));
    }
    let text: String = text.chars().take(DESCRIPTION).collect();
    (!text.is_empty()).then_some(text)
}

/// Where it came from, and what other programs noted of it.
fn labels(domain: Node<'_, '_>, left: &mut List) -> BTreeMap<String, String> {
    let mut labels: BTreeMap<String, String> = BTreeMap::new();
    let mut lost: BTreeSet<String> = BTreeSet::new();
    let mut add = |key: String, value: &str| {
        let whole: String = value.trim().chars().filter(|c| !c.is_control()).collect();
        let value: String = whole.chars().take(VALUE).collect();
        if value.is_empty() || labels.get(&key) == Some(&whole) {
            return;
        }
        let fits = labels.len() < LABELS && check_label_key(&key).is_ok() && !labels.contains_key(&key);
        if !fits || value != whole {
            lost.insert(key.clone());
        }
        if fits {
            labels.insert(key, value);
        }
    };
    if let Some(uuid) = said(domain, "uuid") {
        add("libvirt/uuid".into(), uuid);
    }
    for of_program in child(domain, "metadata").into_iter().flat_map(children) {
        let program = of_program.tag_name().name();
        if words(of_program).is_empty() {
            for node in of_program.descendants().filter(|node| node.is_element() && *node != of_program) {
                let key = format!("{program}/{}", node.tag_name().name());
                let value = match words(node) {
                    // libosinfo says what system it is by a URL.
                    "" => node.attribute("id").or(node.attribute("name")).unwrap_or_default(),
                    text => text,
                };
                add(key, value);
            }
        } else {
            add(program.to_owned(), words(of_program));
        }
    }
    if !lost.is_empty() {
        let some: Vec<&str> = lost.iter().take(NAMED).map(String::as_str).collect();
        let more = if lost.len() > NAMED { ", …" } else { "" };
        left.add(
            format!("metadata {}{more}", some.join(", ")),
            format!("a label has one value of {VALUE} characters at most, and {LABELS} are made of metadata"),
        );
    }
    labels
}
