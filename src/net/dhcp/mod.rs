//! What dnsmasq is to know of a switch with a subnet, as the files that it reads: pure, computed anew from the switch and
//! its NICs. Its process is looked after elsewhere.
//!
//! Every address is assigned: a NIC is given its own, by its MAC address alone (clones send one client id), and nobody
//! else is given any. What a guest calls itself counts for nothing, so none takes another's name.

#![allow(clippy::disallowed_methods, reason = "small files of the state directory")]

mod leases;
mod resolvers;

use std::{collections::BTreeMap, fmt::Write, fs, net::Ipv4Addr, path::Path};

pub use leases::{leases, stale};
pub use resolvers::resolvers;

use crate::model::{Dns, MacAddr, Nic, Subnet, Switch};

/// The file that dnsmasq is started with.
pub const CONFIG: &str = "dnsmasq.conf";
pub const LEASES: &str = "leases";

/// A lease that is not renewed lasts so long: guests outlive a dnsmasq that cannot run for half a day.
const LEASE: &str = "12h";
/// Seconds after which a guest asks again, and hears of a subnet, a resolver, an MTU that changed.
const RENEWAL: u32 = 600;

/// Names and contents of the files in the switch's folder. All is in the one file, which dnsmasq reads before it gives its
/// rights away: what it reads later, it reads as a user who does not get into the state directory, and a list that it
/// cannot read is an empty one to it.
pub type Files = BTreeMap<String, String>;

/// A NIC that has an address on the switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    pub mac: MacAddr,
    pub address: Ipv4Addr,
    /// What it is called on the switch, if that is known: a label of DNS, of this VM alone.
    pub label: Option<String>,
}

/// What of the host's matters to dnsmasq.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Port 53 of the switch's address can be had; else guests are told of the resolvers behind it.
    pub dns: bool,
    /// The host's own resolvers, as far as a guest can reach them.
    pub resolvers: Vec<Ipv4Addr>,
    /// Of the bridge, where it is not 1500.
    pub mtu: Option<u32>,
}

impl Host {
    /// A NIC of which no more is known.
    pub fn of(nic: &Nic) -> Option<Self> {
        let address = nic.port()?.address?;
        Some(Self { mac: nic.mac, address, label: None })
    }
}

/// The files for a switch; none without a subnet. dnsmasq begins in the folder that they are in.
pub fn files(switch: &Switch, hosts: &[Host], facts: &Facts) -> Files {
    let Some(subnet) = switch.subnet() else { return Files::new() };
    // In the order of addresses, so that the same is written in the same way.
    let by_address: BTreeMap<Ipv4Addr, &Host> = hosts.iter().map(|host| (host.address, host)).collect();
    let mut text = config(&switch.bridge(), subnet, facts);
    for Host { mac, address, label } in by_address.into_values() {
        let _ = write!(text, "dhcp-host={mac},id:*,{address}");
        let Some(label) = label else {
            text.push('\n');
            continue;
        };
        // Also where the switch resolves nothing: it is no harm, and the guest learns its own name.
        let _ = writeln!(text, ",{label}\nhost-record={label}.{},{label},{address}", subnet.domain());
    }
    Files::from([(CONFIG.to_owned(), text)])
}

/// The NICs that a folder's configuration names.
pub fn hosts(folder: &Path) -> Vec<Host> {
    parse(&fs::read_to_string(folder.join(CONFIG)).unwrap_or_default())
}

fn parse(text: &str) -> Vec<Host> {
    let host = |line: &str| {
        let mut words = line.strip_prefix("dhcp-host=")?.split(',');
        let mac = MacAddr::parse(words.next()?)?;
        let address = words.nth(1)?.parse().ok()?;
        Some(Host { mac, address, label: words.next().map(str::to_owned) })
    };
    text.lines().filter_map(host).collect()
}

