//! What is told of switches: in the batch that makes, changes or removes one, and when the host's side of one is not as it
//! should be, or is again.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Weak},
};

use tokio::{sync::broadcast::error::RecvError, time::interval};

use super::{super::Service, recover::AGAIN};
use crate::{
    model::{About, Event, SwitchId, SwitchRecord, SwitchState, What, now_ms},
    store::{Batch, StoreError},
    vm::asker,
};

/// Of a problem's words.
const MOST_BYTES: usize = 1024;

/// What a batch tells that stores `record` where `before` was known.
pub(super) fn told_by_storing(before: Option<&SwitchRecord>, record: &SwitchRecord) -> Option<Event> {
    let what = match (record.state, before.map(|before| before.state)) {
        (SwitchState::Ready, Some(SwitchState::Creating)) => What::Created,
        (SwitchState::Ready, Some(SwitchState::Ready | SwitchState::Deleting)) => {
            let is_same = before.is_some_and(|before| before.switch == record.switch);
            (!is_same).then(|| What::Changed { fields: fields(before, record) })?
        }
        (SwitchState::Ready, None) | (SwitchState::Creating | SwitchState::Deleting, _) => return None,
    };
    Some(event(record, what))
}

/// What a batch tells that removes `record`. One that never came to be goes untold.
pub(super) fn told_by_removing(record: &SwitchRecord) -> Option<Event> {
    (record.state != SwitchState::Creating).then(|| event(record, What::Deleted))
}

fn event(record: &SwitchRecord, what: What) -> Event {
    let about = About::Switch { id: record.switch.id, name: record.switch.name.clone() };
    Event { at: now_ms(), about, what, by: asker().into_iter().collect() }
}

fn fields(before: Option<&SwitchRecord>, after: &SwitchRecord) -> Vec<String> {
    let Some(before) = before else { return Vec::new() };
    let (then, now) = (&before.switch, &after.switch);
    let changed = [
        ("name", then.name != now.name),
        ("notes", then.notes != now.notes),
        ("labels", then.metadata.labels != now.metadata.labels),
        ("protected", then.metadata.protected != now.metadata.protected),
        ("mtu", then.mtu != now.mtu),
        ("subnet", then.kind != now.kind),
        ("forwards", then.forwards != now.forwards),
    ];
    changed.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name.to_owned()).collect()
}

/// Tells of the problems of switches for as long as the service lives. What is one when the daemon ends is told again by the
/// next one.
pub(in crate::service) async fn tell(service: Weak<Service>) {
    let Some(mut events) = service.upgrade().map(|service: Arc<Service>| service.ctx.net.subscribe()) else { return };
    let (mut reported, mut again) = (HashMap::new(), interval(AGAIN));
    loop {
        tokio::select! {
            event = events.recv() => if let Err(RecvError::Closed) = event { return },
            _ = again.tick() => {}
        }
        let Some(service) = service.upgrade() else { return };
        if let Err(error) = service.tell_problems(&mut reported).await {
            tracing::debug!(%error, "problems of switches are told later");
        }
    }
}

impl Service {
    /// Those that differ from those in `told`.
    async fn tell_problems(&self, reported: &mut HashMap<SwitchId, String>) -> Result<(), StoreError> {
        let mut batch = Batch::new();
        let mut now = HashMap::new();
        let mut there = HashSet::new();
        for (switch, problem) in self.places.all() {
            let (id, name) = (switch.id, switch.name);
            let problem = self.ctx.net.problem(id).or(problem);
            there.insert(id);
            if problem.as_ref() != reported.get(&id) {
                let cut = |text: &String| text.chars().take(MOST_BYTES / 4).collect();
                let what = What::Problem { problem: problem.as_ref().map(cut) };
                batch = batch.tell(&Event { at: now_ms(), about: About::Switch { id, name }, what, by: Vec::new() })?;
                now.insert(id, problem);
            }
        }
        reported.retain(|id, _| there.contains(id));
        if now.is_empty() {
            return Ok(());
        }
        self.ctx.store.commit(batch.from_reserve()).await?;
        for (id, problem) in now {
            match problem {
                Some(problem) => drop(reported.insert(id, problem)),
                None => drop(reported.remove(&id)),
            }
        }
        Ok(())
    }
}
