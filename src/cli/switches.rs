//! `switch`.

use std::{collections::BTreeMap, net::Ipv4Addr};

use clap::{Args, Subcommand};

use super::{
    columns::labels,
    connect::Connect,
    exit::Fail,
    names::{self, encoded},
    output::Output,
    progress::{Outcome, waiting},
    sizes::{self, Label},
    vms::{show_outcome, show_values},
    words::{SWITCH, named, one_of},
};
use crate::{
    api::kvm::bodies::{Ipv6Body, SwitchBody, SwitchChanged, SwitchDone, SwitchFields, SwitchKindBody, SwitchUpdate},
    client::LONG,
};

/// The command that changes one.
const SET: &str = "switch set";

#[derive(Subcommand)]
pub enum Command {
    /// List the virtual switches
    Ls {
        /// Only those with these labels, such as env=prod,tier; a key alone takes any value
        #[arg(long, value_name = "LABELS")]
        label: Option<String>,
        #[command(flatten)]
        to: Connect,
    },
    /// Make a switch: private, internal (with the host) or external (with an adapter)
    Create(Box<Create>),
    /// All about switches, with the VMs on them and the addresses that they have given out
    Show {
        /// Names or ids
        #[arg(required = true, value_name = "SWITCH")]
        switches: Vec<String>,
        #[command(flatten)]
        to: Connect,
    },
    /// Change what is noted of a switch
    Set(Box<Set>),
    /// Remove switches that no VM uses
    Rm {
        /// Names or ids
        #[arg(required = true, value_name = "SWITCH")]
        switches: Vec<String>,
        #[command(flatten)]
        to: Connect,
    },
}

#[derive(Args)]
pub struct Create {
    name: String,
    /// What it connects its VMs with, beside one another: nothing, the host, or the network behind an adapter
    #[arg(long = "type", value_name = "TYPE", default_value = "internal", value_parser = one_of::<SwitchKindBody>(SWITCH))]
    kind: SwitchKindBody,
    /// The network of an internal switch, such as 10.77.0.0/24; its VMs get their addresses by DHCP
    #[arg(long, value_name = "CIDR")]
    subnet: Option<String>,
    /// Its VMs reach what the host reaches
    #[arg(long)]
    nat: bool,
    /// A resolver to ask instead of the host's; repeatable
    #[arg(long, value_name = "ADDRESS")]
    dns: Vec<Ipv4Addr>,
    /// What the names of its VMs end with [default: lan]
    #[arg(long)]
    domain: Option<String>,
    /// Its VMs reach what listens on the host's address on it
    #[arg(long)]
    host_access: bool,
    /// A network of IPv6 beside the subnet, of 64 bits
    #[arg(long, value_name = "CIDR")]
    ipv6: Option<String>,
    /// The adapter of an external switch
    #[arg(long)]
    adapter: Option<String>,
    /// The host's own addresses on the adapter move to the switch
    #[arg(long)]
    allow_management_os: bool,
    /// The largest packet, in bytes
    #[arg(long)]
    mtu: Option<i64>,
    #[arg(long)]
    notes: Option<String>,
    /// A label; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = sizes::label)]
    labels: Vec<Label>,
    /// Keep it from being deleted until `switch set --protected false`
    #[arg(long)]
    protected: bool,
    #[command(flatten)]
    to: Connect,
}

#[derive(Args)]
pub struct Set {
    /// Name or id
    switch: String,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    to: Connect,
}

#[derive(Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// A label that it is to have; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = sizes::label)]
    labels: Vec<Label>,
    /// The key of a label that it is to lose; repeatable
    #[arg(long = "unlabel", value_name = "KEY")]
    unlabels: Vec<String>,
    /// What it is for; empty for nothing
    #[arg(long, value_name = "TEXT")]
    notes: Option<String>,
    /// Whether it is kept from being deleted
    #[arg(long, value_name = "YES")]
    protected: Option<bool>,
}

