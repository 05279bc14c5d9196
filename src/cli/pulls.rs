//! `image pull`: the daemon gets the file, and this looks how far it is. The work is the daemon's, and goes on without whoever
//! has begun it: the same command joins it again.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::{
    connect::Connect,
    exit::{Exit, Fail},
    made_images::{labels, made, name_of},
    progress::{Saying, showing},
    sizes::{Label, label},
};
use crate::{
    api::kvm::bodies::{ImageFields, ImportBody, OperationBody},
    client::{Begun, Client, Failure, SOON},
};

/// Between two looks at how far it is, in seconds.
const LOOK: u64 = 1;
const IMPORT: &str = "importImage";
const LATEST: &str = ":latest";
/// SIGINT.
const INTERRUPTED: u8 = 2;

#[derive(Args)]
pub struct Pull {
    /// The URL of a file, by https or http, or the name of a well-known image: see image ls --known
    #[arg(value_name = "URL|NAME")]
    what: String,
    /// What it is to be called: NAME or NAME:TAG [default: the name of the file, without its endings]
    #[arg(long)]
    name: Option<String>,
    /// The SHA-256 sum of the file, which is compared
    #[arg(long, value_name = "SUM")]
    sha256: Option<String>,
    /// A label; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<Label>,
    #[command(flatten)]
    to: Connect,
}

impl Pull {
    pub async fn run(self) -> Result<(), Fail> {
        let output = self.to.output();
        let client = self.to.client()?;
        let is_url = self.what.contains("://");
        let path = self.what.split(['?', '#']).next().unwrap_or_default();
        // Without the server, after which no file is called.
        let path = path.split_once("://").and_then(|(_, rest)| rest.split_once('/')).map_or("", |(_, path)| path);
        let name = match (self.name, is_url) {
            (Some(name), true) => name,
            (None, true) => name_of(path.as_ref())
                .ok_or_else(|| Fail::usage(format!("{} gives no name for the image; say it with --name", self.what)))?,
            (None, false) => self.what.clone(),
            (Some(_), false) => {
                return Err(Fail::usage(
                    "a well-known image is called as it is known; give it another name afterwards, with image tag",
                ));
            }
        };
        let body = ImportBody {
            name,
            url: is_url.then_some(self.what),
            sha256: self.sha256,
            labels: labels(&self.labels),
            ..ImportBody::default()
        };
        let image = showing(output, "pulling", async |saying| match joined(&client, &body.name).await? {
            Some(operation) => follow(&client, operation, &saying).await,
            None => import(&client, &body, &saying).await,
        });
        made(output, &image.await?, "is pulled")
    }
}

/// An import of that name that is under way: this command was interrupted, or another one is at it.
async fn joined(client: &Client, name: &str) -> Result<Option<OperationBody>, Fail> {
    let whole = if name.contains(':') { name.to_owned() } else { format!("{name}{LATEST}") };
    let running: Vec<OperationBody> = client.get("/operations?status=running&limit=1000").await?;
    let is_it = |operation: &OperationBody| operation.kind == IMPORT && operation.name.as_ref() == Some(&whole);
    Ok(running.into_iter().find(is_it))
}

/// As an operation, whose phases are told meanwhile.
pub(super) async fn import(client: &Client, body: &ImportBody, saying: &Saying) -> Result<ImageFields, Fail> {
    match client.begin("/images", body).await? {
        Begun::Done(image) => Ok(image),
        Begun::Operation(operation) => follow(client, *operation, saying).await,
    }
}

async fn follow(client: &Client, operation: OperationBody, saying: &Saying) -> Result<ImageFields, Fail> {
    let id = operation.id.clone();
    tokio::select! {
        ended = until_ended(client, operation, saying) => ended,
        _ = tokio::signal::ctrl_c() => Err(Fail::new(
            Exit::Signal(INTERRUPTED),
            format!("the daemon goes on; the same command joins it again, and qherd op cancel {id} ends it"),
        )),
    }
}

async fn until_ended(client: &Client, mut operation: OperationBody, saying: &Saying) -> Result<ImageFields, Fail> {
    let unreadable =
        |error: serde_json::Error| Fail::new(Exit::Failed, format!("the answer is not understood: {error}"));
    while operation.ended_at.is_none() {
        if let Some(phase) = operation.phases.iter().rfind(|phase| phase.ended_at.is_none()) {
            saying.is(&format!("importing: {phase}"));
        }
        let path = format!("/operations/{}?wait={LOOK}", operation.id);
        operation = client.get_within(&path, SOON + Duration::from_secs(LOOK)).await?;
    }
    if let Some(result) = operation.result {
        return serde_json::from_value(result.body).map_err(unreadable);
    }
    if let Some(error) = operation.error {
        let message = match &error.body["error"]["message"] {
            Value::String(message) => message.clone(),
            _ => error.body.to_string(),
        };
        return Err(Failure::refused(error.status, message).into());
    }
    Err(Fail::new(Exit::Failed, operation.interrupted.unwrap_or_else(|| operation.status.to_string())))
}
