//! `image`: those of the store.

mod set;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use serde_json::Value;
use tokio::fs::File;

use super::{
    connect::Connect,
    create::path,
    exit::{Exit, Fail},
    names::{encoded, segment},
    output::Output,
    progress::{Outcome, Saying, showing},
    sizes::{Label, label, written},
    vms::{show_outcome, show_values},
    words::named,
};
use crate::{
    api::kvm::bodies::{ImageDone, ImageFields, ImageUpdate, ImportBody},
    client::{Begun, Client, LONG, SOON},
};

/// The command that changes one.
const SET: &str = "image set";

#[derive(Subcommand)]
pub enum Command {
    /// List the images, oldest first
    Ls {
        /// Only those of this name, with or without its tag
        #[arg(long)]
        name: Option<String>,
        /// Only those with these labels: os=debian,lts
        #[arg(long, value_name = "LABELS")]
        label: Option<String>,
        #[command(flatten)]
        to: Connect,
    },
    /// Make an image of a file: raw, qcow2, VMDK, VHD, VHDX or VDI, also compressed
    Import(Import),
    /// All about images, with the VMs that use them
    Show {
        /// Names or ids
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        #[command(flatten)]
        to: Connect,
    },
    /// Delete images that no VM uses
    Rm {
        /// Names or ids
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        #[command(flatten)]
        to: Connect,
    },
    /// Change what is noted of an image
    Set(set::Set),
    /// Rename an image: it is called by its new name or tag alone
    Tag {
        /// Its name or id
        image: String,
        /// NAME or NAME:TAG; without a tag it is latest
        name: String,
        #[command(flatten)]
        to: Connect,
    },
}

#[derive(Args)]
pub struct Import {
    /// The file; it is sent to the daemon
    #[arg(value_name = "PATH")]
    path: PathBuf,
    /// What it is to be called: NAME or NAME:TAG [default: the name of the file, without its endings]
    #[arg(long)]
    name: Option<String>,
    /// The SHA-256 sum of the file, which is compared
    #[arg(long, value_name = "SUM")]
    sha256: Option<String>,
    /// A label; repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label)]
    labels: Vec<Label>,
    /// The file lies in an image directory of the daemon's host, and is not sent
    #[arg(long)]
    on_host: bool,
    #[command(flatten)]
    to: Connect,
}

/// Between two looks at how far it is.
const LOOK: u64 = 1;
const ENDINGS: [&str; 13] =
    [".xz", ".gz", ".zst", ".bz2", ".qcow2", ".img", ".raw", ".vmdk", ".vhdx", ".vhd", ".vdi", ".vpc", ".disk"];

impl Command {
    pub async fn run(self) -> Result<(), Fail> {
        match self {
            Self::Ls { name, label, to } => {
                let output = to.output();
                let named = [("name", name), ("label", label)];
                let query = named.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", encoded(&value?))));
                let path = format!("/images?{}", query.collect::<Vec<_>>().join("&"));
                output.list(&to.client()?.get::<Vec<ImageFields>>(&path).await?)
            }
            Self::Import(import) => import.run().await,
            Self::Show { images, to } => {
                let output = to.output();
                let client = to.client()?;
                let mut found: Vec<ImageFields> = Vec::new();
                for image in &images {
                    found.push(client.get(&at(image)).await?);
                }
                if output.is_for_programs() {
                    return show_values(output, images.len(), &found);
                }
                found.iter().try_for_each(|image| facts(output, image))
            }
            Self::Rm { images, to } => {
                let output = to.output();
                let client = to.client()?;
                // All of them are there, or none goes.
                let mut found: Vec<ImageFields> = Vec::new();
                for image in &images {
                    let image: ImageFields = client.get(&at(image)).await?;
                    // Named twice is meant once.
                    if found.iter().all(|before| before.id != image.id) {
                        found.push(image);
                    }
                }
                let mut outcome = Outcome { wanted: found.len(), done: Vec::<ImageDone>::new(), failed: None };
                for image in &found {
                    let name = format!("{}:{}", image.name, image.tag);
                    match client.delete(&at(&image.id), LONG).await {
                        Ok(gone) => outcome.done.push(gone),
                        Err(failure) => {
                            outcome.failed = Some(Fail::from(failure).about_what(&name, SET));
                            break;
                        }
                    }
                    if !output.is_for_programs() {
                        output.say(&format!("{name}: deleted"))?;
                    }
                }
                show_outcome(output, outcome)
            }
            Self::Set(set) => set.run().await,
            Self::Tag { image, name, to } => {
                let output = to.output();
                let body = ImageUpdate { name: Some(name), ..ImageUpdate::default() };
                let changed: ImageFields = to.client()?.put(&at(&image), &body).await?;
                made(output, &changed, "is called so now")
            }
        }
    }
}

