//! Stores what is known of a VM. What it says is on stable storage when it returns.

use super::{Done, Hands, Report};
use crate::{
    store::{Batch, StoreError},
    vm::{
        core::{Setback, Txn},
        records,
    },
};

pub(super) async fn commit(hands: &Hands, txn: Txn) -> Done {
    let defined = txn.record.as_ref().map(|record| record.definition.clone());
    // Whether it is there is known again when this one is through.
    let before = hands.set_defined(None);
    let batch = match &txn.record {
        Some(record) => {
            let is_new = before.as_ref().is_none_or(|before| *before != record.definition);
            records::put(Batch::new(), record, is_new)
        }
        None => Ok(records::remove(Batch::new(), &hands.id)),
    };
    let batch = match batch {
        Ok(batch) => batch,
        Err(error) => {
            hands.set_defined(before);
            return Err(Setback::NotStored(error.to_string()));
        }
    };
    let batch = if txn.is_wish && txn.record.is_some() { batch } else { batch.from_reserve() };
    match hands.ctx.store.commit(batch).await {
        Ok(()) => {
            hands.set_defined(defined);
            Ok(Report::Done)
        }
        Err(
            error @ (StoreError::NoSpace { .. } | StoreError::ReadOnly | StoreError::Busy | StoreError::Refused { .. }),
        ) => {
            hands.set_defined(before);
            Err(Setback::NotStored(error.to_string()))
        }
        // It may turn up yet.
        Err(error) => Err(Setback::StoreSilent(error.to_string())),
    }
}
