//! What somebody should see to on this host, as `/health` says it. It is looked at when the daemon starts, and told as an event
//! where it is not what was told last.

use std::sync::Arc;

use tokio::task::spawn_blocking;

use super::Service;
use crate::{
    model::{About, Event, What, now_ms},
    store::{Batch, Store, StoreError},
};

/// Events that are read at a time, from the newest on, until one tells of warnings.
const PIECE: u64 = 256;
/// Of one that is told, and of their number.
const MOST_CHARS: usize = 512;
const MOST: usize = 16;

impl Service {
    /// What `/health` says that somebody should see to.
    pub fn warnings(&self) -> Vec<String> {
        let open = "--insecure-no-auth: whoever reaches this address may do everything, guests included";
        let open = self.is_open().then(|| open.to_owned());
        open.into_iter().chain(self.missing_layers()).chain(self.of_user_network()).collect()
    }

    /// What its guests are not kept from, and that QEMUs have the host's network where nobody chose that.
    fn of_user_network(&self) -> impl Iterator<Item = String> {
        let network = self.user_network();
        let carried = self
            .is_second_best()
            .then(|| format!("a QEMU with a NIC on the user-mode network has the host's network: {}", network.reason));
        network.exposure.clone().into_iter().chain(carried)
    }
}

/// Tells of the warnings of this start.
pub(super) async fn tell(service: Arc<Service>) {
    let cut = |warning: String| warning.chars().take(MOST_CHARS).collect();
    let warnings: Vec<String> = service.warnings().into_iter().take(MOST).map(cut).collect();
    if let Err(error) = tell_of(service.ctx.store.clone(), warnings).await {
        tracing::warn!(%error, "what the host lacks is not told");
    }
}

async fn tell_of(store: Store, warnings: Vec<String>) -> Result<(), StoreError> {
    let reading = store.clone();
    let known = spawn_blocking(move || told_last(&reading)).await;
    let known = known.unwrap_or_else(|ended| Err(StoreError::Failed { reason: ended.to_string().into() }))?;
    if warnings == known {
        return Ok(());
    }
    let event = Event { at: now_ms(), about: About::Host, what: What::Warnings { warnings }, by: Vec::new() };
    store.commit(Batch::new().tell(&event)?.from_reserve()).await
}

/// None where there were none, or nobody remembers.
fn told_last(store: &Store) -> Result<Vec<String>, StoreError> {
    let kept = store.kept_events();
    let mut end = kept.newest;
    while end + 1 > kept.oldest {
        let begin = end.saturating_sub(PIECE).max(kept.oldest - 1);
        let piece = store.events_after(begin, (end - begin) as usize)?;
        let events = piece.iter().rev().filter_map(|event| event.read::<Event>().ok());
        let found = events.map(|event| event.what).find_map(|what| match what {
            What::Warnings { warnings } => Some(warnings),
            _ => None,
        });
        if let Some(warnings) = found {
            return Ok(warnings);
        }
        end = begin;
    }
    Ok(Vec::new())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{SwitchId, What};

    #[tokio::test]
    async fn warnings_are_told_where_they_are_not_those_that_were_told_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("db");
        let warnings = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let mut count = 0;
        for (now, is_told) in [(&[][..], false), (&["a"], true), (&["a"], false), (&["a", "b"], true), (&[], true)] {
            let store = Store::open(&path).unwrap();
            tell_of(store.clone(), warnings(now)).await.unwrap();
            count += u64::from(is_told);
            assert_eq!(store.kept_events().newest, count, "{now:?}");
            assert_eq!(told_last(&store).unwrap(), warnings(now));
            // More of others than are read at a time.
            for at in 0..PIECE + 3 {
                let about = About::Switch { id: SwitchId::random(), name: "lan".to_owned() };
                let event = Event { at, about, what: What::Created, by: Vec::new() };
                store.commit(Batch::new().tell(&event).unwrap()).await.unwrap();
            }
            count += PIECE + 3;
        }
    }
}
