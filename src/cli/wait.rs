//! `wait`, and `--wait-for` of what starts a VM: until it runs, its agent is there, it has an address, or a port of it accepts,
//! within a time. What can never be is refused at once.

use std::{
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use clap::Args;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use super::{
    connect::Connect,
    exit::{Exit, Fail},
    names::{self, Vm},
    output::Output,
    progress::each,
    sizes,
};
use crate::{
    api::kvm::bodies::{NetworkRow, StatusBody, SwitchFields, SwitchKindBody},
    client::{Client, SOON},
    model::Status,
};

/// After so long it is looked at whether there is still something to wait for.
const LOOK: Duration = Duration::from_secs(3);
/// Between two tries of a port, and for each.
const PAUSE: Duration = Duration::from_millis(500);
const TRY: Duration = Duration::from_secs(2);

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    Running,
    Stopped,
    Agent,
    Ip,
    Port(u16),
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "running" => Ok(Self::Running),
            "stopped" => Ok(Self::Stopped),
            "agent" => Ok(Self::Agent),
            "ip" => Ok(Self::Ip),
            _ => {
                let port = text.strip_prefix("port:").and_then(|port| port.parse().ok()).filter(|port| *port > 0);
                port.map(Self::Port)
                    .ok_or_else(|| "it is running, stopped, agent, ip or port:N, such as port:22".to_owned())
            }
        }
    }
}

impl Goal {
    /// As the API calls it; a port is our own business.
    fn word(self) -> Option<&'static str> {
        match self {
            Self::Running => Some("running"),
            Self::Stopped => Some("stopped"),
            Self::Agent => Some("agent"),
            Self::Ip => Some("ip"),
            Self::Port(_) => None,
        }
    }

    /// Of a VM with these NICs, by whether each is on a switch: what can never be is told before anything is done for it.
    ///
    /// # Errors
    /// With the reason.
    pub fn check(self, name: &str, nics: impl Iterator<Item = bool>) -> Result<(), Fail> {
        let nics: Vec<bool> = nics.collect();
        let text = match self {
            Self::Ip | Self::Port(_) if nics.is_empty() => {
                format!("{name} has no NIC, so it never has an address; qherd nic add gives it one")
            }
            Self::Port(_) if !nics.contains(&true) => format!(
                "a port of {name} cannot be waited for: its NIC is on QEMU's user-mode network, where QEMU accepts connections \
                 itself, whether the guest does or not; a NIC on a switch (qherd nic add, or create --nic SWITCH) is one that the \
                 host reaches"
            ),
            _ => return Ok(()),
        };
        Err(Fail::usage(text))
    }

    fn missing(self) -> String {
        match self {
            Self::Running => "it does not run".to_owned(),
            Self::Stopped => "it has not stopped".to_owned(),
            Self::Agent => "its guest agent is not there".to_owned(),
            Self::Ip => "it has no address".to_owned(),
            Self::Port(port) => format!("nothing in it accepts on port {port}"),
        }
    }
}

#[derive(Args)]
pub struct Wait {
    /// Names or ids
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
    /// running, stopped, agent, ip, or port:N (a TCP connection from this host is accepted)
    #[arg(long = "for", value_name = "WHAT", default_value = "running")]
    goal: Goal,
    /// How long at most
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = sizes::time)]
    timeout: Duration,
    #[command(flatten)]
    to: Connect,
}

/// Of what starts a VM.
#[derive(Args)]
pub struct WaitFor {
    /// Return when it is so: running, agent, ip, or port:N (a TCP connection from this host is accepted)
    #[arg(long, value_name = "WHAT")]
    wait_for: Option<Goal>,
    /// How long --wait-for waits at most
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = sizes::time, requires = "wait_for")]
    wait_timeout: Duration,
}

impl WaitFor {
    /// Waits for all of them, if for anything.
    ///
    /// # Errors
    /// See [`reach`].
    pub async fn wait(&self, client: &Client, output: Output, vms: &[Vm]) -> Result<(), Fail> {
        match self.wait_for {
            Some(goal) => reach_all(client, output, vms, goal, self.wait_timeout, Before::Started).await,
            None => Ok(()),
        }
    }

    pub fn goal(&self) -> Option<Goal> {
        self.wait_for
    }
}

impl Wait {
    pub async fn run(self) -> Result<(), Fail> {
        let output = self.to.output();
        let client = self.to.client()?;
        let vms = names::vms(&client, &self.vms).await?;
        reach_all(&client, output, &vms, self.goal, self.timeout, Before::Anything).await
    }
}

/// What is known of a VM that is waited for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Somebody else may still start it.
    Anything,
    /// It was started just now: where it is off again, there is nothing to wait for.
    Started,
}

async fn reach_all(
    client: &Client,
    output: Output,
    vms: &[Vm],
    goal: Goal,
    time: Duration,
    before: Before,
) -> Result<(), Fail> {
    let until = Instant::now() + time;
    let work = async |vm: Vm| reach(client, &vm, goal, until, before).await;
    each(output, "waiting for", vms, work, |_, ()| Ok(())).await?.all().map(|_| ())
}

