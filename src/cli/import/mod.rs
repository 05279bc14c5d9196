//! `import`: VMs of other managers, as requests of this API. The daemon knows nothing of them.

#![allow(clippy::disallowed_methods, reason = "a command, which serves nobody")]

mod cpu;
mod disks;
mod domain;
mod left;
mod nics;
mod others;
mod xml;

use std::{
    fs::File,
    io::stdin,
    path::{Path, PathBuf},
};

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::{
    connect::Connect,
    cpu::CpuFlags,
    exit::{Exit, Fail},
    names::Vm,
    output::{Output, line},
    progress::waiting,
    wait::WaitFor,
};
use crate::{api::kvm::bodies::Created, client::LONG};
use domain::Imported;
use left::Left;

#[derive(Subcommand)]
pub enum Command {
    /// A domain of libvirt: its disks are attached where they are
    Libvirt(Box<Libvirt>),
}

#[derive(Args)]
pub struct Libvirt {
    /// What virsh dumpxml --inactive writes; - reads it from standard input
    #[arg(value_name = "DOMAIN.xml")]
    file: PathBuf,
    /// The switch in the place of a libvirt network, bridge or device; repeatable. NICs of others are on the user-mode network
    #[arg(long = "network", value_name = "NAME=SWITCH", value_parser = mapping)]
    networks: Vec<(String, String)>,
    /// What it is called [default: as the domain]
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    cpu: CpuFlags,
    /// Show what would be asked for, and what is not taken over, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Start it, or make nothing
    #[arg(long)]
    start: bool,
    #[command(flatten)]
    wait: WaitFor,
    #[command(flatten)]
    to: Connect,
}

/// What its user says beside the file.
pub struct Options {
    networks: Vec<(String, String)>,
    name: Option<String>,
    cpu: CpuFlags,
    start: bool,
}

impl Command {
    pub async fn run(self) -> Result<(), Fail> {
        match self {
            Self::Libvirt(libvirt) => libvirt.run().await,
        }
    }
}

impl Libvirt {
    async fn run(self) -> Result<(), Fail> {
        let output = self.to.output();
        let options = Options { networks: self.networks, name: self.name, cpu: self.cpu, start: self.start };
        if self.wait.goal().is_some() && !self.start {
            return Err(Fail::usage("--wait-for waits for a VM that runs; add --start"));
        }
        let shown = self.file.display().to_string();
        let imported = read(&self.file, &options).map_err(|why| Fail::usage(format!("{shown}: {why}")))?;
        if self.dry_run {
            return show(output, &imported);
        }
        let Imported { request, left } = imported;
        if let Some(goal) = self.wait.goal() {
            let on_switch = request.networks.iter().flatten().map(|nic| nic.switch.is_some());
            goal.check(request.name.as_deref().unwrap_or_default(), on_switch)?;
        }
        let client = self.to.client()?;
        let made: Result<Created, _> = waiting(output, "creating", client.post("/vms", &request, LONG)).await;
        let created = made.map_err(|failure| {
            let fail = Fail::from(failure);
            // In the words of the API; here they are flags.
            let cpu =
                if fail.text.contains("cpu.") { ", --cpu-model and --cpu-feature NAME=off change its CPU" } else { "" };
            let text = format!("{}\n{shown} was not taken over; --dry-run shows what was asked for{cpu}", fail.text);
            Fail { text, ..fail }
        })?;
        if output.is_for_programs() {
            output.value(&json!({ "created": created, "left": left }))?;
        } else if output.is_quiet() {
            line(&created.id)?;
        } else {
            let started = if self.start { ", and runs" } else { "" };
            output.say(&format!("{} is made{started} ({})", created.name, created.id))?;
            list(output, &left)?;
        }
        self.wait.wait(&client, output, &[Vm { name: created.name, id: created.id }]).await
    }
}

/// For the fuzz targets: whatever a domain file is, what is read has a bound, and so has what is said of it.
pub(crate) fn fuzz(bytes: &[u8]) -> Result<(), String> {
    let options = Options {
        networks: vec![("default".to_owned(), "LAN".to_owned())],
        name: None,
        cpu: CpuFlags::default(),
        start: false,
    };
    let read = || -> Result<usize, String> {
        let text = xml::text(bytes)?;
        let document = xml::document(&text)?;
        let elements = document.descendants().filter(|node| node.is_element());
        let deepest = elements.map(|node| node.ancestors().filter(|above| above.is_element()).count()).max();
        // Whether it can be a VM here is another question.
        match domain::read(document.root_element(), &options) {
            Err(why) if why.len() > 4096 + 8 * bytes.len() => Err(why),
            Ok(_) | Err(_) => Ok(deepest.unwrap_or(0)),
        }
    };
    match read() {
        Ok(deepest) if deepest > xml::DEPTH => Err(format!("elements were read that are {deepest} deep")),
        Err(why) if why.len() > 4096 + 8 * bytes.len() => Err(format!("an objection of {} bytes", why.len())),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// # Errors
/// In words.
fn read(file: &Path, options: &Options) -> Result<Imported, String> {
    let text = if file == Path::new("-") {
        xml::text(stdin().lock())?
    } else {
        xml::text(File::open(file).map_err(|error| error.to_string())?)?
    };
    let document = xml::document(&text)?;
    domain::read(document.root_element(), options)
}

fn show(output: Output, Imported { request, left }: &Imported) -> Result<(), Fail> {
    let mut request = serde_json::to_value(request).map_err(|error| Fail::new(Exit::Failed, error.to_string()))?;
    prune(&mut request);
    if output.is_for_programs() {
        return output.value(&json!({ "request": request, "left": left }));
    }
    let text = serde_json::to_string_pretty(&request).unwrap_or_default();
    output.say(&format!("POST /vms\n{text}"))?;
    list(output, left)
}

/// What is not said is not shown.
fn prune(request: &mut Value) {
    let Value::Object(members) = request else { return };
    members.retain(|name, value| !value.is_null() && name != "clone" && (name != "start" || *value == json!(true)));
}

fn list(output: Output, left: &[Left]) -> Result<(), Fail> {
    if left.is_empty() {
        return output.say("Everything is taken over.");
    }
    output.say("Not taken over, or other than it was:")?;
    left.iter().try_for_each(|Left { what, why }| output.say(&format!("  {what}: {why}")))
}

/// # Errors
/// For clap.
fn mapping(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, switch)) if !name.is_empty() && !switch.is_empty() => Ok((name.to_owned(), switch.to_owned())),
        _ => Err(format!("{text:?} is not NAME=SWITCH, such as default=LAN")),
    }
}
