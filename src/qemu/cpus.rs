//! The CPU models and features that the host's QEMU knows, and those that it cannot run under its accelerator. A name that it
//! does not know, or cannot run, is refused before a guest would start without it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use super::Accelerator;
use crate::{
    model::{Error, GuestCpu, Result, nearest},
    qmp::{QmpError, Session},
};

/// Switches of QEMU's CPU objects that are no features of a CPU.
const NO_FEATURES: [&str; 18] = [
    "check",
    "enforce",
    "realized",
    "hotplugged",
    "start-powered-off",
    "migratable",
    "fill-mtrr-mask",
    "host-cache-info",
    "host-phys-bits",
    "l3-cache",
    "legacy-cache",
    "full-cpuid-auto-level",
    "tcg-cpuid",
    "vmware-cpuid-freq",
    "kvm",
    "kvm-no-smi-migration",
    "hv-passthrough",
    "cpuid-0xb",
];
/// It is off in the richest CPU as well, because a guest that has it cannot move.
const OFF_BY_DEFAULT: &str = "invtsc";
/// Names that a refusal suggests.
const SUGGESTED: usize = 4;

/// What a QEMU knows of CPUs under the accelerator that it was asked under. One that could not be asked knows nothing, and
/// then every name is left to it.
#[derive(Clone, Debug, Default)]
pub struct Cpus {
    /// Each model with the features that it lacks here.
    models: BTreeMap<String, Vec<String>>,
    /// Each feature, and whether the richest CPU has it.
    features: BTreeMap<String, bool>,
    /// Those that some model wants and the accelerator lacks.
    lacking: BTreeSet<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Definition {
    name: String,
    #[serde(default)]
    unavailable_features: Vec<String>,
}

impl Cpus {
    /// Asks a QEMU that has no machine.
    ///
    /// # Errors
    /// Those of the session; `Refused` by one that does not know the questions.
    pub async fn ask(session: &Session) -> std::result::Result<Self, QmpError> {
        let models: Vec<Definition> = session.execute_as("query-cpu-definitions", None).await?;
        let richest = json!({ "type": "full", "model": { "name": "max" } });
        let richest = session.execute_raw("query-cpu-model-expansion", Some(richest)).await?;
        let props = richest.pointer("/model/props").and_then(Value::as_object).cloned().unwrap_or_default();
        let is_feature = |name: &str| !NO_FEATURES.contains(&name) && !name.starts_with("x-");
        let features = props.into_iter().filter_map(|(name, value)| Some((name, value.as_bool()?)));
        Ok(Self {
            lacking: models.iter().flat_map(|model| &model.unavailable_features).map(|name| plain(name)).collect(),
            models: models.into_iter().map(|model| (model.name, model.unavailable_features)).collect(),
            features: features.filter(|(name, _)| is_feature(name)).collect(),
        })
    }

    /// Refuses a CPU that this QEMU does not know, or cannot run.
    ///
    /// # Errors
    /// [`Error::Invalid`], with names that are near.
    pub fn check(&self, cpu: &GuestCpu, version: &str, accelerator: Accelerator) -> Result<()> {
        cpu.check()?;
        if self.models.is_empty() {
            return Ok(());
        }
        if let Some(model) = &cpu.model {
            self.check_model(model, cpu, version, accelerator)?;
        }
        for (name, on) in &cpu.features {
            let Some(richest) = self.features.get(name) else {
                let near = suggested(name, self.features.keys());
                let must = format!("be known to QEMU {version}, which has no such CPU feature{near}");
                return Err(Error::invalid(format!("cpu.features.{name}"), must));
            };
            if *on && self.lacks(name, *richest, accelerator) {
                let must = format!("be false: {} lacks it on this host", words(accelerator));
                return Err(Error::invalid(format!("cpu.features.{name}"), must));
            }
        }
        Ok(())
    }

    fn check_model(&self, model: &str, cpu: &GuestCpu, version: &str, accelerator: Accelerator) -> Result<()> {
        let Some(lacking) = self.models.get(model) else {
            let near = suggested(model, self.models.keys());
            let must = format!("be a CPU model of QEMU {version}, not {model:?}{near}");
            return Err(Error::invalid("cpu.model", must));
        };
        if lacking.iter().any(|feature| feature == "kvm") {
            let must = format!("be another: {model} needs KVM, and VMs run under TCG on this host; max is its richest");
            return Err(Error::invalid("cpu.model", must));
        }
        let off: BTreeSet<String> = cpu.features.iter().filter(|(_, on)| !**on).map(|(name, _)| plain(name)).collect();
        let lacking: Vec<&str> =
            lacking.iter().map(String::as_str).filter(|feature| !off.contains(&plain(feature))).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let must = format!(
            "be a model that can run: {model} needs {}, which {} lacks on this host; set them to false in cpu.features, or \
             choose another model",
            lacking.join(", "),
            words(accelerator)
        );
        Err(Error::invalid("cpu.model", must))
    }

