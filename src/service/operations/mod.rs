//! Operations: the work for requests whose clients do not wait on the line. Each is stored before it is acknowledged, kept for a
//! day after its end, and ends with the answer that a client on the line would have had. The work itself is the core's, and
//! knows nothing of this: what is begun here is a handler that runs beside its connection (docs/adr/0036).
//!
//! `record` is what is stored, `found` and `judge` what a restart makes of one that has no end, `list` what is read.

mod found;
mod judge;
mod list;
mod record;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};
use uuid::Uuid;

pub use list::{Filter, Operation, OperationStatus, Page};
pub use record::{Again, End, OperationRecord, Work};

use super::keys::{Digest, KeptAnswer};
use crate::{
    model::{Asker, Conflict, Event, Labels, OperationNews, Outcome, VmId, now_ms},
    store::{Batch, Store, StoreError},
    vm::{Phase, Progress},
};
use found::verdict;
use judge::Verdict;

/// How long one is kept after its end.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);
/// Beyond it the oldest that has ended is forgotten before its time.
const MOST: usize = 10_000;
/// Of those that are to be forgotten, with one that begins.
const SWEPT_AT_ONCE: usize = 32;
/// Between two events that tell of its progress.
const PACE: Duration = Duration::from_secs(5);
/// Until an end that could not be stored is tried again.
const AGAIN: Duration = Duration::from_secs(5);
/// An answer that is longer is not kept.
const LONGEST_ANSWER: usize = 12 * 1024;

/// All operations of the last day.
pub struct Operations {
    store: Store,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    /// By age.
    all: BTreeMap<(u64, Uuid), Row>,
    ages: HashMap<Uuid, u64>,
    running: HashMap<Uuid, Arc<Running>>,
    /// What a key was used for, and the operation that this began.
    by_key: HashMap<Digest, (Digest, Uuid)>,
    /// Of a daemon before: what is to be asked again.
    again: Vec<Arc<Running>>,
    /// Of a daemon before: ends that are not stored yet.
    judged: Vec<(Uuid, OperationRecord, Labels)>,
}

/// What of one is looked through.
#[derive(Clone, Copy)]
struct Row {
    vm: Option<VmId>,
    end: Option<(u64, Outcome)>,
}

/// One that has no end yet.
pub struct Running {
    id: Uuid,
    record: Mutex<OperationRecord>,
    pub progress: Arc<Progress>,
    ended: watch::Sender<bool>,
}

impl Running {
    fn new(id: Uuid, record: OperationRecord, progress: Arc<Progress>) -> Arc<Self> {
        Arc::new(Self { id, record: record.into(), progress, ended: watch::Sender::new(false) })
    }

    pub fn id(&self) -> Uuid {
        self.id
    }

    /// As it is known by now.
    pub fn record(&self) -> OperationRecord {
        let mut record = lock(&self.record).clone();
        record.name = record.name.or_else(|| self.progress.name());
        record
    }

    /// Whether somebody has had it cancelled, by its answer.
    fn outcome(answer: &KeptAnswer) -> Outcome {
        let cancelled = Conflict::Cancelled.to_string();
        match answer.status {
            200..300 => Outcome::Done,
            409 if answer.body.contains(&cancelled) => Outcome::Cancelled,
            _ => Outcome::Failed,
        }
    }
}

/// A key belongs to another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reused;

/// Why one is not cancelled.
#[derive(Debug, PartialEq, Eq)]
pub enum NotCancelled {
    NotFound,
    /// In words that follow "it cannot be cancelled: ".
    Refused(String),
}

impl Operations {
    /// Reads what is stored, and finds out what has become of those without an end: before any VM is touched. Blocks; meant for
    /// the start of the program.
    ///
    /// # Errors
    /// As the store's.
    pub(super) fn open(store: Store) -> Result<Arc<Self>, StoreError> {
        let mut inner = Inner::default();
        for (key, record) in store.scan::<OperationRecord>()? {
            let Ok(id) = Uuid::try_parse(&key) else { continue };
            let mut record = match record {
                Ok(record) => record,
                Err(error) => {
                    tracing::error!(%id, %error, "an operation cannot be read, and is left alone");
                    continue;
                }
            };
            if record.end.is_none() {
                let (verdict, labels) = verdict(&store, &record);
                tracing::info!(%id, kind = record.kind, ?verdict, "an operation that qherd ended over");
                match (verdict, &record.again) {
                    (Verdict::GoesOn, Some(_)) => {
                        let running = Running::new(id, record.clone(), Progress::new(id));
                        inner.running.insert(id, running.clone());
                        inner.again.push(running);
                    }
                    (Verdict::Done, _) => record.end = Some(judged(None)),
                    (Verdict::GoesOn, None) => record.end = Some(judged(Some("The VM goes on with it; look at it."))),
                    (Verdict::Interrupted(why), _) => record.end = Some(judged(Some(why))),
                }
                if record.end.is_some() {
                    inner.judged.push((id, record.clone(), labels));
                }
            }
            inner.note(id, &record);
        }
        Ok(Arc::new(Self { store, inner: inner.into() }))
    }

