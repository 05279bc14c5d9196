//! What a restart finds of an operation that has no end: the record of what it is about. What follows from that is `judge`'s.

use super::{
    judge::{Verdict, judge, judge_of_image, judge_of_switch, judge_of_volume},
    record::{OperationRecord, Work},
};
use crate::{
    model::{Image, ImageId, ImageName, Labels, LayerId, SwitchRecord},
    store::{Store, StoreError},
    vm::{layers, records},
};

/// By the record of what it is about; and the labels of its VM. Blocks.
pub fn verdict(store: &Store, record: &OperationRecord) -> (Verdict, Labels) {
    let unknown = Verdict::Interrupted("The record of what it is about cannot be read; the log says more.");
    if record.work.is_of_switch() {
        let stored = record.switch.map_or(Ok(None), |id| store.get::<SwitchRecord>(&id.to_string()));
        return (stored.map_or(unknown, |stored| judge_of_switch(record, stored.as_ref())), Labels::new());
    }
    if record.work.is_of_image() {
        let stored = has_image(store, record);
        return (stored.map_or(unknown, |is_stored| judge_of_image(record.work, is_stored)), Labels::new());
    }
    if record.work.is_of_volume() {
        let stored = has_volume(store, record);
        return (stored.map_or(unknown, |is_stored| judge_of_volume(record.work, is_stored)), Labels::new());
    }
    let Ok(stored) = record.vm.map_or(Ok(None), |id| records::get(store, &id.to_string())) else {
        return (unknown, Labels::new());
    };
    let stored = stored.map(|stored| stored.record);
    let labels = stored.as_ref().map(|record| record.definition.metadata.labels.clone());
    (judge(record, stored.as_ref()), labels.unwrap_or_default())
}

/// Whether the volume is stored whole that it was to make, or that its client has named.
fn has_volume(store: &Store, record: &OperationRecord) -> Result<bool, StoreError> {
    let named = record.device.as_deref().and_then(LayerId::parse);
    let Some(id) = record.makes.map(LayerId::from).or(named) else { return Ok(false) };
    let layer = layers::get(store, id)?;
    Ok(layer.is_some_and(|(layer, _)| layer.volume().is_some_and(|(_, unfinished)| !unfinished)))
}

/// Whether the image is stored that it was to make, or that its client has named by its id or its name.
fn has_image(store: &Store, record: &OperationRecord) -> Result<bool, StoreError> {
    if record.work == Work::ImportImage {
        return Ok(record.makes.map_or(Ok(None), |id| store.get::<Image>(&id.to_string()))?.is_some());
    }
    let named = record.device.as_deref().unwrap_or_default();
    if let Some(id) = ImageId::parse(named) {
        return Ok(store.get::<Image>(&id.to_string())?.is_some());
    }
    let Ok(name) = ImageName::parse(named) else { return Ok(false) };
    for (_, image) in store.scan::<Image>()? {
        if image?.name == name {
            return Ok(true);
        }
    }
    Ok(false)
}
