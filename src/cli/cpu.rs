//! The CPU that a guest sees, as flags say it.

use std::collections::BTreeMap;

use clap::Args;

use crate::model::GuestCpu;

#[derive(Args, Default)]
pub struct CpuFlags {
    /// The CPU model that its guest sees, such as Nehalem; none for the richest that the accelerator offers [default: none]
    #[arg(long, value_name = "MODEL")]
    pub cpu_model: Option<String>,
    /// A CPU feature that is switched on or off beside the model, such as aes or avx2=off; =none leaves it to the model;
    /// repeatable
    #[arg(long = "cpu-feature", value_name = "FEATURE[=on|off]", value_parser = feature)]
    pub cpu_features: Vec<Feature>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    name: String,
    on: Option<bool>,
}

impl CpuFlags {
    pub fn is_given(&self) -> bool {
        self.cpu_model.is_some() || !self.cpu_features.is_empty()
    }

    /// What it is to be, where it is like `now`; `None` where nothing is wanted of it.
    pub fn over(&self, now: Option<GuestCpu>) -> Option<GuestCpu> {
        let GuestCpu { model, features } = now.unwrap_or_default();
        let model = match self.cpu_model.as_deref() {
            Some("none") => None,
            Some(named) => Some(named.to_owned()),
            None => model,
        };
        let mut features: BTreeMap<String, bool> = features;
        for Feature { name, on } in &self.cpu_features {
            match on {
                Some(on) => drop(features.insert(name.clone(), *on)),
                None => drop(features.remove(name)),
            }
        }
        let cpu = GuestCpu { model, features };
        (cpu != GuestCpu::default()).then_some(cpu)
    }
}

/// # Errors
/// For clap.
pub fn feature(text: &str) -> Result<Feature, String> {
    let (name, word) = text.split_once('=').unwrap_or((text, "on"));
    let on = match word {
        "on" | "true" => Some(true),
        "off" | "false" => Some(false),
        "none" => None,
        _ => return Err(format!("{word:?} is neither on nor off")),
    };
    let cpu = GuestCpu { features: [(name.to_owned(), true)].into(), ..GuestCpu::default() };
    cpu.check().map_err(|_| format!("{name:?} is no name of a CPU feature; write aes or avx2=off"))?;
    Ok(Feature { name: name.to_owned(), on })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let flags = |model: Option<&str>, features: &[&str]| CpuFlags {
            cpu_model: model.map(str::to_owned),
            cpu_features: features.iter().map(|text| feature(text).unwrap()).collect(),
        };
        let first = flags(Some("Nehalem"), &["aes", "avx2=off"]).over(None).unwrap();
        assert_eq!(first.features, [("aes".to_owned(), true), ("avx2".to_owned(), false)].into());
        let then = flags(None, &["avx2=none"]).over(Some(first)).unwrap();
        assert_eq!((then.model.as_deref(), then.features.len()), (Some("Nehalem"), 1));
        assert_eq!(flags(Some("none"), &["aes=none"]).over(Some(then)), None);
        for text in ["aes=maybe", "", "=on", "a,b"] {
            assert!(feature(text).is_err(), "{text}");
        }
    }
}
