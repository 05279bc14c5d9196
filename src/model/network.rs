//! NICs of a VM, and what they are plugged into.

use std::{fmt, net::Ipv4Addr};

use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

use super::{Error, MAX_FORWARDS, MacAddr, NicId, Result, SwitchId, SwitchPort, check_length};

/// Tap devices whose name begins so are ours.
pub const TAP_PREFIX: &str = "qht";

/// One NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    pub id: NicId,
    /// QEMU's device id, unique within the VM and never used again: `net0`.
    pub name: String,
    /// What people call it; need not be unique.
    pub label: String,
    pub mac: MacAddr,
    /// The hot-plug slot it sits in, from 1; none for a NIC in a place of its own, which does not come out while the VM
    /// runs.
    pub slot: Option<u8>,
    /// Pairs of queues, from 1.
    pub queues: u8,
    pub backend: NicBackend,
}

impl Nic {
    /// A new one by itself, on a switch.
    pub fn on(port: SwitchPort) -> Self {
        let (id, mac, backend) = (NicId::random(), MacAddr::random(), NicBackend::Switch(port));
        Self { id, name: "net0".into(), label: "Network Adapter".into(), mac, slot: None, queues: 1, backend }
    }

    /// Name of the tap device of a NIC on a switch: recognisable as ours, and 15 characters.
    pub fn tap(&self) -> String {
        format!("{TAP_PREFIX}{}", self.id.short())
    }

    pub fn switch(&self) -> Option<SwitchId> {
        self.backend.switch()
    }

    /// Of a NIC on a switch.
    pub fn port(&self) -> Option<&SwitchPort> {
        self.backend.port()
    }

    /// Moves it; one that is there already keeps its address and its forwards.
    pub fn plug_into(&mut self, backend: NicBackend) {
        if self.switch() != backend.switch() {
            self.backend = backend;
        }
    }

    /// What a client may call it by: its id, or QEMU's device id.
    pub fn is_called(&self, text: &str) -> bool {
        self.name == text || NicId::parse(text) == Some(self.id)
    }
}

/// A NIC as wished for, checked, before it has a name and a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewNic {
    pub id: NicId,
    pub label: String,
    pub mac: MacAddr,
    pub queues: u8,
    pub backend: NicBackend,
}

impl From<Nic> for NewNic {
    fn from(nic: Nic) -> Self {
        Self { id: nic.id, label: nic.label, mac: nic.mac, queues: nic.queues, backend: nic.backend }
    }
}

/// What a NIC is plugged into on the host's side.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NicBackend {
    /// The user-mode network: outbound traffic through sockets of passt's or QEMU's own, no privileges.
    User { forwards: Vec<Forward> },
    /// A port of one of our switches.
    Switch(SwitchPort),
}

impl NicBackend {
    pub fn port(&self) -> Option<&SwitchPort> {
        match self {
            Self::User { .. } => None,
            Self::Switch(port) => Some(port),
        }
    }

    pub fn port_mut(&mut self) -> Option<&mut SwitchPort> {
        match self {
            Self::User { .. } => None,
            Self::Switch(port) => Some(port),
        }
    }

    pub fn switch(&self) -> Option<SwitchId> {
        self.port().map(|port| port.switch)
    }

    /// Ports of the host that it needs.
    pub fn forwards(&self) -> &[Forward] {
        match self {
            Self::User { forwards } => forwards,
            Self::Switch(_) => &[],
        }
    }
}

/// A port of the host that leads into a guest on the user-mode network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
// Shown as it was sent, too.
#[schemars(extend("required" = ["host_port", "guest_port"]))]
pub struct Forward {
    /// `tcp` (default) or `udp`.
    #[serde(default)]
    pub protocol: Protocol,
    /// Where the host listens; 127.0.0.1 unless said otherwise.
    #[serde(default = "loopback")]
    pub host_address: Ipv4Addr,
    #[serde(deserialize_with = "port")]
    #[schemars(range(min = 1))]
    pub host_port: u16,
    #[serde(deserialize_with = "port")]
    #[schemars(range(min = 1))]
    pub guest_port: u16,
}

