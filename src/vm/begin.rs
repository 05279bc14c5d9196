//! How the task of a VM comes to be: of one that an earlier daemon left, or of one that is to be made.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{
    SharedContext,
    asking::{asker, progress},
    core::{self, Found, Ticket, recover},
    handle::{Reply, VmHandle},
    records::{Known, Stored},
    task::{Task, bounds, now},
};
use crate::model::{Error, Result, VmSpec, VmView};

/// Starts the task of a VM of an earlier daemon. What its record says is met with what is there.
pub fn adopt(ctx: SharedContext, Stored { record, known }: Stored) -> VmHandle {
    let (found, process) = ctx.find_process(&record);
    let up = record.run.up().filter(|_| found != Found::Elsewhere).cloned();
    let facts = recover(record, found, now(), bounds(&ctx));
    let (handle, task) = Task::new(ctx, facts, known);
    task.hands.adopt(process, up.as_ref());
    tokio::spawn(task.run());
    handle
}

/// Starts the task of a VM that is to be made, and started where `start` says so; `noted` is what is stored of it, where it
/// is noted already that it is being made. The answer comes when it exists; where it does not come to that, nothing of it is left.
pub fn create(
    ctx: SharedContext,
    definition: Arc<VmSpec>,
    start: bool,
    noted: Option<Known>,
) -> (VmHandle, impl Future<Output = Result<VmView>> + Send) {
    const TICKET: Ticket = 0;
    let id = definition.id;
    let mut facts = core::create(definition.clone(), start, TICKET, now(), bounds(&ctx));
    if noted.is_some() {
        facts.stored = core::unmade(definition);
        facts.seen.wish = false;
    }
    facts.note_maker(TICKET, asker());
    let (handle, mut task) = Task::new(ctx, facts, noted.unwrap_or_default());
    let (sender, answer) = oneshot::channel();
    let progress = progress();
    task.replies.insert(TICKET, Reply { answer: sender, progress: progress.clone() });
    if let Some(progress) = progress {
        handle.show(&progress);
    }
    tokio::spawn(task.run());
    let made = async move {
        let (answer, view) = answer.await.map_err(|_| Error::ShuttingDown)?;
        tracing::debug!(vm = %id, ?answer, "create");
        answer.map(|_| view)
    };
    (handle, made)
}
