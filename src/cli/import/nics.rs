//! The NICs of a domain: on the switch that its user says is in the place of a libvirt network or bridge, else on the
//! user-mode network.

use roxmltree::Node;

use super::{
    Options,
    left::List,
    xml::{all, child, of_child},
};
use crate::{
    api::kvm::bodies::{NetworkBody, UserBody},
    model::MacAddr,
};

/// # Errors
/// In words: a mapping that fits nothing in the file.
pub fn read(domain: Node<'_, '_>, options: &Options, left: &mut List) -> Result<Vec<NetworkBody>, String> {
    let mut nics = Vec::new();
    let mut used = vec![false; options.networks.len()];
    let devices = child(domain, "devices").into_iter();
    for (index, node) in devices.flat_map(|devices| all(devices, "interface")).enumerate() {
        let kind = node.attribute("type").unwrap_or("network");
        let source = child(node, "source");
        let of = |name: &str| source.and_then(|source| source.attribute(name));
        let named = ["network", "bridge", "dev"].iter().find_map(|name| of(name));
        let what = named
            .map_or_else(|| format!("interface {index} ({kind})"), |to| format!("interface {index} ({kind} {to})"));
        if matches!(kind, "hostdev" | "vhostuser" | "vdpa" | "mcast" | "server" | "client" | "udp") {
            left.add(what, "NICs are on switches and on the user-mode network");
            continue;
        }
        let mut nic = NetworkBody::default();
        let mapped = options.networks.iter().position(|(name, _)| named == Some(name.as_str()));
        match mapped {
            Some(at) => {
                used[at] = true;
                nic.switch = Some(options.networks[at].1.clone());
                nic.queues =
                    of_child(node, "driver", "queues").and_then(|queues| queues.parse().ok()).filter(|n| *n > 1);
                nic.isolated = is_isolated(node).then_some(true);
                (nic.vlan, nic.trunk) = vlans(node);
            }
            None => {
                nic.user = Some(UserBody::default());
                if kind != "user" {
                    let to = named.unwrap_or("NAME");
                    left.add(
                        what.clone(),
                        format!("it is on the user-mode network; --network {to}=SWITCH puts it on a switch"),
                    );
                }
                let queues = of_child(node, "driver", "queues").filter(|queues| *queues != "1");
                for (there, part) in [
                    (child(node, "vlan").is_some(), "vlan".to_owned()),
                    (is_isolated(node), "port isolated=yes".to_owned()),
                    (queues.is_some(), format!("driver queues={}", queues.unwrap_or_default())),
                ] {
                    if there {
                        left.add(format!("{what}: {part}"), "only a NIC on a switch has that");
                    }
                }
            }
        }
        if let Some(text) = of_child(node, "mac", "address") {
            nic.mac = MacAddr::parse(text);
            if nic.mac.is_none() {
                left.add(format!("{what}: mac {text}"), "it is no address that a NIC can have, so it gets another");
            }
        }
        let model = of_child(node, "model", "type").unwrap_or("virtio");
        if !matches!(model, "virtio" | "virtio-net-pci" | "virtio-non-transitional" | "virtio-transitional") {
            left.add(format!("{what}: model {model}"), "it is virtio here: the guest needs its driver");
        }
        if of_child(node, "boot", "order") == Some("1") {
            left.add(format!("{what}: boot"), "VMs boot from their first disk, then from the CD");
        }
        if of_child(node, "link", "state") == Some("down") {
            left.add(format!("{what}: link down"), "the NIC is plugged in");
        }
        for name in ["filterref", "bandwidth", "virtualport", "mtu", "tune", "backend", "coalesce", "portForward"] {
            if child(node, name).is_some() {
                left.add(format!("{what}: {name}"), "set it on the NIC or the switch afterwards");
            }
        }
        if let Some(group) = of("portgroup") {
            left.add(format!("{what}: portgroup {group}"), "set its VLAN on the NIC afterwards");
        }
        nics.push(nic);
    }
    match used.iter().position(|used| !used) {
        Some(at) => Err(format!("--network {}=… fits no interface of the domain", options.networks[at].0)),
        None => Ok(nics),
    }
}

/// It reaches no other such of its network.
fn is_isolated(node: Node<'_, '_>) -> bool {
    of_child(node, "port", "isolated") == Some("yes")
}

/// The VLAN that its guest knows nothing of, and those that it sees by their tags.
fn vlans(node: Node<'_, '_>) -> (Option<i64>, Option<Vec<i64>>) {
    let Some(vlan) = child(node, "vlan") else { return (None, None) };
    let (mut own, mut seen) = (None, Vec::new());
    for tag in all(vlan, "tag") {
        let Some(id) = tag.attribute("id").and_then(|id| id.parse::<i64>().ok()) else { continue };
        if tag.attribute("nativeMode") == Some("untagged") {
            own = Some(id);
        } else {
            seen.push(id);
        }
    }
    if own.is_none() && seen.len() == 1 && vlan.attribute("trunk") != Some("yes") {
        return (seen.pop(), None);
    }
    (own, (!seen.is_empty()).then_some(seen))
}
