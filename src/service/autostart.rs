//! VMs with `autostart` start after a boot of the host, in their order, each so long after the one before as that one
//! says. Who is owed a start is stored together with the boot's id: a daemon that ends in between goes on where it was,
//! and one that starts again on the same boot starts nothing.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    host::process,
    model::{Boot, Due, VmRecord},
    store::{Batch, Store, StoreError},
    vm::VmHandle,
};

/// Marks who is owed a start, when the host has booted since the last time.
///
/// # Errors
/// When the store cannot be read or written; the marks are in `records` all the same.
pub(super) async fn mark(store: &Store, records: &mut [VmRecord]) -> Result<(), StoreError> {
    let Ok(boot_id) = process::boot_id() else { return Ok(()) };
    let last = store.get::<Boot>(BOOT)?;
    if last.as_ref().is_some_and(|last| last.boot_id == boot_id) {
        return Ok(());
    }
    let mut batch = Batch::new().put(BOOT, &Boot { boot_id })?;
    // A state directory that no daemon has served yet knows of no boot.
    for record in records.iter_mut().filter(|record| last.is_some() && record.spec.policy.autostart.enabled) {
        record.upkeep.due = Some(Due::Boot);
        batch = batch.put(&record.spec.id.to_string(), record)?;
    }
    store.commit(batch).await
}

/// The key of the one record.
const BOOT: &str = "boot";

/// Starts those that are owed a start, one after the other. Nobody waits for it.
pub(super) async fn run(mut owed: Vec<VmHandle>) {
    owed.sort_by_key(|handle| {
        let spec = handle.view().spec;
        (spec.policy.autostart.order, spec.created_at, spec.id)
    });
    for handle in owed {
        let delay = handle.view().spec.policy.autostart.delay;
        if handle.boot().await {
            sleep(Duration::from_secs(delay.into())).await;
        }
    }
}
