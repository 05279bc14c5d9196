//! The CPU that a guest sees, where its owner wants another than the richest one that the accelerator offers. Whether this
//! host's QEMU knows it, and can run it, is known in `qemu`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Error, Result};

/// Features that may be switched for one VM.
pub const MAX_CPU_FEATURES: usize = 128;
/// Characters of a model's name.
const MAX_MODEL: usize = 64;
/// Characters of a feature's name.
const MAX_FEATURE: usize = 48;

/// A CPU as QEMU describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(example = serde_json::json!({ "model": "Nehalem", "features": { "aes": true, "popcnt": false } }))]
pub struct GuestCpu {
    /// A CPU model of the host's QEMU, such as `Nehalem` or `EPYC-v3`; default the richest that the accelerator offers.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_MODEL), regex(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$"))]
    pub model: Option<String>,
    /// Features that are switched on (true) or off (false), beside what the model says.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = MAX_CPU_FEATURES))]
    pub features: BTreeMap<String, bool>,
}

impl GuestCpu {
    /// Its names are fit for a command line. The field that holds it is called `cpu`.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn check(&self) -> Result<()> {
        if *self == Self::default() {
            return Err(Error::invalid("cpu", "hold a model or features, or be null"));
        }
        let fits = |name: &str, most: usize| {
            let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
            first && name.len() <= most && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
        };
        if let Some(model) = self.model.as_ref().filter(|model| !fits(model, MAX_MODEL)) {
            let shown: String = model.chars().take(MAX_MODEL).collect();
            let must = format!("be the name of a CPU model, such as Nehalem, not {shown:?}");
            return Err(Error::invalid("cpu.model", must));
        }
        if self.features.len() > MAX_CPU_FEATURES {
            let count = self.features.len();
            return Err(Error::invalid(
                "cpu.features",
                format!("be at most {MAX_CPU_FEATURES}, and there are {count}"),
            ));
        }
        if let Some(name) = self.features.keys().find(|name| !fits(name, MAX_FEATURE)) {
            let shown: String = name.chars().take(MAX_FEATURE).collect();
            let must = format!("have names of CPU features, such as aes or sse4.2, and {shown:?} is none");
            return Err(Error::invalid("cpu.features", must));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_be_more_than_names_are_refused() {
        let cpu = |model: Option<&str>, feature: Option<&str>| GuestCpu {
            model: model.map(str::to_owned),
            features: feature.into_iter().map(|name| (name.to_owned(), true)).collect(),
        };
        cpu(Some("EPYC-v3"), Some("sse4.2")).check().unwrap();
        for model in ["", "max,+vmx", "a b", "größe", "-x", &"x".repeat(65)] {
            let said = cpu(Some(model), None).check().unwrap_err().to_string();
            assert!(said.contains("cpu.model must be the name"), "{said}");
        }
        for feature in ["", "aes=off", "a,b", "+aes"] {
            let said = cpu(None, Some(feature)).check().unwrap_err().to_string();
            assert!(said.contains("cpu.features must have names"), "{said}");
        }
        assert!(GuestCpu::default().check().is_err());
    }
}
