//! `volume`.

use clap::Subcommand;

use super::{
    connect::Connect,
    exit::Fail,
    names::{self, segment},
    progress::{showing, waiting},
    saves::save,
    sizes::{self, written},
    vms::show_values,
    words::when,
};
use crate::{
    api::kvm::bodies::{DiskBody, DiskDone, VolumeBody, VolumeDone, VolumeFields},
    client::LONG,
};

#[derive(Subcommand)]
pub enum Command {
    /// List the volumes, oldest first
    Ls {
        #[command(flatten)]
        to: Connect,
    },
    /// Make a volume, empty or of an image
    Create {
        /// What it is to be called
        name: String,
        /// Its size
        #[arg(long, value_name = "SIZE", value_parser = sizes::gib)]
        size: i64,
        /// The image that it is cloned from: one of `image ls`, or a path [default: it is empty]
        #[arg(long, value_name = "IMAGE")]
        image: Option<String>,
        #[command(flatten)]
        to: Connect,
    },
    /// Make a volume a disk of a VM; a running VM gets it at once
    Attach {
        vm: String,
        /// Its name or id
        volume: String,
        #[command(flatten)]
        to: Connect,
    },
    /// Remove a disk of a VM, and keep what is in it as a volume
    Detach {
        vm: String,
        /// The disk's name: disk1
        disk: String,
        /// What the volume is to be called [default: after the VM and the disk]
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        to: Connect,
    },
    /// Write what is in a volume to a new qcow2 file here
    Export {
        /// Its name or id
        volume: String,
        file: std::path::PathBuf,
        #[command(flatten)]
        to: Connect,
    },
    /// Delete volumes that no VM has, with their data
    Rm {
        /// Names or ids
        #[arg(required = true, value_name = "VOLUME")]
        volumes: Vec<String>,
        #[command(flatten)]
        to: Connect,
    },
}

impl Command {
    pub async fn run(self) -> Result<(), Fail> {
        match self {
            Self::Ls { to } => {
                let output = to.output();
                output.list(&to.client()?.get::<Vec<VolumeFields>>("/volumes").await?)
            }
            Self::Create { name, size, image, to } => {
                let output = to.output();
                let client = to.client()?;
                let is_here = client.target().is_here();
                let base_image = image.map(|image| super::create::path(image, is_here).into());
                let body = VolumeBody { name, disk_size: size, base_image, clone: None };
                let made: VolumeFields =
                    waiting(output, "making the volume", client.post("/volumes", &body, LONG)).await?;
                if output.is_for_programs() {
                    return output.value(&made);
                }
                if output.is_quiet() {
                    return super::output::line(&made.id);
                }
                output.say(&format!("made the volume {} ({})", made.name, made.id))
            }
            Self::Attach { vm, volume, to } => {
                let output = to.output();
                let client = to.client()?;
                let vm = names::vm(&client, &vm).await?;
                let volume = names::volume(&client, &volume).await?;
                let body = DiskBody { volume: Some(volume.id), ..DiskBody::default() };
                let url = format!("/vms/{}/disks", vm.id);
                let done: DiskDone = waiting(output, "attaching the volume", client.post(&url, &body, LONG)).await?;
                if output.is_for_programs() {
                    return output.value(&done);
                }
                if output.is_quiet() {
                    return super::output::line(&done.of.id);
                }
                output.say(&format!("{}: {} is {}{}", vm.name, volume.name, done.of.id, when(done.applied)))
            }
            Self::Detach { vm, disk, name, to } => {
                let output = to.output();
                let client = to.client()?;
                let vm = names::vm(&client, &vm).await?;
                let name = name.map(|name| format!("&name={}", names::encoded(&name))).unwrap_or_default();
                let url = format!("/vms/{}/disks/{}?keep=true{name}", vm.id, segment(&disk));
                let done: DiskDone = waiting(output, "removing the disk", client.delete(&url, LONG)).await?;
                let volume = done.disk.as_ref().and_then(|disk| disk.volume.clone()).unwrap_or_default();
                if output.is_for_programs() {
                    return output.value(&done);
                }
                if output.is_quiet() {
                    return super::output::line(&volume);
                }
                let when = when(done.applied);
                output.say(&format!("{}: removed {}{when}; its data are in the volume {volume}", vm.name, done.of.id))
            }
            Self::Export { volume, file, to } => {
                let output = to.output();
                let client = to.client()?;
                let volume = names::volume(&client, &volume).await?;
                let path = format!("/volumes/{}/content", volume.id);
                let length =
                    showing(output, "writing", async |saying| save(&client, &path, &file, &saying).await).await?;
                if output.is_for_programs() {
                    return output.value(&volume);
                }
                output.say(&format!("{} is in {} ({})", volume.name, file.display(), written(length)))
            }
            Self::Rm { volumes, to } => {
                let output = to.output();
                let client = to.client()?;
                // All of them are there, or none goes.
                let mut found: Vec<VolumeFields> = Vec::new();
                for volume in &volumes {
                    let volume = names::volume(&client, volume).await?;
                    // Named twice is meant once.
                    if found.iter().all(|before| before.id != volume.id) {
                        found.push(volume);
                    }
                }
                let mut done: Vec<VolumeDone> = Vec::new();
                for volume in &found {
                    let gone = client.delete(&format!("/volumes/{}", volume.id), LONG).await;
                    let gone: VolumeDone = gone.map_err(|error| Fail::from(error).about(&volume.name))?;
                    if !output.is_for_programs() {
                        output.say(&format!("{}: deleted", volume.name))?;
                    }
                    done.push(gone);
                }
                show_values(output, found.len(), &done)
            }
        }
    }
}
