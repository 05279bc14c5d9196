//! What dnsmasq is to know of a switch with a subnet, as the files that it reads: pure, computed anew from the switch and
//! its NICs. Its process is looked after elsewhere.
//!
//! Every address is assigned: a NIC is given its own, by its MAC address alone (clones send one client id), and nobody
//! else is given any. What a guest calls itself counts for nothing, so none takes another's name.

#![allow(clippy::disallowed_methods, reason = "small files of the state directory")]

mod leases;
mod resolvers;

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

pub(crate) use leases::fuzz;
pub use leases::{leases, stale};
pub use resolvers::resolvers;

use crate::model::{Dns, MacAddr, Nic, Subnet, Switch};

/// The file that dnsmasq is started with.
pub const CONFIG: &str = "dnsmasq.conf";
/// Who has an address, and what it is called: what dnsmasq reads again when it is told to.
pub const LISTS: [&str; 2] = [HOSTS, NAMES];
const HOSTS: &str = "hosts";
const NAMES: &str = "names";
pub const LEASES: &str = "leases";
/// A NIC in the configuration.
const HOST: &str = "dhcp-host=";

/// A lease that is not renewed lasts so long: guests outlive a dnsmasq that cannot run for half a day.
const LEASE: &str = "12h";
/// Seconds after which a guest asks again, and hears of a subnet, a resolver, an MTU that changed.
const RENEWAL: u32 = 600;

/// What dnsmasq is to read. The configuration it reads once, before it gives its rights away. The lists it reads when it
/// has begun, and again whenever it is told to, as a user who does not get into the state directory; one that it cannot read is
/// an empty one to it. Where there is no place for lists, all is in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    pub config: String,
    lists: Option<Lists>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Lists {
    folder: PathBuf,
    texts: [String; 2],
}

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

impl Files {
    /// Those of a switch with a subnet, with the lists in a folder that dnsmasq's user gets into. dnsmasq begins in the folder
    /// that the configuration is in.
    pub fn new(switch: &Switch, subnet: &Subnet, hosts: &[Host], facts: &Facts, lists: Option<PathBuf>) -> Self {
        // In the order of addresses, so that the same is written in the same way.
        let by_address: BTreeMap<Ipv4Addr, &Host> = hosts.iter().map(|host| (host.address, host)).collect();
        let (mut config, domain) = (config(&switch.bridge(), subnet, facts), subnet.domain());
        let (mut hosts, mut names) = (String::new(), String::new());
        for Host { mac, address, label } in by_address.into_values() {
            if lists.is_none() {
                hosts.push_str(HOST);
            }
            let _ = write!(hosts, "{mac},id:*,{address}");
            // Also where the switch resolves nothing: it is no harm, and the guest learns its own name.
            let _ = match (label, &lists) {
                (None, _) => writeln!(hosts),
                (Some(label), Some(_)) => {
                    let _ = writeln!(names, "{address} {label}.{domain} {label}");
                    writeln!(hosts, ",{label}")
                }
                (Some(label), None) => {
                    writeln!(hosts, ",{label}\nhost-record={label}.{domain},{label},{address}")
                }
            };
        }
        match lists {
            None => {
                config += &hosts;
                Self { config, lists: None }
            }
            Some(folder) => {
                let [of_hosts, of_names] = LISTS.map(|name| folder.join(name));
                let (of_hosts, of_names) = (of_hosts.display(), of_names.display());
                let _ = writeln!(config, "dhcp-hostsfile={of_hosts}\naddn-hosts={of_names}");
                Self { config, lists: Some(Lists { folder, texts: [hosts, names] }) }
            }
        }
    }

    /// As an earlier daemon left them in a switch's folder, where it did.
    pub fn with_those_left_in(mut self, folder: &Path) -> Self {
        let left = |name: &str, text: &mut String| {
            if let Ok(there) = fs::read_to_string(folder.join(name)) {
                *text = there;
            }
        };
        left(CONFIG, &mut self.config);
        if let Some(lists) = &mut self.lists {
            LISTS.iter().zip(&mut lists.texts).for_each(|(name, text)| left(name, text));
        }
        self
    }

    /// Names and contents of the lists.
    pub fn lists(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let texts = self.lists.iter().flat_map(|lists| &lists.texts);
        LISTS.into_iter().zip(texts.map(String::as_str))
    }

