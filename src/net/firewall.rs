//! The rules of switches and ports, as changes to the daemon's own tables (`table.nft`, `switch.nft`): no guest sends
//! under another's name, and the host keeps out of where it does not belong. Ports are set elements; adding one touches
//! no other.

use std::{
    collections::HashSet,
    fmt::Write,
    net::{IpAddr, Ipv4Addr},
};

use serde_json::Value;

use super::{NetError, program::Nft};
use crate::model::{Nic, NicBackend, Switch, SwitchKind};

const TABLE: &str = include_str!("table.nft");
const SWITCH: &str = include_str!("switch.nft");

pub struct Firewall {
    nft: Nft,
    /// Of this daemon: several on one host do not meet.
    table: String,
    /// Raised whenever the tables change their form.
    mark: String,
    /// The chains that are there; none before the first look.
    chains: tokio::sync::Mutex<Option<HashSet<String>>>,
}

impl Firewall {
    pub fn new(state: &str) -> Self {
        let mut form = crc32fast::Hasher::new();
        form.update(TABLE.as_bytes());
        form.update(SWITCH.as_bytes());
        let mark = format!("form_{:08x}", form.finalize());
        Self { nft: Nft::start(), table: format!("qherd_{state}"), mark, chains: tokio::sync::Mutex::default() }
    }

    /// Makes the tables. Those of an earlier daemon stay as they are, with the rules of the ports that are live, unless
    /// they have another form. Says whether they were made anew.
    pub async fn ensure(&self) -> Result<bool, NetError> {
        let mut chains = self.chains.lock().await;
        if chains.is_none() {
            *chains = self.listed().await;
        }
        if chains.is_some() {
            return Ok(false);
        }
        let (table, mark) = (&self.table, &self.mark);
        let text = TABLE.replace("@T@", table);
        let away = self.away();
        self.nft.apply(format!("{away}{text}add chain bridge {table} {mark}\n")).await?;
        *chains = Some(HashSet::new());
        Ok(true)
    }

    /// As [`Self::ensure`], also where somebody else may have removed the tables meanwhile.
    pub async fn ensure_anew(&self) -> Result<bool, NetError> {
        *self.chains.lock().await = None;
        self.ensure().await
    }

    /// The chains that are there, if the tables are, in this form.
    async fn listed(&self) -> Option<HashSet<String>> {
        let listed = self.nft.list(&["chains"]).await?;
        let chains = listed["nftables"].as_array()?.iter().map(|item| &item["chain"]);
        let chains: Vec<(&str, &str)> = chains
            .filter(|chain| chain["table"] == self.table.as_str())
            .filter_map(|chain| Some((chain["family"].as_str()?, chain["name"].as_str()?)))
            .collect();
        let whole = chains.contains(&("bridge", self.mark.as_str())) && chains.contains(&("inet", "forward"));
        whole.then(|| chains.into_iter().map(|(_, name)| name.to_owned()).collect())
    }

    fn away(&self) -> String {
        let table = &self.table;
        ["bridge", "inet"].map(|family| format!("add table {family} {table}\ndelete table {family} {table}\n")).concat()
    }

    /// Removes the tables, with everything in them.
    pub async fn remove(&self) -> Result<(), NetError> {
        *self.chains.lock().await = None;
        self.absent(self.away()).await
    }

