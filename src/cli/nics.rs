//! How a NIC is written on the command line, and `nic`.

use std::str::FromStr;

use clap::Subcommand;

use super::{
    connect::Connect,
    exit::Fail,
    names::{self, segment},
    words::when,
};
use crate::{
    api::kvm::bodies::{NetworkAdded, NetworkBody, NetworkRemoved, NetworkRow, UserBody},
    client::LONG,
    model::{Forward, Protocol},
};

pub const HELP: &str =
    "SWITCH[,address=A][,mac=M][,vlan=N][,name=TEXT], or user[,forward=[HOST-ADDRESS:]HOST-PORT:GUEST-PORT]…";

/// What stands for a NIC: `LAN,address=10.77.0.9`, `user,forward=2222:22`, `none`.
#[derive(Clone, Debug)]
pub struct NicFlag(Option<Box<NetworkBody>>);

impl FromStr for NicFlag {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        body(text).map(|body| Self(Some(Box::new(body))))
    }
}

impl NicFlag {
    /// The NICs of a new VM: none for `none`, the daemon's choice where nothing is said.
    ///
    /// # Errors
    /// `none` beside others.
    pub fn all(flags: Vec<Self>) -> Result<Option<Vec<NetworkBody>>, Fail> {
        if flags.is_empty() {
            return Ok(None);
        }
        let count = flags.len();
        let bodies: Vec<NetworkBody> = flags.into_iter().filter_map(|flag| flag.0).map(|body| *body).collect();
        if bodies.len() == count || count == 1 { Ok(Some(bodies)) } else { Err(Fail::usage("--nic none stands alone")) }
    }
}

fn body(text: &str) -> Result<NetworkBody, String> {
    let mut parts = text.split(',');
    let network = parts.next().filter(|network| !network.is_empty() && !network.contains('='));
    let network = network.ok_or_else(|| format!("it begins with user or a switch: {HELP}"))?;
    let mut body = NetworkBody::default();
    let mut forwards = Vec::new();
    for part in parts {
        let (name, value) = part.split_once('=').ok_or_else(|| format!("{part:?} is not NAME=VALUE: {HELP}"))?;
        let bad = || format!("{value:?} is no {name}");
        match name {
            "address" => body.address = Some(value.parse().map_err(|_| bad())?),
            "mac" => {
                let mac = serde_json::from_value(value.into());
                body.mac = Some(mac.map_err(|_| bad())?);
            }
            "vlan" => body.vlan = Some(value.parse().map_err(|_| bad())?),
            "name" => body.name = Some(value.to_owned()),
            "forward" => forwards.push(forward(value)?),
            _ => return Err(format!("{name} is not known: {HELP}")),
        }
    }
    match network {
        "user" => body.user = Some(UserBody { forwards: Some(forwards) }),
        _ if forwards.is_empty() => body.switch = Some(network.to_owned()),
        _ => return Err("forward= is for user alone".to_owned()),
    }
    Ok(body)
}

/// `2222:22`, `127.0.0.2:2222:22`, `5353:53/udp`
fn forward(text: &str) -> Result<Forward, String> {
    let must = || format!("{text:?} is no forward; write HOST-PORT:GUEST-PORT, such as 2222:22");
    let (ports, protocol) = match text.split_once('/') {
        None | Some((_, "tcp")) => (text.trim_end_matches("/tcp"), Protocol::Tcp),
        Some((ports, "udp")) => (ports, Protocol::Udp),
        Some(_) => return Err(must()),
    };
    let parts: Vec<&str> = ports.split(':').collect();
    let (address, host, guest) = match parts.as_slice() {
        [host, guest] => ("127.0.0.1", *host, *guest),
        [address, host, guest] => (*address, *host, *guest),
        _ => return Err(must()),
    };
    Ok(Forward {
        protocol,
        host_address: address.parse().map_err(|_| must())?,
        host_port: host.parse().map_err(|_| must())?,
        guest_port: guest.parse().map_err(|_| must())?,
    })
}

#[derive(Subcommand)]
pub enum Command {
    /// List the NICs of a VM, with their addresses
    Ls {
        vm: String,
        #[command(flatten)]
        to: Connect,
    },
    /// Add a NIC; a running VM gets it at once
    Add {
        vm: String,
        #[arg(value_name = "NIC", help = HELP)]
        nic: NicFlag,
        #[command(flatten)]
        to: Connect,
    },
    /// Remove a NIC, by its id or as QEMU calls it (net0)
    Rm {
        vm: String,
        nic: String,
        #[command(flatten)]
        to: Connect,
    },
}

impl Command {
    pub async fn run(self) -> Result<(), Fail> {
        match self {
            Self::Ls { vm, to } => {
                let output = to.output();
                let client = to.client()?;
                let vm = names::vm(&client, &vm).await?;
                output.list(&client.get::<Vec<NetworkRow>>(&format!("/vms/{}/networks", vm.id)).await?)
            }
            Self::Add { vm, nic, to } => {
                let Some(body) = nic.0 else { return Err(Fail::usage("say which network: a switch, or user")) };
                let output = to.output();
                let client = to.client()?;
                let vm = names::vm(&client, &vm).await?;
                let added: NetworkAdded = client.post(&format!("/vms/{}/networks", vm.id), &body, LONG).await?;
                if output.is_for_programs() {
                    return output.value(&added);
                }
                let id = added.network.as_ref().map(|nic| nic.id.clone()).unwrap_or_default();
                if output.is_quiet() {
                    return super::output::line(&id);
                }
                let nic = added.network.map(|nic| format!("{} ({})", nic.device, nic.mac)).unwrap_or(id);
                output.say(&format!("{}: added {nic}{}", vm.name, when(added.applied)))
            }
            Self::Rm { vm, nic, to } => {
                let output = to.output();
                let client = to.client()?;
                let vm = names::vm(&client, &vm).await?;
                let removed: NetworkRemoved =
                    client.delete(&format!("/vms/{}/networks/{}", vm.id, segment(&nic)), LONG).await?;
                if output.is_for_programs() {
                    return output.value(&removed);
                }
                let pending = if removed.pending { ", as soon as the guest lets go of it" } else { "" };
                output.say(&format!("{}: removed {}{pending}", vm.name, removed.device))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nics_are_read_as_they_are_written() {
        let read = |text: &str| body(text).map(|body| serde_json::to_string(&body).unwrap());
        assert!(read("LAN,address=10.0.0.9,vlan=10").unwrap().contains(r#""switch":"LAN","address":"10.0.0.9""#));
        assert!(read("user,forward=2222:22,forward=127.0.0.2:53:53/udp").unwrap().contains(r#""host_port":2222"#));
        for bad in
            ["", ",vlan=1", "vlan=1", "LAN,vlan=x", "LAN,forward=1:2", "user,forward=22", "LAN,speed=9", "LAN,up"]
        {
            assert!(read(bad).is_err(), "{bad}");
        }
        let flags = |texts: &[&str]| {
            NicFlag::all(texts.iter().map(|text| text.parse().unwrap()).collect()).map(|all| all.map(|all| all.len()))
        };
        assert_eq!(flags(&[]).unwrap(), None);
        assert_eq!(flags(&["none"]).unwrap(), Some(0));
        assert_eq!(flags(&["user", "LAN"]).unwrap(), Some(2));
        assert!(flags(&["user", "none"]).is_err());
    }
}
