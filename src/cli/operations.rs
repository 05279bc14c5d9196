//! `op`: the work for requests whose clients did not wait.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::{connect::Connect, exit::Fail, names::encoded, output::Output, progress::waiting, vms::show_values};
use crate::{api::kvm::bodies::OperationBody, client::LONG};

/// What one request waits, in seconds; a longer wait is several.
const AT_ONCE: u64 = 60;

#[derive(Subcommand)]
pub enum Command {
    /// List the operations of the last day, the newest first
    Ls(Ls),
    /// All about operations
    Show(Show),
    /// Take operations back, where that can be done
    Cancel {
        /// Ids
        #[arg(required = true, value_name = "OPERATION")]
        operations: Vec<String>,
        #[command(flatten)]
        to: Connect,
    },
}

#[derive(Args)]
pub struct Ls {
    /// Only those about this VM
    #[arg(long, value_name = "VM")]
    vm: Option<String>,
    /// Only those with this status: pending, running, done, failed or cancelled
    #[arg(long)]
    status: Option<String>,
    #[command(flatten)]
    to: Connect,
}

#[derive(Args)]
pub struct Show {
    /// Ids
    #[arg(required = true, value_name = "OPERATION")]
    operations: Vec<String>,
    /// Wait until they have ended
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    to: Connect,
}

impl Command {
    pub async fn run(self) -> Result<(), Fail> {
        match self {
            Self::Ls(ls) => ls.run().await,
            Self::Show(show) => show.run().await,
            Self::Cancel { operations, to } => {
                let output = to.output();
                let client = to.client()?;
                let mut done: Vec<OperationBody> = Vec::new();
                for id in &operations {
                    done.push(client.delete(&path(id), LONG).await?);
                    if !output.is_for_programs() {
                        output.say(&format!("{id}: is taken back"))?;
                    }
                }
                show_values(output, operations.len(), &done)
            }
        }
    }
}

fn path(id: &str) -> String {
    format!("/operations/{}", encoded(id))
}

impl Ls {
    async fn run(self) -> Result<(), Fail> {
        let output = self.to.output();
        let client = self.to.client()?;
        let vm = match self.vm {
            Some(name) => Some(super::names::vms(&client, &[name]).await?.remove(0).id),
            None => None,
        };
        let named = [("vm", vm), ("status", self.status)];
        let mut path = "/operations?limit=1000".to_owned();
        for (name, value) in named.into_iter().filter_map(|(name, value)| Some((name, value?))) {
            path.push_str(&format!("&{name}={}", encoded(&value)));
        }
        output.list(&client.get::<Vec<OperationBody>>(&path).await?)
    }
}

impl Show {
    async fn run(self) -> Result<(), Fail> {
        let output = self.to.output();
        let client = self.to.client()?;
        let mut found: Vec<OperationBody> = Vec::new();
        for id in &self.operations {
            let mut operation: OperationBody = client.get(&path(id)).await?;
            while self.wait && operation.ended_at.is_none() {
                let longer = format!("{}?wait={AT_ONCE}", path(id));
                let within = LONG + Duration::from_secs(AT_ONCE);
                operation = waiting(output, &format!("{id}: waiting"), client.get_within(&longer, within)).await?;
            }
            if !output.is_for_programs() {
                facts(output, &operation)?;
            }
            found.push(operation);
        }
        show_values(output, self.operations.len(), &found)
    }
}

fn facts(output: Output, operation: &OperationBody) -> Result<(), Fail> {
    if output.is_quiet() {
        return super::output::line(&operation.id);
    }
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let answer = operation.error.as_ref().or(operation.result.as_ref());
    let mut facts = vec![
        ("Id", operation.id.clone()),
        ("Kind", operation.kind.clone()),
        ("Status", operation.status.to_string()),
        ("About", text(&operation.name)),
        ("VM id", text(&operation.vm_id)),
        ("Switch id", text(&operation.switch_id)),
        ("Caller", operation.caller.clone()),
        ("Began", operation.created_at.clone()),
        ("Ended", text(&operation.ended_at)),
        ("Interrupted", text(&operation.interrupted)),
    ];
    facts.extend(operation.phases.iter().map(|phase| ("Phase", phase.to_string())));
    facts.extend(answer.map(|answer| ("Answer", format!("{} {}", answer.status, answer.body))));
    output.facts(&facts)
}