impl Import {
    async fn run(self) -> Result<(), Fail> {
        let output = self.to.output();
        let client = self.to.client()?;
        let name = self.name.clone().or_else(|| name_of(&self.path)).ok_or_else(|| {
            Fail::usage(format!("{} gives no name for the image; say it with --name", self.path.display()))
        })?;
        let image = if self.on_host {
            let is_here = client.target().is_here();
            let body = ImportBody {
                name: name.clone(),
                path: path(self.path.display().to_string(), is_here),
                sha256: self.sha256,
                labels: labels(&self.labels),
                description: None,
                protected: None,
            };
            showing(output, "importing", async |saying| import(&client, &body, &saying).await).await?
        } else {
            let mut query = format!("?name={}", encoded(&name));
            query.extend(self.sha256.iter().map(|sum| format!("&sha256={}", encoded(sum))));
            let (file, length) = open(&self.path).await?;
            let sent: ImageFields = showing(output, "sending", async |saying| {
                let say = move |sent: u64| match sent == length {
                    true => saying.is("all is sent; it is imported"),
                    false => saying.is(&format!("sending: {} of {}", written(sent), written(length))),
                };
                client.upload(&format!("/images/uploads{query}"), file, length, say, LONG).await
            })
            .await?;
            match labels(&self.labels) {
                Some(labels) => {
                    let body = ImageUpdate { labels: Some(Some(labels)), ..ImageUpdate::default() };
                    client.put(&at(&sent.id), &body).await?
                }
                None => sent,
            }
        };
        made(output, &image, "is imported")
    }
}

/// As an operation, whose phases are told meanwhile.
async fn import(client: &Client, body: &ImportBody, saying: &Saying) -> Result<ImageFields, Fail> {
    let mut operation = match client.begin("/images", body).await? {
        Begun::Done(image) => return Ok(image),
        Begun::Operation(operation) => *operation,
    };
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
    let said = operation.error.map(|error| match &error.body["error"]["message"] {
        Value::String(message) => message.clone(),
        _ => error.body.to_string(),
    });
    let why = operation.interrupted.or(said).unwrap_or_else(|| operation.status.to_string());
    Err(Fail::new(Exit::Failed, why))
}

async fn open(path: &std::path::Path) -> Result<(File, u64), Fail> {
    let opened = async {
        let file = File::open(path).await?;
        let length = file.metadata().await?.len();
        std::io::Result::Ok((file, length))
    };
    opened.await.map_err(|error| Fail::usage(format!("cannot read {}: {error}", path.display())))
}

/// Its path in the API.
fn at(image: &str) -> String {
    format!("/images/{}", segment(image))
}

fn labels(labels: &[Label]) -> Option<std::collections::BTreeMap<String, String>> {
    let all = || labels.iter().map(|label| (label.key.clone(), label.value.clone())).collect();
    (!labels.is_empty()).then(all)
}

/// `debian-12.qcow2.xz` → `debian-12`
fn name_of(path: &std::path::Path) -> Option<String> {
    let mut name = path.file_name()?.to_str()?;
    while let Some(shorter) = ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)) {
        name = shorter;
    }
    (name.len() > 1).then(|| name.to_owned())
}

/// Says what became of one.
fn made(output: Output, image: &ImageFields, what: &str) -> Result<(), Fail> {
    if output.is_for_programs() {
        return output.value(image);
    }
    if output.is_quiet() {
        return super::output::line(&image.id);
    }
    output.say(&format!("{}:{} {what} ({})", image.name, image.tag, image.id))
}

fn facts(output: Output, image: &ImageFields) -> Result<(), Fail> {
    if output.is_quiet() {
        return super::output::line(&image.id);
    }
    let compression = image.compression.as_ref().map(|with| format!(", compressed with {}", with.as_str()));
    let mut facts = vec![
        ("Name", format!("{}:{}", image.name, image.tag)),
        ("Id", image.id.clone()),
        ("Made of", format!("{}{}", named(&image.format), compression.unwrap_or_default())),
        ("SHA-256", image.sha256.clone()),
        ("Source", image.source.path.as_ref().map_or("an upload".to_owned(), |path| path.display().to_string())),
        ("Size", format!("{} for a guest, {} here", written(image.virtual_size), written(image.size))),
        ("File", image.layer.file.display().to_string()),
        ("Made", image.created_at.clone()),
        ("Description", image.description.clone().unwrap_or_default()),
        ("Protected", if image.protected { "yes" } else { "" }.to_owned()),
    ];
    facts.extend(image.labels.iter().map(|(key, value)| ("Label", format!("{key}={value}"))));
    facts.extend(image.vms.iter().map(|vm| ("VM", vm.name.clone())));
    output.facts(&facts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_image_a_name_without_its_endings() {
        let of = |path: &str| name_of(std::path::Path::new(path));
        assert_eq!(of("/a/debian-12.qcow2.xz").as_deref(), Some("debian-12"));
        assert_eq!(of("disk.vhdx").as_deref(), Some("disk"));
        assert_eq!(of("plain").as_deref(), Some("plain"));
        assert_eq!(of("x.img"), None);
        assert_eq!(of("/"), None);
    }
}
