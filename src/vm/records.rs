//! How what is known of a VM is stored: `vm/<id>`, the definition as its owner wants it; `run/<id>`, how far its run has come,
//! what is wanted of it and what it holds; and the layers of its disks, each in a record of its own (`layers.rs`). All of
//! them change in one batch, or none.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{
    console::MAX_COMPLAINT,
    core::{DiskNo, Goal, Held, MAX_LIVE, Record, Run, RunRecord},
    layers::{self, LayerRecord, Layers},
    migrate,
};
use crate::{
    model::{
        Boot, Disk, Ending, Event, FailedStart, LayerId, MAX_ALL_SENT, MAX_DEFINITION, MAX_METADATA, Upkeep, VmId,
        VmSpec,
    },
    store::{self, Batch, Counted, MAX_RECORD_BYTES, Record as _, Store, StoreError},
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
    const VERSION: u32 = 4;

    fn migrate(key: &str, from: u32, data: Value) -> Result<Value, String> {
        migrate::definition(key, from, data)
    }
}

impl store::Record for RunRecord {
    const KIND: &'static str = "run";
    const VERSION: u32 = 2;

    fn migrate(key: &str, from: u32, data: Value) -> Result<Value, String> {
        migrate::run(key, from, data)
    }
}

impl store::Record for Boot {
    const KIND: &'static str = "host";
    const VERSION: u32 = 1;
}

impl store::Record for Event {
    const KIND: &'static str = store::EVENT;
    const VERSION: u32 = 1;
}

impl store::Telling for Event {
    fn at(&self) -> u64 {
        self.at
    }
}

/// Whatever is accepted can be stored.
const _: () = assert!(MAX_DEFINITION + MAX_METADATA + MAX_ALL_SENT + 512 <= MAX_RECORD_BYTES);
/// Whatever is accepted can be started, changed and stopped: what is live and held has its bound, and so have the words
/// that stand beside it.
const _: () = assert!(MAX_LIVE + REST <= MAX_RECORD_BYTES);
/// A start that has failed stands there only until one succeeds: what is live is nothing by then.
const _: () = assert!(MAX_LIVE / 2 + REST + 2 * FailedStart::MOST <= MAX_RECORD_BYTES);

/// Bytes of a record of a run without what is live and held. Of QEMU's words, each may have to be escaped.
const REST: usize = 2 * MAX_COMPLAINT + 1024;

/// What is stored of a VM, and what has to be known to change that.
#[derive(Clone, Debug)]
pub struct Stored {
    pub record: Record,
    pub known: Known,
}

/// What is known to be stored of a VM, beside its run: a batch changes what differs from it. Of a VM that is new there is
/// nothing.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Where that is known.
    definition: Option<Arc<VmSpec>>,
    layers: Layers,
}

impl Known {
    /// What is to be stored of `record`, and what is known once it is.
    ///
    /// # Errors
    /// As [`Batch::put`].
    pub fn put(&self, batch: Batch, record: &Record) -> Result<(Batch, Self), StoreError> {
        let key = record.definition.id.to_string();
        let mut batch = batch.put(&key, &record.run)?;
        if self.definition.as_ref() != Some(&record.definition) {
            batch = batch.put(&key, &Definition::of(record))?;
        }
        let (batch, layers) = self.layers.put(batch, record)?;
        Ok((batch, Self { definition: Some(record.definition.clone()), layers }))
    }

    /// What is to be removed with a VM, and what is known once it is.
    ///
    /// # Errors
    /// As [`Batch::put`].
    pub fn remove(&self, batch: Batch, id: VmId) -> Result<(Batch, Self), StoreError> {
        let key = id.to_string();
        let batch = batch.remove::<Definition>(&key).remove::<RunRecord>(&key);
        let (batch, layers) = self.layers.remove(batch, id)?;
        Ok((batch, Self { definition: None, layers }))
    }

    /// While it is open what a batch comes to.
    #[must_use]
    pub fn without_definition(&self) -> Self {
        Self { definition: None, layers: self.layers.clone() }
    }

    /// After somebody else has changed a layer: what is stored by now. Blocks.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn read_anew(&self, store: &Store, record: Option<&Record>) -> Result<Self, StoreError> {
        Ok(Self { definition: None, layers: self.layers.read_anew(store, record)? })
    }
}

/// A key, and what could be read under it.
pub type Scanned = (String, Result<Stored, StoreError>);