impl Command {
    pub async fn run(self) -> Result<(), Fail> {
        match self {
            Self::Ls { label, to } => {
                let output = to.output();
                let query = label.map(|label| format!("?label={}", encoded(&label))).unwrap_or_default();
                output.list(&to.client()?.get::<Vec<SwitchFields>>(&format!("/switches{query}")).await?)
            }
            Self::Create(create) => create.run().await,
            Self::Set(set) => set.run().await,
            Self::Show { switches, to } => {
                let output = to.output();
                let client = to.client()?;
                let mut found = Vec::new();
                for name in &switches {
                    found.push(names::switch(&client, name).await?);
                }
                if output.is_for_programs() {
                    return show_values(output, switches.len(), &found);
                }
                found.iter().try_for_each(|switch| facts(output, switch))
            }
            Self::Rm { switches, to } => {
                let output = to.output();
                let client = to.client()?;
                let mut found: Vec<SwitchFields> = Vec::new();
                for name in &switches {
                    let switch = names::switch(&client, name).await?;
                    // Named twice is meant once.
                    if found.iter().all(|before| before.id != switch.id) {
                        found.push(switch);
                    }
                }
                let mut outcome = Outcome { wanted: found.len(), done: Vec::<SwitchDone>::new(), failed: None };
                for switch in &found {
                    match client.delete(&format!("/switches/{}", switch.id), LONG).await {
                        Ok(gone) => outcome.done.push(gone),
                        Err(failure) => {
                            outcome.failed = Some(Fail::from(failure).about_what(&switch.name, SET));
                            break;
                        }
                    }
                    if !output.is_for_programs() {
                        output.say(&format!("{}: deleted", switch.name))?;
                    }
                }
                show_outcome(output, outcome)
            }
        }
    }
}

impl Create {
    async fn run(self) -> Result<(), Fail> {
        let output = self.to.output();
        let client = self.to.client()?;
        let nat = self.nat.then_some(true);
        let body = SwitchBody {
            name: self.name,
            r#type: self.kind,
            adapter: self.adapter,
            allow_management_os: self.allow_management_os.then_some(true),
            subnet: self.subnet,
            nat,
            dns: (!self.dns.is_empty()).then_some(self.dns),
            domain: self.domain,
            host_access: self.host_access.then_some(true),
            ipv6: self.ipv6.map(|subnet| Ipv6Body { subnet, nat: self.nat }),
            mtu: self.mtu,
            notes: self.notes,
            labels: (!self.labels.is_empty()).then(|| as_map(self.labels)),
            protected: self.protected.then_some(true),
        };
        let made: SwitchFields = waiting(output, "making the switch", client.post("/switches", &body, LONG)).await?;
        if output.is_for_programs() {
            return output.value(&made);
        }
        if output.is_quiet() {
            return super::output::line(&made.id);
        }
        output.say(&format!("{} is made ({})", made.name, made.id))
    }
}

impl Set {
    async fn run(self) -> Result<(), Fail> {
        let Self { switch, change, to } = self;
        let output = to.output();
        let client = to.client()?;
        let found = names::switch(&client, &switch).await?;
        let body = change.body(found.labels);
        let path = format!("/switches/{}", found.id);
        let done = client
            .put::<SwitchChanged>(&path, &body)
            .await
            .map_err(|error| Fail::from(error).about_what(&found.name, SET))?;
        if output.is_for_programs() {
            return output.value(&done);
        }
        output.say(&format!("{}: set", done.switch.name))
    }
}

impl Change {
    /// Labels are replaced whole, so those that are not named are sent as they are.
    fn body(self, mut labels: BTreeMap<String, String>) -> SwitchUpdate {
        let changes = !self.labels.is_empty() || !self.unlabels.is_empty();
        labels.extend(as_map(self.labels));
        labels.retain(|key, _| !self.unlabels.contains(key));
        SwitchUpdate {
            notes: self.notes.map(Some),
            labels: changes.then_some(Some(labels)),
            protected: self.protected,
            ..SwitchUpdate::default()
        }
    }
}

fn as_map(labels: Vec<Label>) -> BTreeMap<String, String> {
    labels.into_iter().map(|label| (label.key, label.value)).collect()
}

fn facts(output: Output, switch: &SwitchFields) -> Result<(), Fail> {
    if output.is_quiet() {
        return super::output::line(&switch.id);
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let mut facts = vec![
        ("Name", switch.name.clone()),
        ("Id", switch.id.clone()),
        ("Type", named(&switch.r#type)),
        ("Subnet", text(&switch.subnet)),
        ("NAT", if switch.nat == Some(true) { "yes" } else { "" }.to_owned()),
        ("Host address", switch.host_address.map(|address| address.to_string()).unwrap_or_default()),
        ("IPv6", switch.ipv6.as_ref().map(|ipv6| ipv6.subnet.clone()).unwrap_or_default()),
        ("Domain", text(&switch.domain)),
        ("Adapter", text(&switch.adapter)),
        ("Bridge", switch.bridge.clone()),
        ("Notes", switch.notes.clone()),
        ("Labels", labels(&switch.labels)),
        ("Protected", if switch.protected { "yes" } else { "" }.to_owned()),
        ("Problem", text(&switch.problem)),
    ];
    facts.extend(switch.vms.iter().map(|vm| ("VM", vm.name.clone())));
    facts.extend(
        switch.leases.iter().map(|lease| ("Lease", format!("{} {} {}", lease.address, lease.mac, lease.vm_name))),
    );
    output.facts(&facts)
}
