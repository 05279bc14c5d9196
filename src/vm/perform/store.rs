//! Stores what is known of a VM. What it says is on stable storage when it returns.

use super::{Done, Hands, Report};
use crate::{
    store::{Batch, StoreError},
    vm::{
        core::{self, Record, Setback, Txn},
        records::{self, Known, borne_by},
    },
};

/// Each of them means that another VM has changed a layer that both have, which it does once in a while.
const TRIES: u32 = 16;

pub(super) async fn commit(hands: &Hands, txn: Txn) -> Done {
    let record = txn.record.as_ref();
    let mut known = hands.known_before_commit();
    let before = match &txn.tells.before {
        Some(before) => Some(before.clone()),
        None => stored_by_now(hands).await?,
    };
    for _ in 0..TRIES {
        match put(hands, &known, &txn, before.as_ref()).await {
            Ok(after) => {
                hands.set_known(after);
                return Ok(Report::Done);
            }
            Err(StoreError::Outdated { .. }) => known = read_anew(hands, known, record.cloned()).await?,
            Err(
                error @ (StoreError::NoSpace { .. }
                | StoreError::ReadOnly
                | StoreError::Busy
                | StoreError::Refused { .. }),
            ) => {
                hands.set_known(known);
                return Err(Setback::NotStored(error.to_string()));
            }
            // It may turn up yet.
            Err(error) => return Err(Setback::StoreSilent(error.to_string())),
        }
    }
    hands.set_known(known);
    Err(Setback::NotStored("other VMs change a layer of its disks all the time".to_owned()))
}

/// What is stored then.
async fn put(hands: &Hands, known: &Known, txn: &Txn, before: Option<&Record>) -> Result<Known, StoreError> {
    let (mut batch, after) = match &txn.record {
        Some(record) => known.put(Batch::new(), record)?,
        None => known.remove(Batch::new(), hands.id)?,
    };
    for event in core::tell(before, txn) {
        batch = batch.tell(&event)?;
    }
    let batch = hands.ctx.riders.join(batch, txn.record.iter().flat_map(borne_by));
    let batch = if txn.is_wish && txn.record.is_some() { batch } else { batch.from_reserve() };
    hands.ctx.store.commit(batch).await?;
    Ok(after)
}

/// Of a commit before nobody knows what became of it. It had its turn before this one, which changes nothing: what is stored
/// then is what the next one differs from.
async fn stored_by_now(hands: &Hands) -> Result<Option<Record>, Setback> {
    let silent = |error: String| Setback::StoreSilent(error);
    hands.ctx.store.commit(Batch::new()).await.map_err(|error| silent(error.to_string()))?;
    let (store, key) = (hands.ctx.store.clone(), hands.id.to_string());
    let read = tokio::task::spawn_blocking(move || records::get(&store, &key)).await;
    let stored = read.map_err(|ended| ended.to_string()).and_then(|read| read.map_err(|error| error.to_string()));
    Ok(stored.map_err(silent)?.map(|stored| stored.record))
}

/// Another VM was quicker with a layer.
async fn read_anew(hands: &Hands, known: Known, record: Option<Record>) -> Result<Known, Setback> {
    let store = hands.ctx.store.clone();
    let read = tokio::task::spawn_blocking(move || known.read_anew(&store, record.as_ref())).await;
    let known = read.map_err(|ended| ended.to_string()).and_then(|read| read.map_err(|error| error.to_string()));
    let known = known.map_err(Setback::NotStored)?;
    hands.set_known(known.clone());
    Ok(known)
}