    /// Where dnsmasq finds a list.
    pub fn place_of(&self, list: &str) -> Option<PathBuf> {
        Some(self.lists.as_ref()?.folder.join(list))
    }

    /// What dnsmasq says when it has read the lists, and when it may not. One that somebody removed is there again soon.
    pub fn words(&self) -> Option<(String, [String; 2])> {
        let [hosts, names] = LISTS.map(|name| self.place_of(name));
        let (hosts, names) = (hosts?.display().to_string(), names?.display().to_string());
        let refused = [format!(": cannot read {hosts}: "), format!(" load names from {names}: ")];
        Some((format!(": read {hosts}\n"), refused.map(|words| words + "Permission denied")))
    }
}

/// The NICs that the configuration in a switch's folder names, or the list beside it.
pub fn hosts(folder: &Path) -> Vec<Host> {
    let read = |name| fs::read_to_string(folder.join(name)).unwrap_or_default();
    let config = read(CONFIG);
    if config.lines().any(|line| line.starts_with("dhcp-hostsfile=")) {
        return read(HOSTS).lines().filter_map(parse).collect();
    }
    config.lines().filter_map(|line| parse(line.strip_prefix(HOST)?)).collect()
}

fn parse(line: &str) -> Option<Host> {
    let mut words = line.split(',');
    let mac = MacAddr::parse(words.next()?)?;
    let address = words.nth(1)?.parse().ok()?;
    Some(Host { mac, address, label: words.next().map(str::to_owned) })
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
    use crate::model::{Subnet6, SwitchKind};

    fn switch(subnet: Subnet) -> Switch {
        Switch::new("lan", SwitchKind::Internal { subnet: Some(subnet) })
    }

    fn host(mac: &str, last: u8, label: Option<&str>) -> Host {
        let mac = MacAddr::parse(mac).unwrap();
        Host { mac, address: Ipv4Addr::new(10, 77, 0, last), label: label.map(str::to_owned) }
    }

    fn text(subnet: &Subnet, facts: &Facts) -> String {
        let hosts = [host("52:54:00:00:00:02", 3, None), host("52:54:00:00:00:01", 2, Some("web"))];
        Files::new(&switch(subnet.clone()), subnet, &hosts, facts, None).config
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
        let dir = tempfile::tempdir().unwrap();
        let known = [host("52:54:00:00:00:01", 2, Some("web")), host("52:54:00:00:00:02", 3, None)];
        std::fs::write(dir.path().join(CONFIG), text(&subnet, &facts)).unwrap();
        // Of another time, when there were lists.
        std::fs::write(dir.path().join(HOSTS), "52:54:00:00:00:03,id:*,10.77.0.4\n").unwrap();
        assert_eq!(super::hosts(dir.path()), known);
        let own = Subnet { domain: Some("lab.example".into()), ..subnet };
        assert!(text(&own, &facts).contains("host-record=web.lab.example,web,10.77.0.2\n"));
    }

    #[test]
    fn lists_say_the_same_as_the_configuration_and_are_all_that_a_nic_changes() {
        let subnet = Subnet::parse("10.77.0.0/24", true).unwrap();
        let facts = Facts { dns: true, ..Facts::default() };
        let (dir, public) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let switch = switch(subnet.clone());
        let known = [host("52:54:00:00:00:01", 2, Some("web")), host("52:54:00:00:00:02", 3, None)];
        let made = |hosts: &[Host]| Files::new(&switch, &subnet, hosts, &facts, Some(public.path().to_owned()));
        let files = made(&known);
        let lists = "52:54:00:00:00:01,id:*,10.77.0.2,web\n52:54:00:00:00:02,id:*,10.77.0.3\n";
        assert_eq!(files.lists().collect::<Vec<_>>(), [("hosts", lists), ("names", "10.77.0.2 web.lan web\n")]);
        assert_eq!(made(&known[..1]).config, files.config);
        for (name, text) in files.lists() {
            std::fs::write(dir.path().join(name), text).unwrap();
            std::fs::write(files.place_of(name).unwrap(), text).unwrap();
        }
        std::fs::write(dir.path().join(CONFIG), &files.config).unwrap();
        assert_eq!(super::hosts(dir.path()), known);
        assert_eq!(made(&[]).with_those_left_in(dir.path()), files);
        accepted(&files.config);
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
