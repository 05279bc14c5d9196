//! `cp`: a file into a guest or out of it, by its agent. Out of it, what is there before is kept until all of the new is there.

use std::path::{Path, PathBuf};

use clap::Args;
use tokio::fs::{self, File};

use super::{
    connect::Connect,
    exit::{Exit, Fail},
    names::{self, encoded},
    output::Output,
    progress::showing,
    saves::save,
    sizes::written,
};
use crate::{
    api::kvm::bodies::FileDone,
    client::{Client, LONG},
};

#[derive(Args)]
pub struct Cp {
    /// What to copy: a file here, or VM:PATH
    from: String,
    /// Where to: VM:PATH, or a file or folder here
    to: String,
    #[command(flatten)]
    at: Connect,
}

/// The VM and the path in it; nothing of a path here, which has a / before any colon.
fn in_vm(text: &str) -> Option<(&str, &str)> {
    let (vm, path) = text.split_once(':')?;
    (!vm.is_empty() && !vm.contains('/') && !path.is_empty()).then_some((vm, path))
}

impl Cp {
    pub async fn run(self) -> Result<(), Fail> {
        let output = self.at.output();
        let client = self.at.client()?;
        match (in_vm(&self.from), in_vm(&self.to)) {
            (Some((vm, path)), None) => out(&client, output, vm, path, Path::new(&self.to)).await,
            (None, Some((vm, path))) => into(&client, output, Path::new(&self.from), vm, path).await,
            _ => Err(Fail::usage("one of both is in a VM, as VM:PATH, and the other one here")),
        }
    }
}

async fn into(client: &Client, output: Output, from: &Path, vm: &str, path: &str) -> Result<(), Fail> {
    let here = |error| Fail::new(Exit::Failed, format!("{}: {error}", from.display()));
    let vm = names::vm(client, vm).await?;
    let mut path = path.to_owned();
    if path.ends_with('/') {
        path += &from.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    }
    let file = File::open(from).await.map_err(here)?;
    let length = file.metadata().await.map_err(here)?;
    if !length.is_file() {
        return Err(Fail::usage(format!("{} is no file; qherd cp copies one file", from.display())));
    }
    let length = length.len();
    let done: FileDone = showing(output, "copying", async |saying| {
        let hear = move |sent| saying.is(&format!("copying: {} of {}", written(sent), written(length)));
        let to = format!("/vms/{}/files?path={}", vm.id, encoded(&path));
        client.put_file(&to, file, length, hear, LONG).await
    })
    .await?;
    if output.is_for_programs() { output.value(&done) } else { Ok(()) }
}

async fn out(client: &Client, output: Output, vm: &str, path: &str, to: &Path) -> Result<(), Fail> {
    let vm = names::vm(client, vm).await?;
    let is_folder = fs::metadata(to).await.is_ok_and(|found| found.is_dir());
    let name = path.rsplit('/').next().unwrap_or_default();
    let to = if is_folder { to.join(name) } else { to.to_owned() };
    let failed = |error| Fail::new(Exit::Failed, format!("{}: {error}", to.display()));
    let part = PathBuf::from(format!("{}.{}.part", to.display(), std::process::id()));
    let from = format!("/vms/{}/files?path={}", vm.id, encoded(path));
    showing(output, "copying", async |saying| {
        save(client, &from, &part, &saying).await?;
        if let Err(error) = fs::rename(&part, &to).await {
            // It was made here.
            let _ = fs::remove_file(&part).await;
            return Err(failed(error));
        }
        Ok(())
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_a_vm_is_told_from_what_is_here() {
        assert_eq!(in_vm("web:/etc/hosts"), Some(("web", "/etc/hosts")));
        assert_eq!(in_vm("web:a:b"), Some(("web", "a:b")));
        for here in ["hosts", "./web:x", "/a:b", "web:", ":x"] {
            assert_eq!(in_vm(here), None, "{here}");
        }
    }
}