    /// The rules of a switch; `host` are the addresses that the host has on it.
    pub async fn put_switch(&self, switch: &Switch, host: &[IpAddr]) -> Result<(), NetError> {
        let (table, bridge) = (&self.table, switch.bridge());
        let mut text = String::new();
        // A chain that is there would get its rules a second time.
        let chain = format!("{bridge}_lan");
        let mut chains = self.chains.lock().await;
        if chains.as_ref().is_none_or(|chains| !chains.contains(&chain)) {
            text += &SWITCH.replace("@T@", table).replace("@S@", &bridge);
        }
        let _ = write!(text, "flush set bridge {table} {bridge}_host4\nflush set bridge {table} {bridge}_host6\n");
        for address in host {
            let _ = match address {
                IpAddr::V4(ip) => writeln!(text, "add element bridge {table} {bridge}_host4 {{ {ip} }}"),
                IpAddr::V6(ip) => {
                    writeln!(text, "add element bridge {table} {bridge}_host6 {{ {:#034x} }}", u128::from(*ip))
                }
            };
        }
        match &switch.kind {
            SwitchKind::Private => {}
            SwitchKind::Internal { subnet } => {
                let _ = writeln!(text, "add element inet {table} inside {{ \"{bridge}\" }}");
                let _ = writeln!(text, "add element inet {table} within {{ \"{bridge}\" . \"{bridge}\" }}");
                if let Some(subnet) = subnet
                    && subnet.nat
                {
                    let _ = writeln!(text, "add element inet {table} nat {{ \"{bridge}\" }}");
                    let _ = writeln!(text, "add element inet {table} nat4 {{ {subnet} }}");
                }
            }
            SwitchKind::External { adapter, allow_management_os, .. } => {
                let _ = writeln!(text, "add element bridge {table} ports {{ \"{adapter}\" : goto {bridge}_lan }}");
                if !allow_management_os {
                    let _ = writeln!(text, "add element bridge {table} closed {{ \"{adapter}\" }}");
                }
            }
        }
        self.nft.apply(text).await?;
        if let Some(chains) = &mut *chains {
            chains.insert(chain);
        }
        Ok(())
    }

    /// Takes the rules of a switch away that has no ports any more.
    pub async fn remove_switch(&self, switch: &Switch) -> Result<(), NetError> {
        let (table, bridge) = (&self.table, switch.bridge());
        let mut text = String::new();
        let drop = |set: &str, element: &str| {
            let family = if set == "closed" { "bridge" } else { "inet" };
            let what = format!("element {family} {table} {set} {{ {element} }}\n");
            format!("add {what}delete {what}")
        };
        text += &drop("inside", &format!("\"{bridge}\""));
        text += &drop("within", &format!("\"{bridge}\" . \"{bridge}\""));
        text += &drop("nat", &format!("\"{bridge}\""));
        if let Some(subnet) = switch.subnet()
            && subnet.nat
        {
            text += &drop("nat4", &subnet.to_string());
        }
        self.ensure().await?;
        let known = self.chains.lock().await.as_mut().is_some_and(|chains| chains.remove(&format!("{bridge}_lan")));
        if known {
            if let SwitchKind::External { adapter, .. } = &switch.kind {
                let _ = write!(
                    text,
                    "add element bridge {table} ports {{ \"{adapter}\" : goto {bridge}_lan }}\ndelete element bridge {table} ports {{ \"{adapter}\" }}\n"
                );
                text += &drop("closed", &format!("\"{adapter}\""));
            }
            for chain in ["", "_lan", "_arp", "_ip", "_ip6"] {
                let _ = writeln!(text, "flush chain bridge {table} {bridge}{chain}");
            }
            for chain in ["", "_lan", "_arp", "_ip", "_ip6"] {
                let _ = writeln!(text, "delete chain bridge {table} {bridge}{chain}");
            }
            for set in ["host4", "host6", "lan4", "lan6", "taken4", "taken6", "claims4", "claims6"] {
                let _ = writeln!(text, "delete set bridge {table} {bridge}_{set}");
            }
        }
        self.absent(text).await
    }

    /// The rules of a port; in force before its tap joins the bridge.
    pub async fn put_port(&self, nic: &Nic, switch: &Switch) -> Result<(), NetError> {
        self.nft.apply(self.port(nic, switch)).await
    }

    /// The rules of several ports of a switch.
    pub async fn put_ports(&self, nics: impl Iterator<Item = &Nic>, switch: &Switch) -> Result<(), NetError> {
        self.nft.apply(nics.map(|nic| self.port(nic, switch)).collect()).await
    }

    fn port(&self, nic: &Nic, switch: &Switch) -> String {
        let (table, tap, mac, bridge) = (&self.table, nic.tap(), nic.mac, switch.bridge());
        let mut text = format!("add element bridge {table} own_macs {{ {mac} }}\n");
        if closed(switch) {
            let _ = writeln!(text, "add element bridge {table} closed {{ \"{tap}\" }}");
        }
        let (address, free) = backend(nic);
        if free {
            return text;
        }
        let _ = writeln!(text, "add element bridge {table} macs {{ \"{tap}\" . {mac} }}");
        if let Some(address) = address {
            let _ = writeln!(text, "add element bridge {table} given4 {{ \"{tap}\" . {address} }}");
            let _ = writeln!(text, "add element bridge {table} fixed {{ \"{tap}\" }}");
        }
        // Last: from here on the port is judged.
        let _ = writeln!(text, "add element bridge {table} ports {{ \"{tap}\" : goto {bridge} }}");
        text
    }