    /// Whether it is certain that a feature cannot be had. What KVM does not switch on by itself it may have all the same.
    fn lacks(&self, name: &str, richest: bool, accelerator: Accelerator) -> bool {
        let tcg = accelerator == Accelerator::Tcg;
        self.lacking.contains(&plain(name)) || (tcg && !richest && name != OFF_BY_DEFAULT)
    }
}

/// A feature goes by several names: `sse4_1`, `sse4-1`.
fn plain(name: &str) -> String {
    name.replace('_', "-")
}

fn words(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "KVM",
        Accelerator::Tcg => "TCG",
    }
}

/// Names that somebody may have meant, as the rest of a sentence.
fn suggested<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> String {
    let known: Vec<&str> = known.map(String::as_str).collect();
    let folded = name.to_ascii_lowercase();
    // Generations of the same thing differ by a number.
    let stem = folded.trim_end_matches(|c: char| c.is_ascii_digit());
    let begins = known.iter().copied().filter(|other| {
        let other = other.to_ascii_lowercase();
        stem.len() > 2 && (other.starts_with(stem) || (other.len() > 2 && folded.starts_with(&other)))
    });
    let mut near: Vec<&str> = nearest(name, &known).into_iter().chain(begins).collect();
    let mut seen = BTreeSet::new();
    near.retain(|name| seen.insert(*name));
    near.truncate(SUGGESTED);
    if near.is_empty() { String::new() } else { format!("; near are {}", near.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus() -> Cpus {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Cpus {
            models: [
                ("Nehalem", &[] as &[&str]),
                ("SandyBridge", &["x2apic", "tsc-deadline"]),
                ("Skylake-Client", &["x2apic"]),
                ("Skylake-Server", &["x2apic"]),
                ("host", &["kvm"]),
            ]
            .map(|(name, lacking)| (name.to_owned(), names(lacking)))
            .into(),
            features: [("aes", true), ("tsc-deadline", false), ("invtsc", false), ("x2apic", false), ("xsaves", false)]
                .map(|(name, on)| (name.to_owned(), on))
                .into(),
            lacking: ["tsc-deadline", "x2apic"].map(str::to_owned).into(),
        }
    }

    fn said(model: Option<&str>, features: &[(&str, bool)], accelerator: Accelerator) -> String {
        let features = features.iter().map(|(name, on)| ((*name).to_owned(), *on)).collect();
        let cpu = GuestCpu { model: model.map(str::to_owned), features };
        cpus().check(&cpu, "7.2.22", accelerator).map_or_else(|error| error.to_string(), |()| "taken".to_owned())
    }

    #[test]
    fn what_is_not_known_is_refused_with_what_is_near() {
        let tcg = |model, features: &[_]| said(model, features, Accelerator::Tcg);
        assert_eq!(tcg(Some("Nehalem"), &[("aes", true), ("x2apic", false)]), "taken");
        let refused = tcg(Some("Skylake"), &[]);
        assert!(refused.contains("not \"Skylake\"; near are Skylake-Client, Skylake-Server"), "{refused}");
        let refused = tcg(Some("nehalme"), &[]);
        assert!(refused.contains("near are Nehalem"), "{refused}");
        let refused = tcg(None, &[("aex", true)]);
        assert!(refused.contains("cpu.features.aex must be known to QEMU 7.2.22") && refused.contains("near are aes"));
    }

    #[test]
    fn what_cannot_run_is_refused_unless_what_it_lacks_is_switched_off() {
        let refused = said(Some("SandyBridge"), &[("x2apic", false)], Accelerator::Tcg);
        assert!(refused.contains("SandyBridge needs tsc-deadline, which TCG lacks"), "{refused}");
        let off = [("x2apic", false), ("tsc-deadline", false)];
        assert_eq!(said(Some("SandyBridge"), &off, Accelerator::Tcg), "taken");
        assert!(said(Some("host"), &[], Accelerator::Tcg).contains("host needs KVM"));
        for (feature, by_tcg, by_kvm) in
            [("x2apic", false, false), ("xsaves", false, true), ("invtsc", true, true), ("aes", true, true)]
        {
            for (accelerator, runs) in [(Accelerator::Tcg, by_tcg), (Accelerator::Kvm, by_kvm)] {
                assert_eq!(said(None, &[(feature, true)], accelerator) == "taken", runs, "{feature} {accelerator:?}");
            }
        }
    }
}