/// # Errors
/// [`Exit::Late`] where the time was over, [`Exit::Conflict`] where it can no longer be, [`Exit::Usage`] where it never can.
async fn reach(client: &Client, vm: &Vm, goal: Goal, until: Instant, before: Before) -> Result<(), Fail> {
    if let Goal::Ip | Goal::Port(_) = goal {
        let nics: Vec<NetworkRow> = client.get(&format!("/vms/{}/networks", vm.id)).await?;
        goal.check(&vm.name, nics.iter().map(|nic| nic.network.switch.is_some()))?;
        if let Goal::Port(_) = goal {
            check_reachable(client, vm, &nics).await?;
        }
    }
    let first = goal.word().unwrap_or("ip");
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let seconds = left.min(LOOK).as_secs().max(1);
        let path = format!("/vms/{}/status?wait={first}&timeout={seconds}", vm.id);
        let status: StatusBody = client.get_within(&path, SOON + LOOK).await?;
        if status.reached == Some(true) {
            break;
        }
        let is_over = matches!(status.status, Status::Stopped | Status::Crashed) && status.next_restart.is_none();
        if is_over && before == Before::Started {
            let why = status.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
            let text = format!("{} is {}{why}, so there is nothing to wait for", vm.name, status.status.as_str());
            return Err(Fail::new(Exit::Conflict, text));
        }
        if Instant::now() >= until {
            return Err(late(vm, goal, status.status));
        }
    }
    let Goal::Port(port) = goal else { return Ok(()) };
    while Instant::now() < until {
        let nics: Vec<NetworkRow> = client.get(&format!("/vms/{}/networks", vm.id)).await?;
        for address in addresses(&nics) {
            if let Ok(Ok(_)) = timeout(TRY, TcpStream::connect(SocketAddr::new(address, port))).await {
                return Ok(());
            }
        }
        sleep(PAUSE).await;
    }
    Err(late(vm, goal, Status::Running))
}

fn late(vm: &Vm, goal: Goal, status: Status) -> Fail {
    let text = format!(
        "the time is over, and {} is {}: {}; qherd logs {0} may say why",
        vm.name,
        status.as_str(),
        goal.missing()
    );
    Fail::new(Exit::Late, text)
}

/// Where the host reaches a guest: what it has on its switches. What a guest says of itself that is no address is none.
pub fn addresses(nics: &[NetworkRow]) -> Vec<IpAddr> {
    let switched = nics.iter().filter(|nic| nic.network.switch.is_some());
    let mut found: Vec<IpAddr> =
        switched.flat_map(|nic| nic.network.addresses.iter().filter_map(|address| address.parse().ok())).collect();
    // Link-local ones mean nothing without an interface.
    found.retain(|address| match address {
        IpAddr::V4(address) => !address.is_link_local() && !address.is_loopback(),
        IpAddr::V6(address) => !address.is_unicast_link_local() && !address.is_loopback(),
    });
    found.sort_by_key(IpAddr::is_ipv6);
    found
}

/// Whether the host can reach it at all.
async fn check_reachable(client: &Client, vm: &Vm, nics: &[NetworkRow]) -> Result<(), Fail> {
    let name = &vm.name;
    if !client.target().is_here() {
        return Err(Fail::usage("a port is tried from the daemon's host, and --url names another one: run it there"));
    }
    let switches: Vec<SwitchFields> = client.get("/switches").await?;
    let is_private =
        |id: &str| switches.iter().any(|switch| switch.id == id && matches!(switch.r#type, SwitchKindBody::Private));
    if nics.iter().filter_map(|nic| nic.network.switch.as_ref()).all(|switch| is_private(&switch.id)) {
        return Err(Fail::usage(format!(
            "a port of {name} cannot be waited for: the host is not on its private switch"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_are_taken_for_addresses() {
        let nic = |switch: serde_json::Value, addresses: &[&str]| {
            let row = serde_json::json!({
                "vm_id": "", "id": "", "name": "", "device": "net0", "mac": "", "switch": switch, "user": null, "addresses": addresses,
                "status": "ok", "queues": 1, "allow_spoofing": false, "isolated": false, "trunk": []
            });
            serde_json::from_value::<NetworkRow>(row).unwrap()
        };
        let lan = serde_json::json!({ "id": "", "name": "LAN" });
        let hostile = [
            "-oProxyCommand=touch /tmp/x",
            "10.0.0.1; id",
            "\u{1b}[2J",
            "fe80::1",
            "127.0.0.1",
            "fd00::7",
            "10.0.0.9",
            "",
        ];
        let nics = [nic(serde_json::Value::Null, &["10.0.2.15"]), nic(lan, &hostile)];
        assert_eq!(addresses(&nics).iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.9", "fd00::7"]);
    }

    #[test]
    fn goals_are_read() {
        assert_eq!("port:22".parse(), Ok(Goal::Port(22)));
        assert_eq!("ip".parse(), Ok(Goal::Ip));
        for text in ["", "port", "port:", "port:0", "port:70000", "up"] {
            assert!(text.parse::<Goal>().is_err(), "{text}");
        }
    }
}
