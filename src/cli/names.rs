//! Who is meant: a name works wherever an id does, as long as one VM or switch alone is called so. What is not there gets the
//! nearest name.

use serde::Serialize;
use uuid::Uuid;

use super::exit::{Exit, Fail};
use crate::{
    api::kvm::bodies::{Listed, SwitchFields, VolumeFields},
    client::Client,
    model::nearest,
};

/// A VM, as it was called and as it is known.
#[derive(Clone, Serialize)]
pub struct Vm {
    pub name: String,
    pub id: String,
}

/// A query parameter, as a URL has it.
pub fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

/// One part of a path.
pub fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn is_id(text: &str) -> bool {
    text.len() == 36 && Uuid::try_parse(text).is_ok()
}

/// All of them, or nothing is done to any.
///
/// # Errors
/// What is nobody's name, or several ones'.
pub async fn vms(client: &Client, names: &[String]) -> Result<Vec<Vm>, Fail> {
    let mut found: Vec<Vm> = Vec::with_capacity(names.len());
    for name in names {
        let vm = vm(client, name).await?;
        // Named twice is meant once.
        if found.iter().all(|before| before.id != vm.id) {
            found.push(vm);
        }
    }
    Ok(found)
}

/// # Errors
/// As [`vms`].
pub async fn vm(client: &Client, name: &str) -> Result<Vm, Fail> {
    if is_id(name) {
        // Whether it is there is said by what is asked next.
        return Ok(Vm { name: name.to_owned(), id: name.to_ascii_lowercase() });
    }
    let listed: Vec<Listed> = client.get(&format!("/vms?name={}", encoded(name))).await?;
    match listed.as_slice() {
        [vm] => Ok(Vm { name: vm.name.clone(), id: vm.id.clone() }),
        [] => {
            let all: Vec<Listed> = client.get("/vms").await?;
            Err(unknown("VM", name, all.iter().map(|vm| vm.name.as_str()), "qherd ls lists them"))
        }
        several => Err(ambiguous("VMs", name, several.iter().map(|vm| vm.id.as_str()))),
    }
}

/// # Errors
/// As [`vms`].
pub async fn switch(client: &Client, name: &str) -> Result<SwitchFields, Fail> {
    let all: Vec<SwitchFields> = client.get("/switches").await?;
    let mut found: Vec<usize> = Vec::new();
    found.extend(all.iter().position(|switch| switch.id == name));
    if found.is_empty() {
        found.extend(all.iter().enumerate().filter(|(_, switch)| switch.name == name).map(|(index, _)| index));
    }
    match found.as_slice() {
        [index] => {
            let index = *index;
            all.into_iter().nth(index).ok_or_else(|| Fail::new(Exit::NotFound, format!("there is no switch {name}")))
        }
        [] => Err(unknown("switch", name, all.iter().map(|switch| switch.name.as_str()), "qherd switch ls lists them")),
        _ => {
            let same = all.iter().filter(|switch| switch.name == name);
            Err(ambiguous("switches", name, same.map(|switch| switch.id.as_str())))
        }
    }
}

/// # Errors
/// As [`vms`].
pub async fn volume(client: &Client, name: &str) -> Result<VolumeFields, Fail> {
    if is_id(name) {
        return Ok(client.get(&format!("/volumes/{}", segment(name))).await?);
    }
    let all: Vec<VolumeFields> = client.get("/volumes").await?;
    let found: Vec<&VolumeFields> = all.iter().filter(|volume| volume.name == name).collect();
    match found.as_slice() {
        [volume] => Ok(client.get(&format!("/volumes/{}", segment(&volume.id))).await?),
        [] => Err(unknown("volume", name, all.iter().map(|volume| volume.name.as_str()), "qherd volume ls lists them")),
        several => Err(ambiguous("volumes", name, several.iter().map(|volume| volume.id.as_str()))),
    }
}

fn ambiguous<'a>(things: &str, name: &str, ids: impl Iterator<Item = &'a str>) -> Fail {
    let ids: Vec<&str> = ids.collect();
    let text = format!("{} {things} are called {name}; say which by its id:\n  {}", ids.len(), ids.join("\n  "));
    Fail::new(Exit::NotFound, text)
}

fn unknown<'a>(thing: &str, name: &str, all: impl Iterator<Item = &'a str>, next: &str) -> Fail {
    let all: Vec<&str> = all.collect();
    let next = nearest(name, &all).map_or_else(|| next.to_owned(), |near| format!("did you mean {near}?"));
    Fail::new(Exit::NotFound, format!("there is no {thing} {name}; {next}"))
}
