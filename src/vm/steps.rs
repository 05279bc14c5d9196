//! The steps of a VM that are made: one task each, given up when its time is over. Which ones are made is the plan's.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::task::{AbortHandle, Id, JoinError, JoinSet};

use super::{
    core::{Lane, Outcome, Setback, Step},
    perform::{Brief, Hands, perform},
    progress::{Progress, device, title},
};
use crate::{host::image::Copied, model::VmId};

/// Beyond a step's own deadline: then it is given up, whatever it waits for.
const OVERTIME: Duration = Duration::from_secs(2);

/// Those that are under way.
#[derive(Default)]
pub(super) struct Steps {
    tasks: JoinSet<Outcome>,
    by_task: HashMap<Id, UnderWay>,
}

struct UnderWay {
    lane: Lane,
    task: AbortHandle,
    /// As it is shown.
    title: Option<&'static str>,
    copied: Arc<Copied>,
}

/// How the task of a step ended.
pub(super) type Joined = Result<(Id, Outcome), JoinError>;

impl Steps {
    pub fn is_empty(&self) -> bool {
        self.by_task.is_empty()
    }

    /// Gives the room back that it had.
    pub fn shrink(&mut self) {
        self.by_task = HashMap::new();
    }

    pub fn start<'a>(
        &mut self,
        hands: &Arc<Hands>,
        brief: Brief,
        step: Step,
        shown: impl Iterator<Item = &'a Arc<Progress>>,
    ) {
        let (lane, deadline, title) = (step.lane(), step.deadline(), title(&step));
        let copied = brief.copied.clone();
        if let Some(title) = title {
            shown.for_each(|progress| progress.begin(title, device(lane), &copied));
        }
        tracing::debug!(vm = %hands.id, ?lane, "a step begins");
        let hands = hands.clone();
        let task = self.tasks.spawn(async move {
            let late = late(&step);
            let work = perform(&hands, brief, step);
            match deadline {
                None => work.await,
                Some(deadline) => {
                    let patience = Duration::from_millis(deadline) + OVERTIME;
                    tokio::time::timeout(patience, work).await.unwrap_or(Outcome::Failed(late))
                }
            }
        });
        self.by_task.insert(task.id(), UnderWay { lane, task, title, copied });
    }

    /// Cuts those short whose lane is to be free.
    pub fn cut(&self, is_cut: impl Fn(&Lane) -> bool) {
        self.by_task.values().filter(|step| is_cut(&step.lane)).for_each(|step| step.task.abort());
    }

    /// The next one that ends; none where none is under way. May be dropped and called again.
    pub async fn next(&mut self) -> Option<Joined> {
        self.tasks.join_next_with_id().await
    }

    /// One has reported, or was cut short.
    pub fn end<'a>(
        &mut self,
        vm: VmId,
        joined: Joined,
        shown: impl Iterator<Item = &'a Arc<Progress>>,
    ) -> Option<(Lane, Outcome)> {
        let (id, outcome) = match joined {
            Ok(ended) => ended,
            Err(error) if error.is_cancelled() => (error.id(), Outcome::Cut),
            Err(error) => {
                tracing::error!(%vm, %error, "a step has panicked");
                (error.id(), Outcome::Failed(Setback::Host("a defect of qherd's own; its log says more".to_owned())))
            }
        };
        let UnderWay { lane, title, .. } = self.by_task.remove(&id)?;
        if let Some(title) = title {
            shown.for_each(|progress| progress.end(title, device(lane)));
        }
        if let Outcome::Failed(setback) = &outcome {
            tracing::info!(%vm, ?lane, ?setback, "a step was not made");
        }
        Some((lane, outcome))
    }

    /// Shows what is under way already.
    pub fn show(&self, progress: &Progress) {
        for step in self.by_task.values() {
            step.title.into_iter().for_each(|title| progress.begin(title, device(step.lane), &step.copied));
        }
    }
}

/// What a step that does not come to its end counts as.
fn late(step: &Step) -> Setback {
    match step {
        Step::Kill | Step::EndStrays => Setback::Held,
        Step::Commit(_) => Setback::StoreSilent("the store does not answer".to_owned()),
        _ => Setback::Host("it did not come to its end in time".to_owned()),
    }
}
