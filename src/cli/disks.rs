//! `disk`.

use clap::Subcommand;

use super::{
    connect::Connect,
    create::{ATTACHED, Attached, attached, path},
    exit::Fail,
    names::{self, segment},
    progress::waiting,
    sizes,
    words::when,
};
use crate::{
    api::kvm::bodies::{DiskBody, DiskDone, DiskRow, DiskUpdate},
    client::LONG,
    model::IoLimits,
};

#[derive(Subcommand)]
pub enum Command {
    /// List the disks of a VM, the root disk first
    Ls {
        vm: String,
        #[command(flatten)]
        to: Connect,
    },
    /// Add a disk, empty, cloned, or one that is there already; a running VM gets it at once
    Add {
        vm: String,
        /// Its size
        #[arg(long, value_name = "SIZE", value_parser = sizes::gib, required_unless_present = "attached")]
        size: Option<i64>,
        /// A disk image that is there already, in a storage directory of the daemon, used as it is and never deleted
        #[arg(long = "attach", value_name = ATTACHED, value_parser = attached, conflicts_with_all = ["size", "image"])]
        attached: Option<Attached>,
        /// The image that it is cloned from: one of `image ls`, or a path [default: it is empty]
        #[arg(long, value_name = "IMAGE")]
        image: Option<String>,
        /// I/O operations per second
        #[arg(long, value_name = "N")]
        iops: Option<i64>,
        /// Bytes per second, such as 50M
        #[arg(long, value_name = "SIZE", value_parser = sizes::bytes)]
        bps: Option<u64>,
        #[command(flatten)]
        to: Connect,
    },
    /// Go on over what the base image of a disk has in it by now, though it is not what was cloned
    AcceptBase {
        vm: String,
        /// Its name: root, disk1
        disk: String,
        #[command(flatten)]
        to: Connect,
    },
    /// Remove a disk, with its image
    Rm {
        vm: String,
        /// Its name: disk1
        disk: String,
        #[command(flatten)]
        to: Connect,
    },
}

impl Command {
    pub async fn run(self) -> Result<(), Fail> {
        match self {
            Self::Ls { vm, to } => {
                let output = to.output();
                let client = to.client()?;
                let vm = names::vm(&client, &vm).await?;
                output.list(&client.get::<Vec<DiskRow>>(&format!("/vms/{}/disks", vm.id)).await?)
            }
            Self::Add { vm, size, attached, image, iops, bps, to } => {
                let output = to.output();
                let client = to.client()?;
                let vm = names::vm(&client, &vm).await?;
                let limits = IoLimits { iops, bps: bps.map(|bps| bps as i64), ..IoLimits::default() };
                let is_here = client.target().is_here();
                let body = DiskBody {
                    io_limits: (limits != IoLimits::default()).then_some(limits),
                    ..match attached {
                        Some(attached) => attached.body(is_here),
                        None => DiskBody {
                            disk_size: size,
                            base_image: image.map(|image| path(image, is_here).into()),
                            ..DiskBody::default()
                        },
                    }
                };
                let url = format!("/vms/{}/disks", vm.id);
                let done: DiskDone = waiting(output, "adding the disk", client.post(&url, &body, LONG)).await?;
                if output.is_for_programs() {
                    return output.value(&done);
                }
                if output.is_quiet() {
                    return super::output::line(&done.of.id);
                }
                output.say(&format!("{}: added {}{}", vm.name, done.of.id, when(done.applied)))
            }
            Self::AcceptBase { vm, disk, to } => {
                let output = to.output();
                let client = to.client()?;
                let vm = names::vm(&client, &vm).await?;
                let url = format!("/vms/{}/disks/{}", vm.id, segment(&disk));
                let body = DiskUpdate { accept_base: Some(true), ..DiskUpdate::default() };
                let done: serde_json::Value = client.put(&url, &body).await?;
                if output.is_for_programs() {
                    return output.value(&done);
                }
                output.say(&format!("{}: {disk} lies on its base image as it is now", vm.name))
            }
            Self::Rm { vm, disk, to } => {
                let output = to.output();
                let client = to.client()?;
                let vm = names::vm(&client, &vm).await?;
                let url = format!("/vms/{}/disks/{}", vm.id, segment(&disk));
                let done: DiskDone = waiting(output, "removing the disk", client.delete(&url, LONG)).await?;
                if output.is_for_programs() {
                    return output.value(&done);
                }
                output.say(&format!("{}: removed {}{}", vm.name, done.of.id, when(done.applied)))
            }
        }
    }
}