const PORTS: &str = "be from 1 to 65535";
/// Of the host, that who is not root may listen on.
const FIRST_PORT: u16 = 1024;

/// As wide as JSON's numbers, so that one that is none has the range of ports for an answer.
fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    let number = i64::deserialize(deserializer)?;
    u16::try_from(number).ok().filter(|port| *port > 0).ok_or_else(|| D::Error::custom(format!("must {PORTS}")))
}

fn loopback() -> Ipv4Addr {
    Ipv4Addr::LOCALHOST
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}:{}", self.protocol, self.host_address, self.host_port)
    }
}

/// At most 64, ports of 1 to 65,535, and no port of the host twice.
///
/// # Errors
/// [`Error::Invalid`] that says which.
pub fn check_forwards(forwards: &[Forward]) -> Result<()> {
    check_length("user.forwards", forwards, MAX_FORWARDS)?;
    for (index, forward) in forwards.iter().enumerate() {
        let must = |field: &str, must: &str| Err(Error::invalid(format!("user.forwards[{index}].{field}"), must));
        for (field, port) in [("host_port", forward.host_port), ("guest_port", forward.guest_port)] {
            if port == 0 {
                return must(field, PORTS);
            }
        }
        if forward.host_address.is_multicast() || forward.host_address.is_broadcast() {
            return must("host_address", "be an address of this host, or 0.0.0.0 for all of them");
        }
        if forward.host_port < FIRST_PORT {
            return must(
                "host_port",
                "be 1024 or higher: nobody who carries a guest may listen on the host's lower ports",
            );
        }
        let everywhere = |address: Ipv4Addr| address.is_unspecified();
        let meets = |other: &&Forward| {
            (other.protocol, other.host_port) == (forward.protocol, forward.host_port)
                && (other.host_address == forward.host_address
                    || everywhere(other.host_address)
                    || everywhere(forward.host_address))
        };
        if let Some(other) = forwards[..index].iter().find(meets) {
            let why = if other.host_address == forward.host_address {
                format!("{forward} is repeated")
            } else {
                format!("{forward} is also in {other}")
            };
            return must("host_port", &format!("name a port of the host that no other does; {why}"));
        }
    }
    Ok(())
}

/// passt listens on a port of one protocol once.
///
/// # Errors
/// [`Error::Invalid`] that says which is there twice.
pub fn check_carried(forwards: &[Forward]) -> Result<()> {
    for (index, forward) in forwards.iter().enumerate() {
        let meets = |other: &&Forward| (other.protocol, other.host_port) == (forward.protocol, forward.host_port);
        if let Some(other) = forwards[..index].iter().find(meets) {
            let must = format!(
                "be another than that of {other}: passt, which carries the NIC, listens on a port at one address"
            );
            return Err(Error::invalid(format!("user.forwards[{index}].host_port"), must));
        }
    }
    Ok(())
}