fn config(bridge: &str, subnet: &Subnet, facts: &Facts) -> String {
    let Subnet { network, dns, ipv6, .. } = subnet;
    let (domain, netmask) = (subnet.domain(), subnet.netmask());
    let mut text = format!(
        "interface={bridge}\nexcept-interface=lo\nbind-interfaces\nno-hosts\nlog-facility=-\npid-file\n\
         dhcp-authoritative\ndhcp-ignore-names\ndhcp-range={network},static,{netmask},{LEASE}\n\
         dhcp-option=option:T1,{RENEWAL}\ndhcp-leasefile={LEASES}\n\
         domain={domain}\ndhcp-option=option:domain-search,{domain}\n",
    );
    if let Some(mtu) = facts.mtu {
        let _ = writeln!(text, "dhcp-option=option:mtu,{mtu}");
    }
    if let Some(ipv6) = ipv6 {
        // A name gets the address that a guest makes of its MAC address, once that answers.
        let _ = writeln!(text, "enable-ra\ndhcp-range={},slaac,ra-names,64,{LEASE}", ipv6.network);
    }
    if !subnet.nat {
        // Nothing is behind the host.
        text += "dhcp-option=option:router\n";
    }
    if subnet.serves_names() && facts.dns {
        let _ = writeln!(text, "domain-needed\nbogus-priv\nlocal=/{domain}/");
        if let Dns::Servers(servers) = dns {
            text += "no-resolv\n";
            servers.iter().for_each(|server| text += &format!("server={server}\n"));
        }
        return text;
    }
    let servers = match dns {
        Dns::Servers(servers) => servers.as_slice(),
        Dns::Default if subnet.nat => &facts.resolvers,
        Dns::Default | Dns::None => &[],
    };
    text += "port=0\ndhcp-option=option:dns-server";
    servers.iter().for_each(|server| text += &format!(",{server}"));
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Subnet6, SwitchId, SwitchKind};

    fn switch(subnet: Subnet) -> Switch {
        Switch {
            id: SwitchId::random(),
            name: "lan".into(),
            created_at: 0,
            kind: SwitchKind::Internal { subnet: Some(subnet) },
            notes: String::new(),
            mtu: None,
            forwards: Vec::new(),
        }
    }

    fn host(mac: &str, last: u8, label: Option<&str>) -> Host {
        let mac = MacAddr::parse(mac).unwrap();
        Host { mac, address: Ipv4Addr::new(10, 77, 0, last), label: label.map(str::to_owned) }
    }

    fn text(subnet: &Subnet, facts: &Facts) -> String {
        let hosts = [host("52:54:00:00:00:02", 3, None), host("52:54:00:00:00:01", 2, Some("web"))];
        files(&switch(subnet.clone()), &hosts, facts)[CONFIG].clone()
    }

    /// What dnsmasq itself says of a configuration.
    fn accepted(text: &str) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(CONFIG), text).unwrap();
        let config = format!("--conf-file={}", dir.path().join(CONFIG).display());
        let checked = std::process::Command::new("dnsmasq").args(["--test", &config]).output().unwrap();
        assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
    }

    #[test]
    fn a_nic_is_known_by_its_mac_address_and_a_name_by_its_vm() {
        let subnet = Subnet::parse("10.77.0.0/24", true).unwrap();
        let facts = Facts { dns: true, ..Facts::default() };
        let hosts = "dhcp-host=52:54:00:00:00:01,id:*,10.77.0.2,web\nhost-record=web.lan,web,10.77.0.2\n\
            dhcp-host=52:54:00:00:00:02,id:*,10.77.0.3\n";
        assert!(text(&subnet, &facts).ends_with(hosts), "{}", text(&subnet, &facts));
        let read = parse(&text(&subnet, &facts));
        assert_eq!(read, [host("52:54:00:00:00:01", 2, Some("web")), host("52:54:00:00:00:02", 3, None)]);
        let own = Subnet { domain: Some("lab.example".into()), ..subnet };
        assert!(text(&own, &facts).contains("host-record=web.lab.example,web,10.77.0.2\n"));
    }

    #[test]
    fn each_kind_of_subnet_has_a_configuration_that_dnsmasq_takes() {
        let nat = Subnet::parse("10.77.0.0/24", true).unwrap();
        let ipv6 = Some(Subnet6::parse("fd77::/64", true).unwrap());
        let servers = Dns::Servers(vec![Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(1, 1, 1, 1)]);
        let fine = Facts { dns: true, resolvers: vec![Ipv4Addr::new(192, 0, 2, 53)], mtu: None };
        let taken = Facts { dns: false, mtu: Some(1400), ..fine.clone() };
        let cases = [
            (&nat, &fine, &["local=/lan/"][..], &["port=0", "mtu", "no-resolv"][..]),
            (&nat, &taken, &["port=0\ndhcp-option=option:dns-server,192.0.2.53\n", "option:mtu,1400"], &["local="]),
            (
                &Subnet { dns: Dns::None, ..nat.clone() },
                &fine,
                &["port=0\ndhcp-option=option:dns-server\n"],
                &["local="],
            ),
            (
                &Subnet { dns: servers.clone(), ..nat.clone() },
                &fine,
                &["no-resolv\nserver=9.9.9.9\nserver=1.1.1.1\n"],
                &["port=0"],
            ),
            (
                &Subnet { dns: servers.clone(), ..nat.clone() },
                &taken,
                &["dns-server,9.9.9.9,1.1.1.1\n"],
                &["server=9.9.9.9"],
            ),
            (
                &Subnet { nat: false, ..nat.clone() },
                &fine,
                &["option:router\n", "port=0\ndhcp-option=option:dns-server\n"],
                &["local="],
            ),
            (
                &Subnet { nat: false, dns: servers, ..nat.clone() },
                &fine,
                &["dns-server,9.9.9.9,1.1.1.1\n"],
                &["local="],
            ),
            (
                &Subnet { ipv6, ..nat.clone() },
                &fine,
                &["enable-ra\ndhcp-range=fd77::,slaac,ra-names,64,12h\n"],
                &["port=0"],
            ),
        ];
        for (subnet, facts, contains, lacks) in cases {
            let text = text(subnet, facts);
            assert!(contains.iter().all(|part| text.contains(part)), "{contains:?}: {text}");
            assert!(!lacks.iter().any(|part| text.contains(part)), "not {lacks:?}: {text}");
            accepted(&text);
        }
    }
}