    /// Stores what was found out.
    pub(super) async fn conclude(&self) {
        let judged = std::mem::take(&mut lock(&self.inner).judged);
        for (id, record, labels) in judged {
            if let Err(error) = self.put(id, &record, Some((ended(&record), labels))).await {
                tracing::error!(%id, %error, "the end of an operation cannot be stored; the next start tries again");
            }
        }
    }

    /// What the daemon before has left to be asked again in this dialect. Once.
    pub fn take_again(&self, dialect: &str) -> Vec<Arc<Running>> {
        let again = &mut lock(&self.inner).again;
        let (ours, others) = again.drain(..).partition(|running| running.record().dialect == dialect);
        *again = others;
        ours
    }

    /// The operation that the same request has begun under this key.
    ///
    /// # Errors
    /// The key is another request's.
    pub fn of_key(&self, key: &Digest, request: &Digest) -> Result<Option<Uuid>, Reused> {
        match lock(&self.inner).by_key.get(key) {
            Some((known, id)) if known == request => Ok(Some(*id)),
            Some(_) => Err(Reused),
            None => Ok(None),
        }
    }

    /// It is stored, and told of, when this returns.
    ///
    /// # Errors
    /// As [`Store::commit`]; nothing is acknowledged then.
    pub async fn begin(&self, record: OperationRecord, progress: Arc<Progress>) -> Result<Arc<Running>, StoreError> {
        let id = progress.id();
        let running = Running::new(id, record, progress);
        let record = running.record();
        let mut batch = Batch::new().put(&id.to_string(), &record)?;
        let gone = lock(&self.inner).to_forget(now_ms());
        for old in &gone {
            batch = batch.remove::<OperationRecord>(&old.to_string());
        }
        self.store.commit(batch.tell(&news(id, &record, &running.progress.labels(), OperationNews::Begun))?).await?;
        let mut inner = lock(&self.inner);
        gone.iter().for_each(|old| inner.forget(old));
        inner.note(id, &record);
        inner.running.insert(id, running.clone());
        Ok(running)
    }

    /// What it makes has this id. Stored when this returns.
    pub async fn makes(&self, id: Uuid, makes: Uuid) {
        let Some(running) = lock(&self.inner).running.get(&id).cloned() else { return };
        let record = {
            let mut record = lock(&running.record);
            record.makes(makes);
            record.clone()
        };
        if let Err(error) = self.put(id, &record, None).await {
            tracing::warn!(%id, %error, "what an operation makes cannot be stored");
        }
        lock(&self.inner).note(id, &record);
    }

