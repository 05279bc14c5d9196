//! The size of a running VM's memory: above what it was started with through virtio-mem, below it through the balloon.
//! Both need a driver in the guest; one that does not follow within the deadline keeps what it has.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Setback;
use crate::{
    qemu::devices::{self, VIRTIO_MEM_ID},
    qmp::{QmpError, Session},
    vm::actor::Actor,
};

/// For all that has to be moved; guests give back some hundred MiB a second, under emulation too.
const DEADLINE: Duration = Duration::from_secs(20);
/// A guest without a driver is seen by its doing nothing at all.
const FIRST_MOVE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);
const MIB: u64 = 1 << 20;
/// virtio-mem may keep its last block (facts of QEMU 7.2).
const TOLERANCE: u64 = 2;

impl Actor {
    pub(super) async fn adjust_memory(&mut self) -> Result<(), Setback> {
        let wanted = self.record.spec.memory;
        let Some(run) = self.live_run() else { return Ok(()) };
        let (now, boot, virtio_mem) = (run.in_effect.memory, run.boot_memory, run.hotplug_memory);
        let session = self.session()?;
        let above = wanted.saturating_sub(boot);
        if above > virtio_mem {
            return Err(Setback::NotNow(format!(
                "{above} MiB more than it was started with can only come with a start"
            )));
        }
        let floor = u64::from(self.ctx.config.balloon_floor).min(boot);
        let target = wanted.max(floor).min(boot);
        // A guest deep in its balloon has no memory to take in more with: out of the balloon first, into it last.
        if wanted >= boot {
            self.fill_balloon(&session, target, now < boot, false).await?;
        }
        // Also where nothing differs: what was asked for before and not followed is taken back thereby.
        if virtio_mem > 0 {
            let requested = devices::requested_size(above);
            self.guarded(request(&session, requested)).await?;
            self.follow(&session, Source::VirtioMem, requested / MIB).await?;
        }
        if wanted < boot {
            self.fill_balloon(&session, target, true, true).await?;
        }
        if target > wanted.min(boot) {
            return Err(Setback::NotNow(format!("the balloon leaves a guest at least {target} MiB")));
        }
        if self.live_run().is_some_and(|run| run.in_effect.memory != wanted) {
            self.record_in_effect(|spec| spec.memory = wanted).await?;
        }
        Ok(())
    }

    /// Has the balloon leave the guest `target` MiB, and waits for it where there is something that `moves`. No balloon, or no
    /// driver in the guest for it, matters only where it is `needed`.
    async fn fill_balloon(&mut self, session: &Session, target: u64, moves: bool, needed: bool) -> Result<(), Setback> {
        match self.guarded(balloon(session, target * MIB)).await.map_err(Setback::from) {
            Ok(()) if moves => self.follow(session, Source::Balloon, target).await,
            Ok(()) => Ok(()),
            Err(Setback::Refused(why)) if needed => Err(Setback::NotNow(why)),
            Err(Setback::Refused(_)) => Ok(()),
            Err(other) => Err(other),
        }
    }

    /// The guest has moved memory by itself: late, or because it rebooted. How much is asked for anew: QEMU holds these
    /// events back for up to a second, and what one says may be over.
    pub(in crate::vm) async fn memory_moved(&mut self, source: Source) {
        let wanted = self.record.spec.memory;
        let Ok(session) = self.session() else { return };
        let Ok(reached) = self.guarded(source.read(&session)).await else { return };
        let Some(run) = self.live_run() else { return };
        let (now, boot) = (run.in_effect.memory, run.boot_memory);
        // An empty virtio-mem says nothing of a guest in its balloon, and an empty balloon nothing of virtio-mem.
        let other_counts = match source {
            Source::VirtioMem => reached == 0 && now < boot,
            Source::Balloon => reached >= boot && now > boot,
        };
        let memory = source.total(reached, boot);
        let memory = if memory.abs_diff(wanted) <= TOLERANCE { wanted } else { memory };
        if !other_counts && memory != now {
            let _ = self.record_in_effect(|spec| spec.memory = memory).await;
        }
    }

    /// Waits for the guest, noting how far it has come.
    async fn follow(&mut self, session: &Session, source: Source, target: u64) -> Result<(), Setback> {
        let begin = Instant::now();
        let mut first = None;
        loop {
            let reached = self.guarded(source.read(session)).await?;
            let boot = self.live_run().map_or(0, |run| run.boot_memory);
            let memory = source.total(reached, boot);
            // An empty virtio-mem says nothing of a guest in its balloon.
            let tells =
                |now: u64| now != memory && !(matches!(source, Source::VirtioMem) && reached == 0 && now < boot);
            if self.live_run().is_some_and(|run| tells(run.in_effect.memory)) {
                self.record_in_effect(|spec| spec.memory = memory).await?;
            }
            if reached.abs_diff(target) <= if target == 0 { TOLERANCE } else { 0 } {
                return Ok(());
            }
            let still = *first.get_or_insert(reached) == reached;
            if begin.elapsed() > DEADLINE || (still && begin.elapsed() > FIRST_MOVE) {
                return Err(Setback::NotNow(format!("the guest has {memory} MiB and does not follow")));
            }
            self.guarded(async {
                sleep(LOOK).await;
                Ok(())
            })
            .await?;
        }
    }
}

/// What memory is moved through.
#[derive(Clone, Copy)]
pub(in crate::vm) enum Source {
    VirtioMem,
    Balloon,
}

impl Source {
    /// MiB that virtio-mem gives, or that the balloon leaves.
    async fn read(self, session: &Session) -> Result<u64, QmpError> {
        match self {
            Self::VirtioMem => {
                let path = format!("/machine/peripheral/{VIRTIO_MEM_ID}");
                let size: u64 =
                    session.execute_as("qom-get", Some(json!({ "path": path, "property": "size" }))).await?;
                Ok(size / MIB)
            }
            Self::Balloon => Ok(session.query_balloon().await? / MIB),
        }
    }

    /// MiB that the guest has in all.
    fn total(self, reached: u64, boot: u64) -> u64 {
        match self {
            Self::VirtioMem => boot + reached,
            Self::Balloon => reached,
        }
    }
}

async fn request(session: &Session, bytes: u64) -> Result<(), QmpError> {
    let path = format!("/machine/peripheral/{VIRTIO_MEM_ID}");
    let arguments = json!({ "path": path, "property": "requested-size", "value": bytes });
    session.execute_raw("qom-set", Some(arguments)).await.map(drop)
}

async fn balloon(session: &Session, bytes: u64) -> Result<(), QmpError> {
    session.execute_raw("balloon", Some(json!({ "value": bytes }))).await.map(drop)
}
