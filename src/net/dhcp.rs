//! What dnsmasq is told about a switch, as the text of its files, and what its leases say. Its process is `companion`'s.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path};

use super::Lease;
use crate::model::{Nic, Subnet};

pub const CONFIG: &str = "dnsmasq.conf";
const HOSTS: &str = "hosts";
const LEASES: &str = "leases";

/// By name.
pub type Files = BTreeMap<String, File>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub text: String,
    /// A SIGHUP is enough for it.
    pub read_again: bool,
}

/// What of the host matters to it.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// It can answer for names.
    pub dns: bool,
    pub mtu: Option<u32>,
}

pub fn files(folder: &Path, bridge: &str, subnet: &Subnet, nics: &[Nic], facts: Facts) -> Files {
    let at = |name: &str| folder.join(name).display().to_string();
    let mut config = format!(
        "interface={bridge}\nexcept-interface=lo\nbind-interfaces\nno-hosts\nlog-facility=-\npid-file\n\
         dhcp-authoritative\ndhcp-ignore-clid\ndhcp-range={},static,{},12h\ndhcp-leasefile={}\ndhcp-hostsfile={}\n",
        subnet.network,
        subnet.netmask(),
        at(LEASES),
        at(HOSTS)
    );
    if let Some(mtu) = facts.mtu {
        let _ = writeln!(config, "dhcp-option=26,{mtu}");
    }
    // Without NAT there is nothing behind the host to be reached, and no names to be resolved.
    config += match (subnet.nat, facts.dns) {
        (true, true) => "domain-needed\nbogus-priv\n",
        (true, false) => "port=0\n",
        (false, _) => "port=0\ndhcp-option=3\ndhcp-option=6\n",
    };
    let mut hosts = String::new();
    for nic in nics {
        if let Some(address) = nic.port().and_then(|port| port.address) {
            let _ = writeln!(hosts, "{},{address}", nic.mac);
        }
    }
    Files::from([
        (CONFIG.to_owned(), File { text: config, read_again: false }),
        (HOSTS.to_owned(), File { text: hosts, read_again: true }),
    ])
}

/// What it has given out.
pub fn leases(folder: &Path) -> Vec<Lease> {
    let text = fs::read_to_string(folder.join(LEASES)).unwrap_or_default();
    let lease = |line: &str| {
        let mut words = line.split_whitespace();
        let expires = words.next()?.parse::<u64>().ok()?;
        let mac = words.next()?.to_lowercase();
        let address = words.next()?.parse().ok()?;
        let hostname = words.next().filter(|name| *name != "*").map(str::to_owned);
        Some(Lease { mac, address, hostname, expires: (expires != 0).then_some(expires) })
    };
    text.lines().filter_map(lease).collect()
}
