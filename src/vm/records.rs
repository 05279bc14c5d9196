//! How what is known of a VM is stored: `vm/<id>`, the definition as its owner wants it, and `run/<id>`, how far its run has
//! come, what is wanted of it and what it holds. Both change in one batch, or neither.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    console::MAX_COMPLAINT,
    core::{DiskNo, Goal, Held, MAX_LIVE, Record, Run, RunRecord},
    migrate,
};
use crate::{
    model::{Boot, Ending, Upkeep, VmId, VmSpec},
    store::{self, Batch, MAX_RECORD_BYTES, Record as _, Store, StoreError},
};

/// `vm/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    pub spec: Arc<VmSpec>,
    /// Of a record of an earlier version, which was both.
    #[serde(default, skip_serializing)]
    run: Option<RunRecord>,
}

impl Definition {
    pub fn of(record: &Record) -> Self {
        Self { spec: record.definition.clone(), run: None }
    }
}

impl store::Record for Definition {
    const KIND: &'static str = "vm";
    const VERSION: u32 = 3;

    fn migrate(from: u32, data: Value) -> Result<Value, String> {
        migrate::record(from, data)
    }
}

impl store::Record for RunRecord {
    const KIND: &'static str = "run";
    const VERSION: u32 = 1;
}

impl store::Record for Boot {
    const KIND: &'static str = "host";
    const VERSION: u32 = 1;
}

/// Whatever is accepted can be started, changed and stopped: what is live and held has its bound, and so have the words
/// that stand beside it.
const _: () = assert!(MAX_LIVE + REST <= MAX_RECORD_BYTES);

/// Bytes of a record of a run without what is live and held. Of QEMU's words, each may have to be escaped.
const REST: usize = 2 * MAX_COMPLAINT + 1024;

/// Puts both, or the run alone where the definition is stored already.
///
/// # Errors
/// As [`Batch::put`].
pub fn put(batch: Batch, record: &Record, with_definition: bool) -> Result<Batch, StoreError> {
    let key = record.definition.id.to_string();
    let batch = batch.put(&key, &record.run)?;
    match with_definition {
        true => batch.put(&key, &Definition::of(record)),
        false => Ok(batch),
    }
}

pub fn remove(batch: Batch, id: &VmId) -> Batch {
    let key = id.to_string();
    batch.remove::<Definition>(&key).remove::<RunRecord>(&key)
}

/// A key, and what could be read under it.
pub type Scanned = (String, Result<Record, StoreError>);

/// Every VM by its key, as it could be read: one that cannot hides no other. Blocks.
///
/// # Errors
/// As [`Store::scan`].
pub fn scan(store: &Store) -> Result<Vec<Scanned>, StoreError> {
    let mut runs: HashMap<_, _> = store.scan::<RunRecord>()?.into_iter().collect();
    let definitions = store.scan::<Definition>()?;
    let records = definitions.into_iter().map(|(key, definition)| {
        let run = runs.remove(&key);
        let record = definition.and_then(|definition| joined(definition, run));
        (key, record)
    });
    Ok(records.collect())
}

/// One VM, or `None`. Blocks.
///
/// # Errors
/// As [`Store::get`].
pub fn get(store: &Store, key: &str) -> Result<Option<Record>, StoreError> {
    let Some(definition) = store.get::<Definition>(key)? else { return Ok(None) };
    joined(definition, store.get::<RunRecord>(key)?.map(Ok)).map(Some)
}

fn joined(definition: Definition, run: Option<Result<RunRecord, StoreError>>) -> Result<Record, StoreError> {
    let Definition { spec, run: earlier } = definition;
    let spec = Arc::new(Arc::unwrap_or_clone(spec).without_spare_room());
    let run = match (run, earlier) {
        (Some(run), _) => run?,
        (None, Some(earlier)) => RunRecord { held: held(&spec, &earlier.state), ..earlier },
        // Its owner wants it, and nothing is known of it but that.
        (None, None) => {
            let state = Run::Down { last: Ending::Clean };
            let held = held(&spec, &state);
            RunRecord { state, goal: Goal::Rest, upkeep: Upkeep::default(), held, unmade: Default::default() }
        }
    };
    Ok(Record { definition: spec, run })
}

/// What there may be of a VM whose record did not say so.
fn held(spec: &VmSpec, state: &Run) -> Held {
    let up = match state {
        Run::Up(up) => Some(&up.in_effect),
        Run::Making { .. } | Run::Down { .. } | Run::Starting { .. } => None,
    };
    let specs = || [spec].into_iter().chain(up.map(|spec| &**spec));
    let runs = matches!(state, Run::Up(_) | Run::Starting { .. });
    let ports =
        specs().flat_map(|spec| &spec.nics).filter(|nic| runs && (nic.switch().is_some() || nic.slot.is_some()));
    let disks = specs().flat_map(|spec| &spec.disks);
    Held {
        run_files: true,
        strays: matches!(state, Run::Starting { .. }),
        ports: ports.map(|nic| (nic.id, Arc::new(nic.clone()))).collect(),
        images: disks.filter_map(|disk| Some((DiskNo::of(&disk.name)?, Arc::new(disk.clone())))).collect(),
    }
}

/// The keys of all VMs, readable or not. Blocks.
///
/// # Errors
/// As [`Store::names`].
pub fn keys(store: &Store) -> Result<HashSet<String>, StoreError> {
    let prefix = format!("{}/", Definition::KIND);
    Ok(store.names()?.iter().filter_map(|name| Some(name.strip_prefix(&prefix)?.to_owned())).collect())
}
