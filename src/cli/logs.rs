//! `logs`: what a guest wrote on its console, or QEMU complained of, as text. A terminal does nothing with it.

use clap::Args;

use super::{
    connect::Connect,
    exit::{Exit, Fail},
    names::{self, encoded},
    output::{bytes, unread},
};
use crate::{
    api::kvm::{Shown, bodies::StatusBody},
    client::Failure,
};

#[derive(Args)]
pub struct Logs {
    /// Its name or id
    vm: String,
    /// Go on with what is written from now on
    #[arg(short, long)]
    follow: bool,
    /// At most the last so many lines of what was written before [default: 1000, all with --since]
    #[arg(short = 'n', long, value_name = "N")]
    tail: Option<u32>,
    /// Only what was written since: a time, or how long ago, such as 10m
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Each line with its time
    #[arg(short, long)]
    timestamps: bool,
    /// What QEMU complained of in its last run, instead of what the guest wrote
    #[arg(long)]
    qemu: bool,
    #[command(flatten)]
    to: Connect,
}

impl Logs {
    pub async fn run(self) -> Result<(), Fail> {
        if !self.follow {
            return self.show().await;
        }
        tokio::select! {
            done = self.show() => done,
            fail = unread() => Err(fail),
        }
    }

    async fn show(self) -> Result<(), Fail> {
        let client = self.to.client()?;
        let vm = names::vm(&client, &self.vm).await?;
        let mut query = vec![format!("source={}", if self.qemu { "qemu" } else { "console" })];
        query.push(format!("follow={}&timestamps={}", self.follow, self.timestamps));
        query.extend(self.tail.map(|tail| format!("tail={tail}")));
        query.extend(self.since.map(|since| format!("since={}", encoded(&since))));
        let mut stream = client.stream(&format!("/vms/{}/logs?{}", vm.id, query.join("&"))).await?;
        // Here, and not by the daemon: whatever it is that answers, what is shown is text.
        let mut shown = Shown::default();
        while let Some(piece) = stream.next().await? {
            bytes(shown.more(&piece).as_bytes())?;
        }
        bytes(shown.end().as_bytes())?;
        if !self.follow {
            return Ok(());
        }
        match client.get::<StatusBody>(&format!("/vms/{}/status", vm.id)).await {
            Err(Failure::Refused { status, .. }) if status.as_u16() == 404 => Ok(()),
            _ => Err(Fail::new(Exit::Unreachable, "qherd ends; the VM goes on, and so does this with the next daemon")),
        }
    }
}
