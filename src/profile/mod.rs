//! Machine profiles: small TOML files, built into the binary and overridable by a folder, that a new VM's hardware
//! is resolved from. They are read when a VM is created and never again for that VM.

#![allow(clippy::disallowed_methods, reason = "before the daemon serves anybody")]

use std::{collections::BTreeMap, path::Path};

use anyhow::Context;
use serde::Deserialize;

use crate::{
    model::{Bus, Error, Machine, Result},
    qemu::Caps,
};

/// The profile of a VM that names none.
pub const DEFAULT: &str = "q35";
const BUILT_IN: [(&str, &str); 2] =
    [("q35", include_str!("../../templates/q35.toml")), ("pc", include_str!("../../templates/pc.toml"))];
/// In the templates folder, but no profiles: the example configuration, and the well-known images.
const OTHERS: [&str; 2] = ["qherd", "images"];

/// A profile as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Profile {
    /// Machine family or versioned type, as QEMU knows it.
    machine: String,
    bus: Bus,
    #[serde(default)]
    rng: bool,
    #[serde(default)]
    balloon: bool,
    #[serde(default)]
    pvpanic: bool,
    #[serde(default)]
    virtio_mem: bool,
}

/// All profiles by name.
#[derive(Clone, Debug)]
pub struct Profiles(BTreeMap<String, Profile>);

impl Profiles {
    /// The built-in profiles, joined or replaced by the `*.toml` files of `dir`.
    ///
    /// # Errors
    /// A folder or file that cannot be read, or a profile with an unknown or missing line, named.
    pub fn load(dir: Option<&Path>) -> anyhow::Result<Self> {
        let mut profiles = BTreeMap::new();
        for (name, text) in BUILT_IN {
            profiles.insert(name.to_owned(), toml::from_str(text).with_context(|| format!("built-in profile {name}"))?);
        }
        let Some(dir) = dir else { return Ok(Self(profiles)) };
        let entries =
            std::fs::read_dir(dir).with_context(|| format!("cannot read the templates folder {}", dir.display()))?;
        for entry in entries {
            let path = entry?.path();
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if path.extension().is_none_or(|e| e != "toml") || OTHERS.contains(&&*name) {
                continue;
            }
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let profile =
                toml::from_str(&text).with_context(|| format!("in the machine profile {}", path.display()))?;
            profiles.insert(name, profile);
        }
        Ok(Self(profiles))
    }

    /// The hardware for a new VM: `name`'s profile with its machine family fixed to a version.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a profile that does not exist, or whose machine this QEMU does not have.
    pub fn resolve(&self, name: &str, caps: &Caps) -> Result<Machine> {
        let Some(profile) = self.0.get(name) else {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            return Err(Error::invalid("profile", format!("be one of {}, not {name:?}", known.join(", "))));
        };
        let Some(machine_type) = caps.versioned_machine(&profile.machine) else {
            let must =
                format!("name a machine of this QEMU; {name} wants {:?}, which it does not have", profile.machine);
            return Err(Error::invalid("profile", must));
        };
        Ok(Machine {
            profile: name.to_owned(),
            machine_type: machine_type.to_owned(),
            bus: profile.bus.clone(),
            rng: profile.rng,
            balloon: profile.balloon,
            pvpanic: profile.pvpanic,
            virtio_mem: profile.virtio_mem,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caps() -> Caps {
        Caps::for_tests(&[("pc-q35-7.2", Some("q35")), ("pc-i440fx-7.2", Some("pc"))])
    }

    #[test]
    fn a_family_becomes_a_versioned_machine() {
        let profiles = Profiles::load(None).unwrap();
        assert_eq!(profiles.resolve("q35", &caps()).unwrap().machine_type, "pc-q35-7.2");
        assert_eq!(profiles.resolve("pc", &caps()).unwrap().bus, Bus::Pci);
    }

    #[test]
    fn an_unknown_profile_is_refused_with_the_known_ones() {
        let error = Profiles::load(None).unwrap().resolve("vax", &caps()).unwrap_err();
        assert_eq!(error.to_string(), "Invalid parameter: profile must be one of pc, q35, not \"vax\".");
    }

    #[test]
    fn a_folder_joins_and_replaces_the_built_in_profiles() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("pc.toml"), "machine = \"q35\"\nbus = { kind = \"pci\" }\n").unwrap();
        std::fs::write(dir.path().join("lab.toml"), "machine = \"pc\"\nbus = { kind = \"pci\" }\n").unwrap();
        std::fs::write(dir.path().join("qherd.toml"), "# the example configuration is no profile\n").unwrap();
        let profiles = Profiles::load(Some(dir.path())).unwrap();
        assert_eq!(profiles.resolve("pc", &caps()).unwrap().machine_type, "pc-q35-7.2");
        assert!(!profiles.resolve("lab", &caps()).unwrap().rng);
        std::fs::write(dir.path().join("bad.toml"), "machine = \"q35\"\nbus = { kind = \"pci\" }\nrgn = true\n")
            .unwrap();
        assert!(format!("{:#}", Profiles::load(Some(dir.path())).unwrap_err()).contains("bad.toml"));
    }
}
