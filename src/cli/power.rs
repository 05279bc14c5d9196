//! What turns VMs on and off, and away: `start`, `stop`, `reboot`, `suspend`, `resume`, `rm`. Several at once, side by side.

use std::time::Duration;

use clap::Args;
use serde_json::json;

use super::{
    connect::Connect,
    exit::Fail,
    names::{self, Vm},
    output::Output,
    progress::each,
    sizes,
    vms::show_outcome,
    wait::WaitFor,
};
use crate::{
    api::kvm::bodies::{Deleted, Done, RebootBody, StopBody},
    client::{Client, LONG},
};

#[derive(Args)]
pub struct Vms {
    /// Names or ids
    #[arg(required = true, value_name = "VM")]
    vms: Vec<String>,
    #[command(flatten)]
    to: Connect,
}

#[derive(Args)]
pub struct Start {
    #[command(flatten)]
    wait: WaitFor,
    #[command(flatten)]
    vms: Vms,
}

#[derive(Args)]
pub struct Stop {
    /// Cut the power at once
    #[arg(short, long, conflicts_with = "timeout")]
    force: bool,
    /// How long the guest is given before its power is cut [default: the daemon's, 60s]
    #[arg(long, value_name = "TIME", value_parser = sizes::time)]
    timeout: Option<Duration>,
    #[command(flatten)]
    vms: Vms,
}

#[derive(Args)]
pub struct Reboot {
    /// How long the guest is given before it is reset [default: the daemon's, 60s]
    #[arg(long, value_name = "TIME", value_parser = sizes::time)]
    timeout: Option<Duration>,
    #[command(flatten)]
    vms: Vms,
}

#[derive(Args)]
pub struct Rm {
    /// Ask the guest to power off first
    #[arg(long)]
    graceful: bool,
    #[command(flatten)]
    vms: Vms,
}

/// Who is meant, and how it is shown.
struct Ready {
    output: Output,
    client: Client,
    vms: Vec<Vm>,
}

impl Vms {
    async fn ready(self) -> Result<Ready, Fail> {
        let output = self.to.output();
        let client = self.to.client()?;
        let vms = names::vms(&client, &self.vms).await?;
        Ok(Ready { output, client, vms })
    }

    pub async fn suspend(self) -> Result<(), Fail> {
        self.ready().await?.post("suspending", "suspend", json!({}), LONG).await
    }

    pub async fn resume(self) -> Result<(), Fail> {
        self.ready().await?.post("resuming", "resume", json!({}), LONG).await
    }
}

impl Ready {
    async fn post(&self, what: &str, action: &str, body: serde_json::Value, time: Duration) -> Result<(), Fail> {
        let (client, output) = (&self.client, self.output);
        let work = async |vm: Vm| Ok(client.post::<Done>(&format!("/vms/{}/{action}", vm.id), &body, time).await?);
        let shown = |vm: &Vm, done: &Done| {
            let forced = if done.forced == Some(true) && action == "stop" { ", by force" } else { "" };
            said(output, &format!("{}: {}{forced}", vm.name, done.status.as_str()))
        };
        show_outcome(output, each(output, what, &self.vms, work, shown).await?)
    }
}

/// For people alone.
fn said(output: Output, text: &str) -> Result<(), Fail> {
    if output.is_for_programs() { Ok(()) } else { output.say(text) }
}

/// Longer than the daemon takes to give a guest its time.
fn patience(timeout: Option<Duration>) -> Duration {
    timeout.map_or(LONG, |timeout| timeout + LONG)
}

fn seconds(timeout: Option<Duration>) -> Option<i64> {
    timeout.map(|timeout| i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX))
}

impl Start {
    pub async fn run(self) -> Result<(), Fail> {
        let ready = self.vms.ready().await?;
        ready.post("starting", "start", json!({}), LONG).await?;
        self.wait.wait(&ready.client, ready.output, &ready.vms).await
    }
}

impl Stop {
    pub async fn run(self) -> Result<(), Fail> {
        let body = StopBody { force: self.force.then_some(true), timeout: seconds(self.timeout) };
        self.vms.ready().await?.post("stopping", "stop", json!(body), patience(self.timeout)).await
    }
}

impl Reboot {
    pub async fn run(self) -> Result<(), Fail> {
        let body = RebootBody { timeout: seconds(self.timeout) };
        self.vms.ready().await?.post("rebooting", "reboot", json!(body), patience(self.timeout)).await
    }
}

impl Rm {
    pub async fn run(self) -> Result<(), Fail> {
        let Ready { output, client, vms } = self.vms.ready().await?;
        let query = if self.graceful { "?graceful=true" } else { "" };
        let work = async |vm: Vm| Ok(client.delete::<Deleted>(&format!("/vms/{}{query}", vm.id), LONG).await?);
        let shown = |vm: &Vm, done: &Deleted| said(output, &format!("{}: {}", vm.name, done.status));
        show_outcome(output, each(output, "removing", &vms, work, shown).await?)
    }
}