/// Pairs of queues of a NIC on a switch, 1 to 8.
///
/// # Errors
/// [`Error::Invalid`].
pub fn check_queues(value: i64) -> Result<u8> {
    match value {
        ..=0 => Err(Error::invalid("queues", "be greater than 0")),
        1..=8 => Ok(value as u8),
        _ => Err(Error::invalid("queues", "be at most 8")),
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::VmSpec;

    #[test]
    fn a_port_of_the_host_leads_to_one_place() {
        let forward = |protocol: Protocol, host: [u8; 4], host_port| Forward {
            protocol,
            host_address: host.into(),
            host_port,
            guest_port: 22,
        };
        let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
        let fine = [
            forward(tcp, [127, 0, 0, 1], 2222),
            forward(udp, [127, 0, 0, 1], 2222),
            forward(tcp, [127, 0, 0, 2], 2222),
        ];
        assert_eq!(check_forwards(&fine), Ok(()));
        let must = |forwards: &[Forward]| check_forwards(forwards).unwrap_err().to_string();
        let twice = [fine[0].clone(), fine[0].clone()];
        assert!(must(&twice).contains("tcp 127.0.0.1:2222 is repeated"), "{}", must(&twice));
        let everywhere = [fine[0].clone(), forward(tcp, [0, 0, 0, 0], 2222)];
        assert!(must(&everywhere).contains("tcp 0.0.0.0:2222 is also in tcp 127.0.0.1:2222"), "{}", must(&everywhere));
        assert!(
            must(&[forward(tcp, [127, 0, 0, 1], 0)]).contains("user.forwards[0].host_port must be from 1 to 65535")
        );
        assert!(must(&[forward(tcp, [127, 0, 0, 1], 80)]).contains("host_port must be 1024 or higher"));
        assert_eq!((check_queues(1), check_queues(8)), (Ok(1), Ok(8)));
        assert!([-1, 0, 9, i64::MAX].into_iter().all(|bad| check_queues(bad).is_err()));
    }

    fn new(label: &str, switch: Option<SwitchId>) -> NewNic {
        let backend = match switch {
            None => NicBackend::User { forwards: Vec::new() },
            Some(switch) => NicBackend::Switch(SwitchPort::on(switch)),
        };
        NewNic { id: NicId::random(), label: label.into(), mac: MacAddr::random(), queues: 1, backend }
    }

    fn vm() -> VmSpec {
        let machine = serde_json::json!({
            "profile": "q35", "machine_type": "pc-q35-7.2", "bus": { "kind": "pcie", "hotplug_ports": 8 },
            "rng": true, "balloon": true, "pvpanic": true,
        });
        let spec = serde_json::json!({
            "id": crate::model::VmId::random(), "name": "web", "created_at": 0, "machine": machine, "vcpus": 1,
            "max_vcpus": 1, "max_vcpus_given": false, "memory": 64, "max_memory": 64, "cpu_pinning": null, "disks": [],
            "nics": [], "nics_added": 0,
        });
        serde_json::from_value(spec).unwrap()
    }

    #[test]
    fn a_wanted_list_keeps_moves_adds_and_removes_nics_by_their_labels() {
        let (lan, yard) = (SwitchId::random(), SwitchId::random());
        let mut spec = vm();
        for nic in [new("a", Some(lan)), new("b", None), new("a", Some(yard)), new("c", Some(lan))] {
            spec.add_nic(nic, None).unwrap();
        }
        let before = spec.clone();
        // The same in another order is the same.
        spec.set_nics(vec![new("c", Some(lan)), new("a", Some(yard)), new("b", None), new("a", Some(lan))]).unwrap();
        assert_eq!(spec, before);
        spec.set_nics(vec![new("a", Some(yard)), new("b", Some(lan)), new("d", None)]).unwrap();
        let shown: Vec<_> = spec.nics.iter().map(|nic| (nic.name.as_str(), nic.label.as_str(), nic.switch())).collect();
        assert_eq!(shown, [("net1", "b", Some(lan)), ("net2", "a", Some(yard)), ("net4", "d", None)]);
        assert_eq!((spec.nics[0].mac, spec.nics[0].id), (before.nics[1].mac, before.nics[1].id));
        assert_eq!(spec.nics[2].slot, Some(1), "the place of one that is gone");
        spec.set_nics(Vec::new()).unwrap();
        assert_eq!(spec.nics, []);
    }

    #[test]
    fn a_slot_that_qemu_still_holds_is_not_given_away() {
        let mut spec = vm();
        spec.add_nic(new("a", None), None).unwrap();
        let in_effect = spec.clone();
        spec.nics.clear();
        spec.add_nic(new("b", None), Some(&in_effect)).unwrap();
        assert_eq!((in_effect.nics[0].slot, spec.nics[0].slot), (Some(1), Some(2)));
        spec.machine.bus = crate::model::Bus::Pcie { hotplug_ports: 2 };
        assert_eq!(spec.add_nic(new("c", None), Some(&in_effect)), Err(crate::model::Conflict::NoFreeSlot.into()));
        spec.add_nic(new("c", None), None).unwrap();
    }
}
