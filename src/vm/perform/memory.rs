//! The size of a running VM's memory: above what it was started with through virtio-mem, below it through the balloon.
//! Both need a driver in the guest; one that does not follow within the deadline keeps what it has.

use std::time::Duration;

use qapi::qmp::{balloon, qom_set};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::{Brief, Done, Hands};
use crate::{
    host::{STORAGE, in_time},
    qemu::{
        devices::{self, VIRTIO_MEM_ID},
        memory_bound,
    },
    qmp::{QmpError, Session},
    vm::core::{Guest, Setback, Sight, StepReport as Report, Up},
};

/// For all that has to be moved; guests give back some hundred MiB a second, under emulation too.
const DEADLINE: Duration = Duration::from_secs(20);
/// For both ways together.
const LONGEST: Duration = Duration::from_secs(28);
/// A guest without a driver is seen by its doing nothing at all.
const FIRST_MOVE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(100);
const MIB: u64 = 1 << 20;
/// virtio-mem may keep its last block (facts of QEMU 7.2).
const TOLERANCE: u64 = 2;

/// Brings the guest's memory to `wanted` MiB, telling how far it has come. Cut short, it has moved some of it, and more may
/// follow.
pub(super) async fn set(hands: &Hands, brief: &Brief, wanted: u64) -> Done {
    let move_ = Move { hands, session: hands.session()?, up: brief.up()? };
    let in_time = timeout(LONGEST, move_.to(wanted)).await;
    in_time.unwrap_or_else(|_| Err(Setback::NotNow("the guest does not follow in time".to_owned())))
}

/// How much the guest has: it moves memory by itself too, late, or because it reboots.
pub(super) async fn read(hands: &Hands, brief: &Brief) -> Done {
    let move_ = Move { hands, session: hands.session()?, up: brief.up()? };
    Ok(Report::Memory(move_.present().await?.total()))
}

struct Move<'a> {
    hands: &'a Hands,
    session: Session,
    up: &'a Up,
}

/// In MiB.
struct Present {
    /// What virtio-mem gives.
    added: u64,
    /// What the balloon leaves of the rest.
    left: u64,
}

impl Present {
    fn total(&self) -> u64 {
        self.added + self.left
    }
}

/// What memory is moved through.
#[derive(Clone, Copy)]
enum Way {
    VirtioMem,
    Balloon,
}

impl Move<'_> {
    async fn to(&self, wanted: u64) -> Done {
        let (boot, virtio_mem) = (self.up.boot_memory, self.up.hotplug_memory);
        let above = wanted.saturating_sub(boot);
        if above > virtio_mem {
            let why = format!("{above} MiB more than it was started with can only come with a start");
            return Err(Setback::NotNow(why));
        }
        // A bound of the host's follows before the guest has more, and when it has less.
        let before = self.present().await?.added;
        self.bound(boot + above.max(before)).await.map_err(Setback::NotNow)?;
        let floor = u64::from(self.hands.ctx.config.balloon_floor).min(boot);
        let target = wanted.max(floor).min(boot);
        // A guest deep in its balloon has no memory to take in more with: out of the balloon first, into it last.
        if wanted >= boot {
            self.fill_balloon(target, false).await?;
        }
        // Also where nothing differs: what was asked for before and not followed is taken back thereby.
        if virtio_mem > 0 {
            let requested = devices::requested_size(above);
            request(&self.session, requested).await?;
            self.follow(Way::VirtioMem, requested / MIB).await?;
        }
        if wanted < boot {
            self.fill_balloon(target, true).await?;
        }
        if let Err(why) = self.bound(boot + above).await {
            tracing::debug!(vm = %self.hands.id, why, "the bound of a guest that has less memory now stays as it was");
        }
        if target > wanted.min(boot) {
            return Err(Setback::NotNow(format!("the balloon leaves a guest at least {target} MiB")));
        }
        Ok(Report::Done)
    }

    /// What QEMU may have for a guest with so many MiB.
    async fn bound(&self, memory: u64) -> Result<(), String> {
        let Some(group) = self.hands.group() else { return Ok(()) };
        let bytes = memory_bound(memory, self.hands.ctx.carriers.count(self.hands.id), self.hands.ctx.caps.accelerator);
        // To give memory back the kernel may have to write it first.
        let bounded = in_time(STORAGE, move || group.bound_memory(bytes)).await;
        bounded.map_err(|error| format!("the host does not let QEMU have more memory: {error}"))
    }

    /// Has the balloon leave the guest `target` MiB. No balloon, or no driver in the guest for it, matters only where it is
    /// `needed`.
    async fn fill_balloon(&self, target: u64, needed: bool) -> Result<(), Setback> {
        let value = i64::try_from(target * MIB).unwrap_or(i64::MAX);
        match self.session.execute(balloon { value }).await {
            Ok(_) => self.follow(Way::Balloon, target).await,
            Err(QmpError::Refused { desc, .. }) if needed => Err(Setback::NotNow(desc)),
            Err(QmpError::Refused { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the guest, telling how far it has come.
    async fn follow(&self, way: Way, target: u64) -> Result<(), Setback> {
        let begin = Instant::now();
        // One that is halted does nothing until it goes on, and follows by itself then.
        let halted = self.up.guest != Guest::Running;
        let patience = if halted { Duration::ZERO } else { FIRST_MOVE };
        let mut reported = self.up.in_effect.memory;
        let mut first = None;
        loop {
            let present = self.present().await?;
            let (reached, memory) = match way {
                Way::VirtioMem => (present.added, present.total()),
                Way::Balloon => (present.left, present.total()),
            };
            if memory != reported {
                reported = memory;
                self.hands.see(Sight::Memory(memory));
            }
            if reached.abs_diff(target) <= if target == 0 { TOLERANCE } else { 0 } {
                return Ok(());
            }
            let still = *first.get_or_insert(reached) == reached;
            if begin.elapsed() > DEADLINE || (still && begin.elapsed() > patience) {
                if halted {
                    return Err(Setback::NotNow(format!(
                        "the guest has {memory} MiB and is halted; it follows when it goes on"
                    )));
                }
                return Err(Setback::NotNow(format!("the guest has {memory} MiB and does not follow")));
            }
            sleep(LOOK).await;
        }
    }

    async fn present(&self) -> Result<Present, QmpError> {
        let added = if self.up.hotplug_memory > 0 { plugged(&self.session).await? } else { 0 };
        let left = match self.session.query_balloon().await {
            Ok(bytes) => bytes / MIB,
            // There is none, or nobody who fills it.
            Err(QmpError::Refused { .. }) => self.up.boot_memory,
            Err(error) => return Err(error),
        };
        Ok(Present { added, left })
    }
}

/// MiB that virtio-mem gives.
async fn plugged(session: &Session) -> Result<u64, QmpError> {
    // By name: qapi's type knows no more of the reply than that it is JSON.
    let size: u64 = session.execute_as("qom-get", Some(json!({ "path": virtio_mem(), "property": "size" }))).await?;
    Ok(size / MIB)
}

async fn request(session: &Session, bytes: u64) -> Result<(), QmpError> {
    let property = "requested-size".to_owned();
    session.execute(qom_set { path: virtio_mem(), property, value: bytes.into() }).await.map(drop)
}

fn virtio_mem() -> String {
    format!("/machine/peripheral/{VIRTIO_MEM_ID}")
}