    /// Does the work, and tells of its progress meanwhile.
    pub async fn attend<T>(&self, running: &Running, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut pace = interval_at(Instant::now() + PACE, PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported = None;
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                _ = pace.tick() => {
                    let phase = running.progress.phases().into_iter().rev().find(|phase| phase.ended.is_none());
                    if phase != reported && let Some(phase) = &phase {
                        self.tell(running, phase).await;
                    }
                    reported = phase;
                }
            }
        }
    }

    async fn tell(&self, running: &Running, phase: &Phase) {
        let Phase { name, device, bytes, .. } = phase.clone();
        let bytes = bytes.map(|bytes| (bytes.done, bytes.total));
        let what = OperationNews::Progress { phase: name, device, bytes };
        let event = news(running.id, &running.record(), &running.progress.labels(), what);
        if let Ok(batch) = Batch::new().tell(&event)
            && let Err(error) = self.store.commit(batch).await
        {
            tracing::debug!(id = %running.id, %error, "the progress of an operation is not told");
        }
    }

    /// It ends with this answer. Whoever asks finds it ended when that is stored, which is tried until it is so.
    pub async fn end(&self, running: &Running, mut answer: KeptAnswer) {
        let outcome = Running::outcome(&answer);
        if answer.body.len() > LONGEST_ANSWER {
            answer.body = String::new();
        }
        let phases = running.progress.phases();
        self.end_as(running, End { at: now_ms(), outcome, answer: Some(answer), interrupted: None, phases }).await;
    }

    /// What it was to come to is so, and nobody knows its answer.
    pub async fn end_without_answer(&self, running: &Running) {
        self.end_as(running, judged(None)).await;
    }

    async fn end_as(&self, running: &Running, end: End) {
        let mut record = running.record();
        record.again = None;
        record.end = Some(end);
        while let Err(error) = self.put(running.id, &record, Some((ended(&record), running.progress.labels()))).await {
            tracing::warn!(id = %running.id, %error, "the end of an operation cannot be stored yet");
            sleep(AGAIN).await;
        }
        let mut inner = lock(&self.inner);
        inner.running.remove(&running.id);
        inner.note(running.id, &record);
        drop(inner);
        running.ended.send_replace(true);
    }

    async fn put(
        &self,
        id: Uuid,
        record: &OperationRecord,
        news_of: Option<(OperationNews, Labels)>,
    ) -> Result<(), StoreError> {
        let mut batch = Batch::new().put(&id.to_string(), record)?;
        if let Some((what, labels)) = news_of {
            batch = batch.tell(&news(id, record, &labels, what))?;
        }
        self.store.commit(batch.from_reserve()).await
    }

    /// Has it cancelled. It ends when what it had begun is taken back.
    ///
    /// # Errors
    /// [`NotCancelled`].
    pub async fn cancel(&self, id: Uuid) -> Result<(), NotCancelled> {
        let refused = |why: &str| NotCancelled::Refused(why.to_owned());
        let running = {
            let inner = lock(&self.inner);
            match inner.running.get(&id) {
                Some(running) => running.clone(),
                None => {
                    let row = inner.ages.get(&id).and_then(|at| inner.all.get(&(*at, id)));
                    let (_, outcome) = row.and_then(|row| row.end).ok_or(NotCancelled::NotFound)?;
                    return Err(refused(&format!("it is {} already", outcome.as_str())));
                }
            }
        };
        let work = lock(&running.record).work;
        work.check_cancellable().map_err(refused)?;
        tracing::info!(%id, "an operation is to be cancelled");
        running.progress.withdraw().await.map_err(refused)
    }
}

impl Inner {
    fn note(&mut self, id: Uuid, record: &OperationRecord) {
        let end = record.end.as_ref().map(|end| (end.at, end.outcome));
        self.all.insert((record.at, id), Row { vm: record.vm, end });
        self.ages.insert(id, record.at);
        let Some((key, request)) = &record.key else { return };
        // What was refused, or has failed, may be asked again.
        match end {
            None | Some((_, Outcome::Done)) => drop(self.by_key.insert(key.clone(), (request.clone(), id))),
            Some(_) if self.by_key.get(key).is_some_and(|(_, known)| *known == id) => drop(self.by_key.remove(key)),
            Some(_) => {}
        }
    }

    fn to_forget(&self, now: u64) -> Vec<Uuid> {
        let beyond = (self.all.len() + 1).saturating_sub(MOST);
        let is_over = |end: u64| now.saturating_sub(end) > KEPT.as_millis() as u64;
        let ended = self.all.iter().filter_map(|((_, id), row)| Some((*id, row.end?.0)));
        let old = ended.enumerate().filter(|(nth, (_, end))| *nth < beyond || is_over(*end));
        old.map(|(_, (id, _))| id).take(SWEPT_AT_ONCE).collect()
    }

    fn forget(&mut self, id: &Uuid) {
        if let Some(at) = self.ages.remove(id) {
            self.all.remove(&(at, *id));
        }
        self.by_key.retain(|_, (_, known)| known != id);
    }
}

/// What is stored of one that a daemon has ended over; done where nothing is said.
fn judged(interrupted: Option<&str>) -> End {
    let said = |why: &str| format!("qherd ended before this did. {why}");
    let lost = "qherd ended when this was done, and before its answer was kept.";
    End {
        at: now_ms(),
        outcome: if interrupted.is_some() { Outcome::Failed } else { Outcome::Done },
        answer: None,
        interrupted: Some(interrupted.map_or_else(|| lost.to_owned(), said)),
        phases: Vec::new(),
    }
}

fn ended(record: &OperationRecord) -> OperationNews {
    let outcome = record.end.as_ref().map_or(Outcome::Failed, |end| end.outcome);
    OperationNews::Ended { outcome }
}

fn news(id: Uuid, record: &OperationRecord, labels: &Labels, what: OperationNews) -> Event {
    let what = crate::model::What::Operation(what);
    let by: Vec<Asker> = vec![record.by.clone()];
    Event { at: now_ms(), about: record.about(id, labels), what, by }
}

// A panic while one is held leaves single insertions and removals.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
