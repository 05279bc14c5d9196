//! The writer: one thread through which every change goes. Decides what is written together and who is told what;
//! how bytes reach the disk is the business of `backend`.
//!
//! Group commit: while one group is on its way to the disk others queue up, and they form the next group, made
//! durable by a single sync. A lone commit never waits for company.
//!
//! A failed write leaves sled's memory ahead of the disk in a way nobody can undo (and after a failed fsync Linux
//! marks the pages clean, so that a second try would lie). So the first failure, a panic of sled included, is final:
//! it is kept in [`Health`], and everything later is refused with its reason until the store is opened anew.
//! Health is locked for writing during the write, hence a reader never sees what is not durable yet.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::oneshot;

use super::batch::Batch;
use super::{StoreError, panic_text};

/// Bounds of a group. Half a sled segment at most is then between two syncs.
const MAX_GROUP_BYTES: usize = 256 * 1024;
const MAX_GROUP_JOBS: usize = 256;

/// sled cuts its log some milliseconds after a write, in the background.
const TIDY_PAUSE: Duration = Duration::from_millis(5);
const TIDIES: u32 = 40;

/// One commit under way. Owned by the queue, so it does not matter whether anybody still waits for it.
pub(super) struct Job {
    pub batch: Batch,
    pub done: oneshot::Sender<Result<(), StoreError>>,
}

/// How a group failed.
#[derive(Debug, Clone)]
pub(super) enum WriteError {
    /// Found out before anything was touched; the store stays usable.
    Refused(Refusal),
    /// Memory and disk may differ from now on.
    Fatal(String),
}

/// Why nothing was tried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    NoSpace {
        free: u64,
        needed: u64,
    },
    ReadOnly,
    /// What a batch was to replace is not what is stored.
    Outdated {
        record: String,
    },
}

impl From<Refusal> for StoreError {
    fn from(refusal: Refusal) -> StoreError {
        match refusal {
            Refusal::NoSpace { free, needed } => StoreError::NoSpace { free, needed },
            Refusal::ReadOnly => StoreError::ReadOnly,
            Refusal::Outdated { record } => StoreError::Outdated { record },
        }
    }
}

/// Whether the store may be used, and if not, since what.
#[derive(Default)]
pub(super) struct Health(RwLock<Option<Arc<str>>>);

impl Health {
    /// Runs `read` while no write is under way.
    ///
    /// # Errors
    /// `Failed` once a write has failed.
    pub fn while_good<T>(&self, read: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match &*state {
            Some(reason) => Err(StoreError::Failed { reason: reason.clone() }),
            None => read(),
        }
    }
}

/// Why the writer came to its end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// All handles are gone, and the queue is empty.
    Closed,
    /// The same, but `write` has panicked: what it uses is in an unknown state and must not be touched.
    Panicked,
}

/// Works until the last sender is gone *and* everything queued has been dealt with. `write` may leave out jobs, and says of
/// each why. `tell` is called when those who wait for a group have been answered. `tidy` is called a few times while nothing waits after a write.
pub(super) fn run(
    jobs: &Receiver<Job>,
    health: &Health,
    mut write: impl FnMut(&[Job]) -> Result<Vec<Option<Refusal>>, WriteError>,
    mut tell: impl FnMut(),
    mut tidy: impl FnMut(),
) -> End {
    let (mut end, mut tidies) = (End::Closed, 0);
    while let Some(first) = next(jobs, &mut tidies, &mut tidy) {
        let group = gather(first, jobs);
        let outcome = {
            let mut state = health.0.write().unwrap_or_else(PoisonError::into_inner);
            match &*state {
                Some(reason) => Err(StoreError::Failed { reason: reason.clone() }),
                None => match catch_unwind(AssertUnwindSafe(|| write(&group))) {
                    Ok(Ok(refused)) => Ok(refused),
                    Ok(Err(WriteError::Refused(refusal))) => Err(refusal.into()),
                    Ok(Err(WriteError::Fatal(reason))) => Err(fail(&mut state, reason)),
                    Err(panic) => {
                        end = End::Panicked;
                        let text = panic_text(panic.as_ref());
                        Err(fail(&mut state, format!("sled panicked: {text}")))
                    }
                },
            }
        };
        let is_good = outcome.is_ok();
        if is_good {
            tidies = TIDIES;
        }
        let (mut refused, error) = match outcome {
            Ok(refused) => (refused.into_iter(), None),
            Err(error) => (Vec::new().into_iter(), Some(error)),
        };
        for job in group {
            let refusal = refused.next().flatten();
            // A committer that has gone away does not want to know.
            let _ = job.done.send(match (&error, refusal) {
                (Some(error), _) => Err(same(error)),
                (None, Some(refusal)) => Err(refusal.into()),
                (None, None) => Ok(()),
            });
        }
        if is_good {
            tell();
        }
    }
    end
}

/// Waits for the next job; `None` when there will be none. An idle store does not wake up.
fn next(jobs: &Receiver<Job>, tidies: &mut u32, tidy: &mut impl FnMut()) -> Option<Job> {
    while *tidies > 0 {
        match jobs.recv_timeout(TIDY_PAUSE) {
            Ok(job) => return Some(job),
            Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => {
                *tidies -= 1;
                tidy();
            }
        }
    }
    jobs.recv().ok()
}

