//! `ssh`: finds where a VM is reached, and becomes the program `ssh`. The key of a VM is kept under its id, so that an address that
//! was another VM's before is no alarm.

use std::ffi::CString;

use clap::Args;

use super::{
    connect::Connect,
    exit::{Exit, Fail},
    names::{self, Vm},
    wait::{WaitFor, addresses},
};
use crate::{
    api::kvm::bodies::{Details, NetworkRow},
    client::Client,
    model::{Forward, Protocol},
};

const SSH: &str = "ssh";
const PORT: u16 = 22;

#[derive(Args)]
pub struct Ssh {
    /// Its name or id, with the user before it [default user: that of a well-known cloud image, where the VM has data for cloud-init, else ssh's own choice]
    #[arg(value_name = "[USER@]VM")]
    vm: String,
    /// What ssh is to be given besides: options of its own, then a command
    #[arg(last = true, value_name = "SSH ARGUMENTS")]
    args: Vec<String>,
    #[command(flatten)]
    wait: WaitFor,
    #[command(flatten)]
    to: Connect,
}

impl Ssh {
    pub async fn run(self) -> Result<(), Fail> {
        let output = self.to.output();
        let client = self.to.client()?;
        let (user, vm) = who(&client, &self.vm).await?;
        self.wait.wait(&client, output, std::slice::from_ref(&vm)).await?;
        let user = match user {
            Some(user) => Some(user.to_owned()),
            None => user_of(&client.get(&format!("/vms/{}", vm.id)).await?),
        };
        let nics: Vec<NetworkRow> = client.get(&format!("/vms/{}/networks", vm.id)).await?;
        let (address, port) = place(&vm, &nics)?;
        let mut words = vec![SSH.to_owned(), "-o".to_owned(), format!("HostKeyAlias=qherd-{}", vm.id)];
        words.extend(user.into_iter().flat_map(|user| ["-l".to_owned(), user]));
        words.extend(["-p".to_owned(), port.to_string()]);
        words.push(address);
        // After the host ssh takes options too, and then a command.
        words.extend(self.args);
        let words: Result<Vec<CString>, _> = words.into_iter().map(CString::new).collect();
        let words = words.map_err(|_| Fail::usage("an argument holds a zero byte"))?;
        let Err(error) = nix::unistd::execvp(&words[0], &words);
        Err(Fail::new(Exit::Failed, format!("cannot run ssh: {error}; it is in the package openssh-client")))
    }
}

/// The user, if one is named, and the VM. A name may have an @ of its own: the longest name that is a VM's is the one.
async fn who<'a>(client: &Client, text: &'a str) -> Result<(Option<&'a str>, Vm), Fail> {
    let mut unknown = match names::vm(client, text).await {
        Ok(vm) => return Ok((None, vm)),
        Err(fail) => fail,
    };
    for (at, _) in text.match_indices('@') {
        if unknown.exit != Exit::NotFound {
            break;
        }
        match names::vm(client, &text[at + 1..]).await {
            Ok(vm) if at == 0 => {
                return Err(Fail::usage(format!(
                    "{text} names no user ahead of the @; leave out the @, or name one: root@{}",
                    vm.name
                )));
            }
            Ok(vm) => return Ok((Some(&text[..at]), vm)),
            Err(fail) => unknown = fail,
        }
    }
    Err(unknown)
}

/// Users that images of clouds have, by what the names of their files begin with; their cloud-init is what lets them in.
const USERS: [(&str, &str); 18] = [
    ("debian", "debian"),
    ("ubuntu", "ubuntu"),
    ("focal", "ubuntu"),
    ("jammy", "ubuntu"),
    ("noble", "ubuntu"),
    ("resolute", "ubuntu"),
    ("fedora", "fedora"),
    ("almalinux", "almalinux"),
    ("rocky", "rocky"),
    ("centos", "cloud-user"),
    ("rhel", "cloud-user"),
    ("opensuse", "opensuse"),
    ("arch", "arch"),
    ("alpine", "alpine"),
    ("amzn", "ec2-user"),
    ("al2023", "ec2-user"),
    ("freebsd", "freebsd"),
    ("gentoo", "gentoo"),
];

/// The one that the keys of a VM are for, where its image is a known one; else ssh has its own choice.
fn user_of(vm: &Details) -> Option<String> {
    vm.config.cloud_init.as_ref()?;
    let image = vm.config.base_image.as_ref()?.file_name()?.to_str()?.to_ascii_lowercase();
    USERS.iter().find(|(begins, _)| image.starts_with(begins)).map(|(_, user)| (*user).to_owned())
}

/// On a switch, or where the host leads to it. An address that is none never comes so far.
fn place(vm: &Vm, nics: &[NetworkRow]) -> Result<(String, u16), Fail> {
    if let Some(address) = addresses(nics).first() {
        return Ok((address.to_string(), PORT));
    }
    let mut forwards = nics.iter().filter_map(|nic| nic.network.user.as_ref()).flat_map(|user| &user.forwards);
    if let Some(Forward { host_address, host_port, .. }) =
        forwards.find(|forward| forward.guest_port == PORT && forward.protocol == Protocol::Tcp)
    {
        let address = if host_address.is_unspecified() { "127.0.0.1".to_owned() } else { host_address.to_string() };
        return Ok((address, *host_port));
    }
    let is_on_switch = nics.iter().any(|nic| nic.network.switch.is_some());
    let text = if is_on_switch {
        format!(
            "{0} has no address yet; qherd ssh --wait-for port:22 waits for it, and qherd logs {0} may say why",
            vm.name
        )
    } else {
        format!(
            "{0} cannot be reached: it has no NIC on a switch, and no port of the host leads to its port 22; qherd nic add {0} SWITCH, \
             or qherd nic add {0} user,forward=2222:22",
            vm.name
        )
    };
    Err(Fail::new(Exit::Conflict, text))
}
