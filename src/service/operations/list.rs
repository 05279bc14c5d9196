//! What is read of operations: one, as it is now or when it has ended, and pages of all. Those that have ended are read from the
//! store.

use std::{ops::Bound, sync::Arc};

use tokio::{task::spawn_blocking, time::timeout_at};
use uuid::Uuid;

use super::{Operations, Running, lock, record::OperationRecord};
use crate::{
    model::{Outcome, VmId},
    store::StoreError,
    vm::Phase,
};

/// How far an operation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationStatus {
    /// It has not begun yet.
    Pending,
    Running,
    Ended(Outcome),
}

impl OperationStatus {
    pub const ALL: [Self; 5] = [
        Self::Pending,
        Self::Running,
        Self::Ended(Outcome::Done),
        Self::Ended(Outcome::Failed),
        Self::Ended(Outcome::Cancelled),
    ];

    /// As it is written in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Ended(outcome) => outcome.as_str(),
        }
    }
}

/// One operation, as it is at a moment.
#[derive(Clone, Debug)]
pub struct Operation {
    pub id: Uuid,
    pub record: OperationRecord,
    pub status: OperationStatus,
    pub phases: Vec<Phase>,
}

/// Which operations are wanted; all where nothing is said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    pub vm: Option<VmId>,
    pub status: Option<OperationStatus>,
}

/// Some of them, the newest first, and where the next page begins.
pub type Page = (Vec<Operation>, Option<(u64, Uuid)>);

impl Operation {
    pub fn of(running: &Running) -> Self {
        let status = if running.progress.is_pending() { OperationStatus::Pending } else { OperationStatus::Running };
        Self { id: running.id(), record: running.record(), status, phases: running.progress.phases() }
    }

    fn stored(id: Uuid, record: OperationRecord) -> Self {
        let (status, phases) = match &record.end {
            Some(end) => (OperationStatus::Ended(end.outcome), end.phases.clone()),
            None => (OperationStatus::Running, Vec::new()),
        };
        Self { id, record, status, phases }
    }
}

impl Operations {
    /// One, or none where there is no such.
    ///
    /// # Errors
    /// As [`Store::get`](crate::store::Store::get).
    pub async fn get(&self, id: Uuid) -> Result<Option<Operation>, StoreError> {
        if let Some(running) = self.running(id) {
            return Ok(Some(Operation::of(&running)));
        }
        Ok(self.read(vec![id]).await?.pop())
    }

    /// The same, when it has ended or at `end`.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn until_ended(&self, id: Uuid, end: tokio::time::Instant) -> Result<Option<Operation>, StoreError> {
        if let Some(running) = self.running(id) {
            let mut ended = running.ended.subscribe();
            // Whether it has or not is looked at then.
            let _ = timeout_at(end, ended.wait_for(|ended| *ended)).await;
        }
        self.get(id).await
    }

    fn running(&self, id: Uuid) -> Option<Arc<Running>> {
        lock(&self.inner).running.get(&id).cloned()
    }

    /// A page of at most `limit` after the one at `before`, which is older than those of the page before it.
    ///
    /// # Errors
    /// As [`Self::get`].
    pub async fn page(&self, filter: Filter, before: Option<(u64, Uuid)>, limit: usize) -> Result<Page, StoreError> {
        let (found, next) = {
            let inner = lock(&self.inner);
            let status = |id: &Uuid, end: Option<(u64, Outcome)>| match (end, inner.running.get(id)) {
                (Some((_, outcome)), _) => OperationStatus::Ended(outcome),
                (None, Some(running)) => Operation::of(running).status,
                (None, None) => OperationStatus::Running,
            };
            let upper = before.map_or(Bound::Unbounded, Bound::Excluded);
            let mut wanted = inner.all.range((Bound::Unbounded, upper)).rev().filter(|((_, id), row)| {
                filter.vm.is_none_or(|vm| row.vm == Some(vm))
                    && filter.status.is_none_or(|wanted| wanted == status(id, row.end))
            });
            let found: Vec<(u64, Uuid)> = wanted.by_ref().take(limit).map(|(place, _)| *place).collect();
            let next = wanted.next().and(found.last().copied());
            (found, next)
        };
        Ok((self.read(found.into_iter().map(|(_, id)| id).collect()).await?, next))
    }

    /// Those of them that are there.
    async fn read(&self, ids: Vec<Uuid>) -> Result<Vec<Operation>, StoreError> {
        let now: Vec<(Uuid, Option<Operation>)> =
            ids.into_iter().map(|id| (id, self.running(id).map(|running| Operation::of(&running)))).collect();
        let store = self.store.clone();
        let read = spawn_blocking(move || {
            let mut found = Vec::with_capacity(now.len());
            for (id, running) in now {
                match running {
                    Some(operation) => found.push(operation),
                    None => found.extend(store.get(&id.to_string())?.map(|record| Operation::stored(id, record))),
                }
            }
            Ok(found)
        });
        read.await.unwrap_or_else(|ended| Err(StoreError::Failed { reason: ended.to_string().into() }))
    }
}
