//! The number of a running VM's vCPUs. They are added with `device_add`, one step at a time, and removed with
//! `device_del`, or taken offline by the guest agent where QEMU would not outlive that (ruling 16, docs/adr/0018).

use std::time::Duration;

use qapi::{
    qga::{GuestLogicalProcessor, guest_get_vcpus, guest_set_vcpus},
    qmp::query_kvm,
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep};

use super::Setback;
use crate::{
    qmp::{Agent, QgaError, QmpError, Session},
    vm::{
        actor::{Actor, Interrupted},
        launch::vcpu_threads,
        live::Guest,
    },
};

/// The first QEMU that goes on after a `device_del` of a vCPU under TCG; those before die at the next hot-plug or reset.
const UNPLUGS_UNDER_TCG: u32 = 10;

/// For one answer of the agent: that of an emulated guest on a busy host, which brings vCPUs online, takes its time.
const AGENT: Duration = Duration::from_secs(15);
/// For the guest to bring a vCPU online, or to let go of one.
const GUEST: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(200);
/// What QEMU's ids of hot-added vCPUs begin with.
const PREFIX: &str = "vcpu";

/// One line of `query-hotpluggable-cpus`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Slot {
    r#type: String,
    props: Map<String, Value>,
    /// There when the slot holds a vCPU.
    qom_path: Option<String>,
}

impl Slot {
    fn order(&self) -> Vec<u64> {
        ["socket-id", "die-id", "core-id", "thread-id"]
            .iter()
            .map(|p| self.props.get(*p).and_then(Value::as_u64).unwrap_or(0))
            .collect()
    }
}

impl Actor {
    pub(super) async fn adjust_vcpus(&mut self) -> Result<(), Setback> {
        let wanted = self.record.spec.vcpus;
        let Some(run) = self.live_run() else { return Ok(()) };
        let (now, most) = (run.in_effect.vcpus, run.in_effect.max_vcpus);
        if wanted < now {
            return self.remove_vcpus(wanted).await;
        }
        if wanted == now {
            return Ok(());
        }
        self.add_vcpus(wanted.min(most)).await?;
        if wanted > most {
            return Err(Setback::NotNow(format!("QEMU was started for at most {most} vCPUs")));
        }
        Ok(())
    }

    /// After a reset the firmware hands every vCPU to the guest, those too that the agent had taken offline: they
    /// are pending again. Taking them away while the guest boots does not last, its udev brings them back.
    pub(in crate::vm) async fn vcpus_are_back(&mut self) {
        let Ok(session) = self.session() else { return };
        let Ok(threads) = self.guarded(vcpu_threads(&session)).await else { return };
        let count = threads.len() as u32;
        if self.live_run().is_some_and(|run| run.in_effect.vcpus != count) {
            let _ = self.record_in_effect(|spec| spec.vcpus = count).await;
        }
    }

    /// A daemon may have died after vCPUs came or went and before that was noted. Those that came would pass for some
    /// that the agent holds offline; where there is no agent, nobody does.
    pub(super) async fn recount_vcpus(&mut self) {
        let Ok(session) = self.session() else { return };
        let Ok(threads) = self.guarded(vcpu_threads(&session)).await else { return };
        let there = threads.len() as u32;
        let added = if self.has_agent() { 0 } else { self.record.spec.vcpus.min(there) };
        let _ = self.record_in_effect(|spec| spec.vcpus = spec.vcpus.max(added).min(there)).await;
    }

    /// The guest has let go of a device: perhaps of a vCPU, later than anybody waited for it.
    pub(in crate::vm) async fn vcpu_deleted(&mut self, id: &str) {
        if !id.starts_with(PREFIX) {
            return;
        }
        let Ok(session) = self.session() else { return };
        let Ok(threads) = self.guarded(vcpu_threads(&session)).await else { return };
        let there = threads.len() as u32;
        if let Ok(live) = self.live() {
            live.set_vcpu_threads(threads);
        }
        let _ = self.record_in_effect(|spec| spec.vcpus = spec.vcpus.min(there)).await;
    }

