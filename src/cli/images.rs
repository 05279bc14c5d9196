//! `image`: those of the store.

mod set;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{
    connect::Connect,
    create::path,
    exit::Fail,
    made_images::{labels, made, name_of},
    names::{encoded, segment},
    output::Output,
    progress::{Outcome, showing},
    pulls::{Pull, import},
    sends::send,
    sizes::{Label, label, written},
    vms::{show_outcome, show_values},
    words::named,
};
use crate::{
    api::kvm::bodies::{ImageDetails, ImageDone, ImageFields, ImageUpdate, ImportBody, KnownImageFields},
    client::LONG,
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
        /// Those that are well known instead, and need no more than their name to be pulled
        #[arg(long, conflicts_with_all = ["name", "label"])]
        known: bool,
        #[command(flatten)]
        to: Connect,
    },
    /// Make an image of a file that the daemon gets from elsewhere
    Pull(Pull),
    /// Make an image of a disk of a VM that is off
    Save {
        /// Its name or id
        vm: String,
        /// What it is to be called: NAME or NAME:TAG
        #[arg(long)]
        name: String,
        /// Which disk [default: the root disk]
        #[arg(long)]
        disk: Option<String>,
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
    /// The file; it is sent to the daemon, and where that is cut short the same command goes on
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

impl Command {
    pub async fn run(self) -> Result<(), Fail> {
        match self {
            Self::Ls { known: true, to, .. } => {
                let output = to.output();
                output.list(&to.client()?.get::<Vec<KnownImageFields>>("/known-images").await?)
            }
            Self::Ls { name, label, to, .. } => {
                let output = to.output();
                let named = [("name", name), ("label", label)];
                let query = named.into_iter().filter_map(|(key, value)| Some(format!("{key}={}", encoded(&value?))));
                let path = format!("/images?{}", query.collect::<Vec<_>>().join("&"));
                output.list(&to.client()?.get::<Vec<ImageFields>>(&path).await?)
            }
            Self::Import(import) => import.run().await,
            Self::Pull(pull) => pull.run().await,
            Self::Save { vm, name, disk, to } => {
                let output = to.output();
                let client = to.client()?;
                let from_vm = Some(super::names::vm(&client, &vm).await?.id);
                let body = ImportBody { name, from_vm, disk, ..ImportBody::default() };
                let saved = showing(output, "saving", async |saying| import(&client, &body, &saying).await).await?;
                made(output, &saved, "is made")
            }
            Self::Show { images, to } => {
                let output = to.output();
                let client = to.client()?;
                let mut found: Vec<ImageDetails> = Vec::new();
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
        let body = ImportBody { name, sha256: self.sha256, labels: labels(&self.labels), ..ImportBody::default() };
        let body = if self.on_host {
            let is_here = client.target().is_here();
            ImportBody { path: Some(path(self.path.display().to_string(), is_here)), ..body }
        } else {
            let sent = showing(output, "sending", async |saying| send(&client, &self.path, saying).await).await?;
            ImportBody { upload: Some(sent), ..body }
        };
        let image = showing(output, "importing", async |saying| import(&client, &body, &saying).await).await?;
        made(output, &image, "is imported")
    }
}

/// Its path in the API.
fn at(image: &str) -> String {
    format!("/images/{}", segment(image))
}

fn facts(output: Output, details: &ImageDetails) -> Result<(), Fail> {
    let image = &details.image;
    if output.is_quiet() {
        return super::output::line(&image.id);
    }
    let compression = image.compression.as_ref().map(|with| format!(", compressed with {}", with.as_str()));
    let mut facts = vec![
        ("Name", format!("{}:{}", image.name, image.tag)),
        ("Id", image.id.clone()),
        ("Made of", format!("{}{}", named(&image.format), compression.unwrap_or_default())),
        ("SHA-256", image.sha256.clone()),
        ("Source", source(image)),
        ("Size", format!("{} for a guest, {} here", written(image.virtual_size), written(image.size))),
        ("File", image.layer.file.display().to_string()),
        ("Made", image.created_at.clone()),
        ("Description", image.description.clone().unwrap_or_default()),
        ("Protected", if image.protected { "yes" } else { "" }.to_owned()),
    ];
    facts.extend(image.labels.iter().map(|(key, value)| ("Label", format!("{key}={value}"))));
    facts.extend(details.disks.iter().map(|disk| {
        let own = disk.allocated.map(|own| format!(", {} of its own", written(own))).unwrap_or_default();
        ("Disk", format!("{} of {}{own}", disk.disk, disk.vm))
    }));
    output.facts(&facts)
}

fn source(image: &ImageFields) -> String {
    let path = image.source.path.as_ref().map(|path| path.display().to_string());
    let vm = image.source.vm_id.as_ref().zip(image.source.disk.as_ref());
    let vm = vm.map(|(vm, disk)| format!("the disk {disk} of the VM {vm}"));
    path.or(image.source.url.clone()).or(vm).unwrap_or_else(|| "an upload".to_owned())
}
