//! VMs with `autostart` start after a boot of the host, or of the container that qherd is in, in their order, each so long after the one before as that one
//! says. Who is owed a start is stored together with the boot's id: a daemon that ends in between goes on where it was,
//! and one that starts again on the same boot starts nothing.

use std::time::Duration;

use tokio::time::sleep;

use crate::{
    host::process,
    model::{Boot, Due},
    store::{Batch, Store, StoreError},
    vm::{
        Turn, VmHandle,
        records::{self, Stored},
    },
};

/// Before those whose files were not there are tried again; doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Marks who is owed a start, when the host has booted since the last time.
///
/// # Errors
/// When the store cannot be read or written; the marks are in `vms` all the same.
pub(super) async fn mark(store: &Store, vms: &mut [Stored]) -> Result<(), StoreError> {
    let Ok(boot_id) = process::boot_id() else { return Ok(()) };
    let now = Boot { boot_id, init: process::init() };
    let last = store.get::<Boot>(BOOT)?;
    if last.as_ref() == Some(&now) {
        return Ok(());
    }
    let batch = Batch::new().put(BOOT, &now)?.from_reserve();
    // A state directory that no daemon has served yet knows of no boot.
    let restarted = last.is_some_and(|last| !last.is(&now));
    let is_owed = |vm: &&mut Stored| restarted && vm.record.definition.policy.autostart.enabled;
    let mut owed: Vec<&mut Stored> = vms.iter_mut().filter(is_owed).collect();
    for vm in &mut owed {
        vm.record.run.upkeep.due = Some(Due::Boot);
    }
    records::commit_all(store, batch, &mut owed).await
}

/// The key of the one record.
const BOOT: &str = "boot";

/// Starts those that are owed a start, one after the other; those whose storage is not there yet hold up none of the
/// others and are tried again until it is. Nobody waits for it.
pub(super) async fn run(mut owed: Vec<VmHandle>) {
    owed.sort_by_key(|handle| {
        let spec = handle.view().spec;
        (spec.policy.autostart.order, spec.created_at, spec.id)
    });
    let mut pause = FIRST_PAUSE;
    while !owed.is_empty() {
        let mut too_early = Vec::new();
        for handle in owed {
            let delay = handle.view().spec.policy.autostart.delay;
            // A forced stop takes back what it is owed, and only that.
            match handle.for_request().boot().await {
                Turn::Taken => {
                    pause = FIRST_PAUSE;
                    sleep(Duration::from_secs(delay.into())).await;
                }
                Turn::TooEarly => too_early.push(handle),
                Turn::Skipped => {}
            }
        }
        owed = too_early;
        if !owed.is_empty() {
            sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}