/// Every VM by its key, as it could be read: one that cannot hides no other. Blocks.
///
/// # Errors
/// As [`Store::scan`].
pub fn scan(store: &Store) -> Result<Vec<Scanned>, StoreError> {
    let mut runs: HashMap<_, _> = store.scan::<RunRecord>()?.into_iter().collect();
    let layers = store.scan_counted::<LayerRecord>()?.into_iter();
    let layers: HashMap<_, _> = layers.filter_map(|(key, layer)| Some((key, layer.ok()?))).collect();
    // Of one that cannot be read, each VM that names it is to say why.
    let layer = |id: LayerId| match layers.get(&id.to_string()) {
        Some(layer) => Ok(Some(layer.clone())),
        None => layers::get(store, id),
    };
    let definitions = store.scan::<Definition>()?;
    let records = definitions.into_iter().map(|(key, definition)| {
        let run = runs.remove(&key);
        let stored = definition.and_then(|definition| joined(definition, run, layer));
        (key, stored)
    });
    Ok(records.collect())
}

/// One VM, or `None`. Blocks.
///
/// # Errors
/// As [`Store::get`].
pub fn get(store: &Store, key: &str) -> Result<Option<Stored>, StoreError> {
    let Some(definition) = store.get::<Definition>(key)? else { return Ok(None) };
    joined(definition, store.get::<RunRecord>(key)?.map(Ok), |id| layers::get(store, id)).map(Some)
}

fn joined(
    Definition { mut spec, run: earlier }: Definition,
    run: Option<Result<RunRecord, StoreError>>,
    layer: impl Fn(LayerId) -> Result<Option<Counted<LayerRecord>>, StoreError>,
) -> Result<Stored, StoreError> {
    let mut layers = Layers::default();
    spec = Arc::new(Arc::unwrap_or_clone(spec).without_spare_room());
    let mut complete = |disks: Vec<&mut Disk>| layers.complete(disks, &layer);
    complete(Arc::make_mut(&mut spec).disks.iter_mut().collect())?;
    let run = match (run.transpose()?, earlier) {
        (Some(mut run), _) => {
            complete(run.held.images.values_mut().map(Arc::make_mut).collect())?;
            if let Run::Up(up) = &mut run.state {
                complete(Arc::make_mut(&mut up.in_effect).disks.iter_mut().collect())?;
            }
            run
        }
        (None, Some(earlier)) => RunRecord { held: held(&spec, &earlier.state), ..earlier },
        // Its owner wants it, and nothing is known of it but that.
        (None, None) => {
            let state = Run::Down { last: Ending::Clean };
            let held = held(&spec, &state);
            RunRecord {
                state,
                goal: Goal::Rest,
                upkeep: Upkeep::default(),
                held,
                unmade: Default::default(),
                reported: Default::default(),
                frozen: None,
                failed_start: None,
            }
        }
    };
    // An earlier version may have stored it: it is written whole, once.
    let known = Known { definition: None, layers };
    Ok(Stored { record: Record { definition: spec, run }, known })
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

/// Stores these VMs as they are by now, in one batch with what is in `batch` already.
///
/// # Errors
/// As [`Batch::put`] and [`Store::commit`].
pub async fn commit_all(store: &Store, mut batch: Batch, vms: &mut [&mut Stored]) -> Result<(), StoreError> {
    let mut known = Vec::with_capacity(vms.len());
    for vm in vms.iter() {
        let (with, after) = vm.known.put(batch, &vm.record)?;
        batch = with;
        known.push(after);
    }
    store.commit(batch).await?;
    for (vm, known) in vms.iter_mut().zip(known) {
        vm.known = known;
    }
    Ok(())
}

/// The ids of what has come to be once this is stored: the VM, its NICs, and its disks by those of the requests that added
/// them. What an ended daemon would not have finished is not among them.
pub fn borne_by(record: &Record) -> Vec<Uuid> {
    if matches!(record.run.state, Run::Making { .. } | Run::Starting { new: true, .. }) {
        return Vec::new();
    }
    let Record { definition, run } = record;
    let is_made = |disk: &&Disk| DiskNo::of(&disk.name).is_none_or(|no| !run.unmade.contains(&no));
    let disks = definition.disks.iter().filter(is_made).filter_map(|disk| disk.request);
    let nics = definition.nics.iter().map(|nic| nic.id.into());
    [definition.id.into()].into_iter().chain(nics).chain(disks).collect()
}

/// The keys of all VMs, readable or not. Blocks.
///
/// # Errors
/// As [`Store::names`].
pub fn keys(store: &Store) -> Result<HashSet<String>, StoreError> {
    let prefix = format!("{}/", Definition::KIND);
    Ok(store.names()?.iter().filter_map(|name| Some(name.strip_prefix(&prefix)?.to_owned())).collect())
}