/// `first` and whatever else waits, in order, up to the bounds.
fn gather(first: Job, jobs: &Receiver<Job>) -> Vec<Job> {
    let mut bytes = first.batch.bytes();
    let mut group = vec![first];
    while bytes < MAX_GROUP_BYTES && group.len() < MAX_GROUP_JOBS {
        let Ok(next) = jobs.try_recv() else { break };
        bytes += next.batch.bytes();
        group.push(next);
    }
    group
}

fn fail(state: &mut Option<Arc<str>>, reason: String) -> StoreError {
    tracing::error!(%reason, "the store has stopped; it accepts nothing until qherd is restarted");
    let reason: Arc<str> = reason.into();
    *state = Some(reason.clone());
    StoreError::Failed { reason }
}

/// The outcome of a group for one more member. `io::Error` is not `Clone`, but never occurs here.
fn same(error: &StoreError) -> StoreError {
    match error {
        StoreError::Failed { reason } => StoreError::Failed { reason: reason.clone() },
        StoreError::NoSpace { free, needed } => StoreError::NoSpace { free: *free, needed: *needed },
        StoreError::ReadOnly => StoreError::ReadOnly,
        other => StoreError::Failed { reason: other.to_string().into() },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    type Answer = oneshot::Receiver<Result<(), StoreError>>;

    /// None of them is left out.
    fn all(group: &[Job]) -> Vec<Option<Refusal>> {
        vec![None; group.len()]
    }

    /// Queues `count` jobs, runs the writer over them, and returns its end and the answers.
    fn drive(
        count: usize,
        health: &Health,
        write: impl FnMut(&[Job]) -> Result<Vec<Option<Refusal>>, WriteError>,
    ) -> (End, Vec<Result<(), StoreError>>) {
        let (send, jobs) = sync_channel(count);
        let answers: Vec<Answer> = (0..count)
            .map(|_| {
                let (done, answer) = oneshot::channel();
                send.send(Job { batch: Batch::new(), done }).unwrap();
                answer
            })
            .collect();
        drop(send);
        let end = run(&jobs, health, write, || {}, || {});
        (end, answers.into_iter().map(|a| a.blocking_recv().unwrap()).collect())
    }

    #[test]
    fn all_that_waits_is_written_as_one_group() {
        let mut groups = Vec::new();
        let (end, answers) = drive(MAX_GROUP_JOBS + 1, &Health::default(), |group| {
            groups.push(group.len());
            Ok(all(group))
        });
        assert_eq!(groups, [MAX_GROUP_JOBS, 1]);
        assert_eq!(end, End::Closed);
        assert!(answers.iter().all(Result::is_ok));
    }

    #[test]
    fn after_a_failed_write_nothing_is_tried_or_read_again() {
        let health = Health::default();
        let mut calls = 0;
        let mut write = |_: &[Job]| {
            calls += 1;
            Err(WriteError::Fatal("disk on fire".into()))
        };
        let (_, first) = drive(3, &health, &mut write);
        let (_, second) = drive(2, &health, &mut write);
        assert_eq!(calls, 1);
        for answer in first.into_iter().chain(second) {
            let message = answer.unwrap_err().to_string();
            assert!(message.contains("disk on fire") && message.contains("restart"), "{message}");
        }
        assert!(matches!(health.while_good(|| Ok(())), Err(StoreError::Failed { .. })));
    }

    #[test]
    fn a_panic_becomes_an_error_for_this_and_all_later_commits() {
        let health = Health::default();
        let (end, answers) = drive(2, &health, |_| panic!("page {} is gone", 7));
        assert_eq!(end, End::Panicked);
        for answer in answers {
            assert!(answer.unwrap_err().to_string().contains("page 7 is gone"));
        }
        let (_, later) = drive(1, &health, |group| Ok(all(group)));
        assert!(later[0].is_err());
    }

    #[test]
    fn a_lack_of_space_noticed_in_time_passes() {
        let health = Health::default();
        let no_space = || Refusal::NoSpace { free: 1, needed: 2 };
        let (_, full) = drive(1, &health, |_| Err(WriteError::Refused(no_space())));
        assert!(matches!(full[0], Err(StoreError::NoSpace { free: 1, needed: 2 })));
        let (_, read_only) = drive(1, &health, |_| Err(WriteError::Refused(Refusal::ReadOnly)));
        assert!(matches!(read_only[0], Err(StoreError::ReadOnly)));
        let (_, later) = drive(1, &health, |group| Ok(all(group)));
        assert!(later[0].is_ok());
    }

    #[test]
    fn each_of_a_group_is_told_what_became_of_it() {
        let outdated = Refusal::Outdated { record: "layer/a".into() };
        let refused = vec![Some(Refusal::NoSpace { free: 1, needed: 2 }), None, Some(outdated), None];
        let (_, answers) = drive(4, &Health::default(), |_| Ok(refused.clone()));
        assert!(matches!(answers[0], Err(StoreError::NoSpace { .. })) && answers[1].is_ok());
        assert!(
            matches!(&answers[2], Err(StoreError::Outdated { record }) if record == "layer/a") && answers[3].is_ok()
        );
    }
}