    /// Takes the rules of a port away, and what it laid claim to. Rules that are not there are no error.
    pub async fn remove_port(&self, nic: &Nic, switch: Option<&Switch>) -> Result<(), NetError> {
        let (table, tap, mac) = (&self.table, nic.tap(), nic.mac);
        let mut text = String::new();
        let mut drop = |set: &str, element: String| {
            let _ = write!(
                text,
                "add element bridge {table} {set} {{ {element} }}\ndelete element bridge {table} {set} {{ {element} }}\n"
            );
        };
        drop("own_macs", mac.to_string());
        drop("closed", format!("\"{tap}\""));
        drop("macs", format!("\"{tap}\" . {mac}"));
        drop("fixed", format!("\"{tap}\""));
        drop("claiming", format!("\"{tap}\""));
        if let Some(address) = backend(nic).0 {
            drop("given4", format!("\"{tap}\" . {address}"));
        }
        if !backend(nic).1
            && let Some(switch) = switch
        {
            let bridge = switch.bridge();
            let _ = write!(
                text,
                "add element bridge {table} ports {{ \"{tap}\" : goto {bridge} }}\ndelete element bridge {table} ports {{ \"{tap}\" }}\n"
            );
            if backend(nic).0.is_none() {
                text += &self.claims(&bridge, &tap).await;
            }
        }
        self.absent(text).await
    }

    /// Makes a removal; where the tables are gone there is nothing to remove.
    async fn absent(&self, text: String) -> Result<(), NetError> {
        match self.nft.apply(text).await {
            Err(NetError::Program { .. }) => Ok(()),
            Err(_) if self.listed().await.is_none() => Ok(()),
            done => done,
        }
    }

    /// What frees the addresses that a port claimed, so that another can have them at once.
    async fn claims(&self, bridge: &str, tap: &str) -> String {
        let table = &self.table;
        let mut text = String::new();
        for (claims, taken) in [("claims4", "taken4"), ("claims6", "taken6")] {
            let listed = self.nft.list(&["set", "bridge", table, &format!("{bridge}_{claims}")]).await;
            for address in listed.iter().flat_map(|listed| claimed_by(listed, tap)) {
                let _ = write!(
                    text,
                    "add element bridge {table} {bridge}_{claims} {{ \"{tap}\" . {address} }}\ndelete element bridge {table} {bridge}_{claims} {{ \"{tap}\" . {address} }}\nadd element bridge {table} {bridge}_{taken} {{ {address} }}\ndelete element bridge {table} {bridge}_{taken} {{ {address} }}\n"
                );
            }
        }
        text
    }

    /// Frames that were refused since the tables were made.
    pub async fn refused(&self) -> Option<u64> {
        let listed = self.nft.list(&["counter", "bridge", &self.table, "refused"]).await?;
        let mut all = listed["nftables"].as_array()?.iter();
        all.find_map(|item| item["counter"]["packets"].as_u64())
    }
}

/// The host takes no part in it.
pub fn closed(switch: &Switch) -> bool {
    matches!(switch.kind, SwitchKind::Private | SwitchKind::External { allow_management_os: false, .. })
}

fn backend(nic: &Nic) -> (Option<Ipv4Addr>, bool) {
    match &nic.backend {
        NicBackend::User { .. } => (None, true),
        NicBackend::Switch(port) => (port.address, port.allow_spoofing),
    }
}

/// The addresses in a listing of `nft -j list set` that a tap claimed, as nft writes them.
fn claimed_by(listed: &Value, tap: &str) -> Vec<String> {
    let items = listed["nftables"].as_array().into_iter().flatten();
    let elements = items.filter_map(|item| item["set"]["elem"].as_array()).flatten();
    let pair = |element: &Value| {
        // With a timeout the value stands one level down.
        let value = element.pointer("/elem/val").unwrap_or(element);
        let pair = value["concat"].as_array()?;
        (pair.first()?.as_str()? == tap).then_some(())?;
        match pair.get(1)? {
            Value::String(address) => Some(address.clone()),
            number => Some(number.to_string()),
        }
    };
    elements.filter_map(pair).collect()
}
