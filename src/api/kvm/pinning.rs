//! Pinning as this dialect writes it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{self, Error, MAX_PINNED, MAX_VCPUS};

/// Which host cores QEMU's threads run on.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuPinning {
    /// For the vCPUs: one each where there are as many cores as vCPUs, else any of the set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<i64>>", length(max = MAX_PINNED))]
    pub cores: Option<Vec<i64>>,
    /// For the vCPUs, a set each; not together with `cores`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<Vec<i64>>>", length(max = MAX_VCPUS), inner(length(max = MAX_PINNED)))]
    pub vcpus: Option<Vec<Vec<i64>>>,
    /// For QEMU's other threads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Vec<i64>>", length(max = MAX_PINNED))]
    pub emulator: Option<Vec<i64>>,
}

impl CpuPinning {
    pub fn of(pinning: &model::CpuPinning) -> Self {
        let list = |cores: &[u32]| cores.iter().map(|&core| core.into()).collect::<Vec<i64>>();
        let some = |cores: &[u32]| (!cores.is_empty()).then(|| list(cores));
        let vcpus = (!pinning.vcpus.is_empty()).then(|| pinning.vcpus.iter().map(|cores| list(cores)).collect());
        Self { cores: some(&pinning.cores), vcpus, emulator: some(&pinning.emulator) }
    }

    pub fn into_model(self) -> Result<model::CpuPinning, Error> {
        let list = |field: String, cores: Vec<i64>| {
            let core = |core: i64| {
                let must = || format!("name cores of this host; there is no core {core}");
                u32::try_from(core).map_err(|_| Error::invalid(field.clone(), must()))
            };
            cores.into_iter().map(core).collect::<Result<Vec<u32>, Error>>()
        };
        let whole = |field: &'static str, cores: Option<Vec<i64>>| match cores {
            Some(cores) if cores.is_empty() => Err(Error::invalid(field, "name at least one core")),
            cores => list(field.to_owned(), cores.unwrap_or_default()),
        };
        if self.vcpus.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::invalid("cpu_pinning.vcpus", "have a list of cores for at least one vCPU"));
        }
        let sets = self.vcpus.unwrap_or_default().into_iter().enumerate();
        Ok(model::CpuPinning {
            cores: whole("cpu_pinning.cores", self.cores)?,
            vcpus: sets.map(|(i, cores)| list(format!("cpu_pinning.vcpus[{i}]"), cores)).collect::<Result<_, _>>()?,
            emulator: whole("cpu_pinning.emulator", self.emulator)?,
        })
    }
}