    /// Fills the lowest free slots first: a gap below makes QEMU 7.2 and the guest stumble at the next reset.
    async fn add_vcpus(&mut self, wanted: u32) -> Result<(), Setback> {
        let session = self.session()?;
        let mut slots = self.guarded(slots(&session)).await?;
        slots.sort_by_key(Slot::order);
        let present = slots.iter().filter(|slot| slot.qom_path.is_some()).count() as u32;
        // The agent holds some offline: those come back first.
        let held = self.live_run().is_some_and(|run| run.in_effect.vcpus < present);
        let free = wanted.saturating_sub(present);
        let added = free.min(self.places_left(present));
        if added > 0 {
            self.note_made(present, added).await?;
        }
        for (index, slot) in slots.iter().enumerate().filter(|(_, slot)| slot.qom_path.is_none()).take(added as usize) {
            let mut device = slot.props.clone();
            device.insert("driver".into(), slot.r#type.clone().into());
            device.insert("id".into(), format!("{PREFIX}{index}").into());
            self.guarded(async { session.execute_raw("device_add", Some(Value::Object(device))).await }).await?;
            let threads = self.guarded(vcpu_threads(&session)).await?;
            let count = threads.len() as u32;
            self.live()?.set_vcpu_threads(threads);
            // A new thread inherits what the main thread is bound to; it runs the guest only when that brings it online.
            self.pin_threads().await?;
            if !held {
                self.record_in_effect(|spec| spec.vcpus = count).await?;
            }
        }
        let there = wanted.min(present + added);
        if held {
            self.online(there, Instant::now() + GUEST).await?;
            self.record_in_effect(|spec| spec.vcpus = there).await?;
        } else if self.has_agent() {
            // Guests bring new ones online by themselves; with an agent that is made sure of.
            match self.online(there, Instant::now() + GUEST).await {
                Err(Setback::NotNow(why)) => {
                    tracing::info!(vm = %self.record.spec.id, why, "new vCPUs are the guest's to use")
                }
                done => done?,
            }
        }
        if added < free {
            return Err(Setback::NotNow(
                "an emulating QEMU has no place for another vCPU after so many came and went".into(),
            ));
        }
        Ok(())
    }

    async fn remove_vcpus(&mut self, wanted: u32) -> Result<(), Setback> {
        if self.survives_unplug(wanted).await? {
            self.unplug_vcpus(wanted).await?;
        }
        if self.live_run().is_some_and(|run| run.in_effect.vcpus <= wanted) {
            return Ok(());
        }
        self.online(wanted, Instant::now() + GUEST).await?;
        self.record_in_effect(|spec| spec.vcpus = wanted).await
    }

    /// Whether vCPUs can be unplugged and plugged again. Asked of the QEMU that runs: the one on the host, and what
    /// accelerates it, may be others by now.
    async fn survives_unplug(&mut self, wanted: u32) -> Result<bool, Setback> {
        let session = self.session()?;
        let kvm = self.guarded(session.execute(query_kvm {})).await?;
        if kvm.enabled || session.version().major < UNPLUGS_UNDER_TCG {
            return Ok(kvm.enabled);
        }
        let present = self.guarded(vcpu_threads(&session)).await?.len() as u32;
        let Some(run) = self.live_run() else { return Ok(false) };
        let leaving = run.in_effect.vcpus.saturating_sub(wanted);
        if self.places_left(present) < leaving {
            return Ok(false);
        }
        self.note_made(present, 0).await?;
        Ok(true)
    }

    /// How many vCPUs QEMU can still make, of which it has `present`. TCG has a place for as many as QEMU was started
    /// for, and none is given back when its vCPU goes: with one more QEMU aborts.
    fn places_left(&mut self, present: u32) -> u32 {
        self.live_run().map_or(0, |run| run.in_effect.max_vcpus.saturating_sub(run.vcpus_made.max(present)))
    }

    /// Before the deed: a daemon that dies over it takes too many places for taken, never too few.
    async fn note_made(&mut self, present: u32, more: u32) -> Result<(), Setback> {
        let Some(run) = self.live_run() else { return Ok(()) };
        // As long as none has gone, those that are there tell.
        if more > 0 && run.vcpus_made <= present {
            return Ok(());
        }
        let made = run.vcpus_made.max(present) + more;
        if made == run.vcpus_made {
            return Ok(());
        }
        run.vcpus_made = made;
        self.ctx.persist(&self.record).await.map_err(|e| Setback::NotNow(e.to_string()))
    }

    /// `device_del` of hot-added vCPUs, the highest first; those of the boot stay.
    async fn unplug_vcpus(&mut self, wanted: u32) -> Result<(), Setback> {
        // QEMU would keep the request, and do it at whatever time the guest goes on.
        if self.live()?.guest != Guest::Running {
            return Err(Setback::NotNow("a guest that does not run cannot let go of vCPUs".into()));
        }
        let session = self.session()?;
        let mut slots = self.guarded(slots(&session)).await?;
        slots.sort_by_key(Slot::order);
        let hot = |slot: &Slot| {
            slot.qom_path.as_deref()?.rsplit('/').next().filter(|id| id.starts_with(PREFIX)).map(str::to_owned)
        };
        for id in slots.iter().rev().filter_map(hot) {
            let Some(run) = self.live_run() else { return Ok(()) };
            if run.in_effect.vcpus <= wanted {
                break;
            }
            let before = self.guarded(vcpu_threads(&session)).await?.len();
            match self.guarded(async { session.execute_raw("device_del", Some(json!({ "id": id }))).await }).await {
                // Before a guest takes part in the hot-plug of vCPUs QEMU has no way to ask it.
                Err(Interrupted::Qmp(QmpError::Refused { desc, .. })) => return Err(Setback::NotNow(desc)),
                outcome => outcome?,
            };
            let deadline = Instant::now() + GUEST;
            let threads = loop {
                let threads = self.guarded(vcpu_threads(&session)).await?;
                if threads.len() < before {
                    break threads;
                }
                if Instant::now() > deadline {
                    return Err(Setback::NotNow(format!("the guest does not let go of {id}")));
                }
                self.guarded(async {
                    sleep(LOOK).await;
                    Ok(())
                })
                .await?;
            };
            let there = threads.len() as u32;
            self.live()?.set_vcpu_threads(threads);
            self.record_in_effect(|spec| spec.vcpus = spec.vcpus.min(there)).await?;
        }
        Ok(())
    }

    fn has_agent(&mut self) -> bool {
        self.live().is_ok_and(|live| live.agent)
    }

    /// Has the agent bring the guest's number of vCPUs in use to `wanted`.
    async fn online(&mut self, wanted: u32, deadline: Instant) -> Result<(), Setback> {
        if !self.has_agent() {
            return Err(Setback::NotNow("no guest agent answers that could change the number of vCPUs in use".into()));
        }
        let path = self.ctx.run_paths(&self.record.spec.id).agent();
        loop {
            let outcome = self.guarded(async { Ok(set_online(&path, wanted).await) }).await?;
            match outcome {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return Err(Setback::NotNow(error.to_string())),
            }
            if Instant::now() > deadline {
                return Err(Setback::NotNow(format!("the guest does not use {wanted} vCPUs")));
            }
            self.guarded(async {
                sleep(LOOK).await;
                Ok(())
            })
            .await?;
        }
    }
}

async fn slots(session: &Session) -> Result<Vec<Slot>, QmpError> {
    // Raw: qapi's type has no room for properties that a newer QEMU adds, and `device_add` has to give all of them back.
    session.execute_as("query-hotpluggable-cpus", None).await
}

/// Whether the guest uses `wanted` vCPUs now; if not, it is asked to.
async fn set_online(path: &std::path::Path, wanted: u32) -> Result<bool, QgaError> {
    let mut agent = Agent::connect(path, AGENT).await?;
    let mut cpus = agent.execute(guest_get_vcpus {}, AGENT).await?;
    cpus.sort_by_key(|cpu| cpu.logical_id);
    let online = cpus.iter().filter(|cpu| cpu.online).count();
    let wanted = wanted as usize;
    let set = |cpu: &GuestLogicalProcessor, online| GuestLogicalProcessor {
        logical_id: cpu.logical_id,
        online,
        can_offline: None,
    };
    let vcpus: Vec<GuestLogicalProcessor> = if online < wanted {
        let offline = cpus.iter().filter(|cpu| !cpu.online).take(wanted - online);
        offline.map(|cpu| set(cpu, true)).collect()
    } else {
        let spare = cpus.iter().rev().filter(|cpu| cpu.online && cpu.can_offline == Some(true)).take(online - wanted);
        spare.map(|cpu| set(cpu, false)).collect()
    };
    if !vcpus.is_empty() {
        agent.execute(guest_set_vcpus { vcpus }, AGENT).await?;
    }
    Ok(online == wanted)
}
