//! The number of a running VM's vCPUs. They are added with `device_add`, one at a time, and removed with `device_del`, or
//! taken offline by the guest agent where QEMU would not outlive that (ruling 16, docs/adr/0018).

use std::{sync::Arc, time::Duration};

use qapi::{
    Command,
    qga::{GuestLogicalProcessor, guest_get_vcpus, guest_set_vcpus},
    qmp::{device_del, query_kvm},
};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Brief, Done, Hands,
    pinning::{self, threads},
};
use crate::{
    qmp::{QgaError, QmpError, Session},
    vm::{
        core::{Setback, Sight, StepReport as Report},
        guest::{AgentError, Channel},
    },
};

/// The first QEMU that goes on after a `device_del` of a vCPU under TCG; those before die at the next hot-plug or reset.
const UNPLUGS_UNDER_TCG: u32 = 10;

/// For one answer of the agent: that of an emulated guest on a busy host, which brings vCPUs online, takes its time.
const AGENT: Duration = Duration::from_secs(15);
/// For the guest to bring a vCPU online, or to let go of one.
const GUEST: Duration = Duration::from_secs(20);
/// For all of it.
const LONGEST: Duration = Duration::from_secs(28);
const LOOK: Duration = Duration::from_millis(200);
/// What QEMU's ids of hot-added vCPUs begin with.
pub(in crate::vm) const PREFIX: &str = "vcpu";

/// Brings the number of vCPUs that the guest uses to `wanted`, telling how far it has come. Cut short, some have come or
/// gone, and the guest may let go of one more.
pub(super) async fn set(hands: &Hands, brief: &Brief, wanted: u32) -> Done {
    let (session, up) = (hands.session()?, brief.up()?);
    let mut change = Change { hands, brief, session, used: up.in_effect.vcpus };
    let most = up.in_effect.max_vcpus;
    let work = async {
        if wanted < change.used {
            return change.remove(wanted).await;
        }
        change.add(wanted.min(most)).await?;
        if wanted > most {
            return Err(Setback::NotNow(format!("QEMU was started for at most {most} vCPUs")));
        }
        Ok(())
    };
    let late = |_| Err(Setback::NotNow(format!("the guest does not come to {wanted} vCPUs in time")));
    timeout(LONGEST, work).await.unwrap_or_else(late)?;
    Ok(Report::Done)
}

struct Change<'a> {
    hands: &'a Hands,
    brief: &'a Brief,
    session: Session,
    /// By the guest.
    used: u32,
}

impl Change<'_> {
    /// Fills the lowest free slots first: a gap below makes QEMU 7.2 and the guest stumble at the next reset.
    async fn add(&mut self, wanted: u32) -> Result<(), Setback> {
        let slots = slots(&self.session).await?;
        let present = slots.iter().filter(|slot| slot.qom_path.is_some()).count() as u32;
        // The agent holds some offline: those come back first.
        let held = self.used < present;
        let missing = wanted.saturating_sub(present);
        let added = if missing > 0 { missing.min(self.room().await?) } else { 0 };
        for (index, slot) in slots.iter().enumerate().filter(|(_, slot)| slot.qom_path.is_none()).take(added as usize) {
            let mut device = slot.props.clone();
            device.insert("driver".into(), slot.r#type.clone().into());
            device.insert("id".into(), format!("{PREFIX}{index}").into());
            // Raw: the properties are those that QEMU has told, whatever they are.
            self.session.execute_raw("device_add", Some(Value::Object(device))).await?;
            let binding = self.hands.binding().await;
            let present = self.present().await?;
            // A new thread inherits what the main thread is bound to; it runs the guest only when that brings it online.
            self.bind()?;
            drop(binding);
            self.tell(present, if held { self.used } else { present });
        }
        let there = wanted.min(present + added);
        if held {
            self.online(there).await?;
            self.tell(present + added, there);
        } else if self.brief.agent {
            // Guests bring new ones online by themselves; with an agent that is made sure of.
            match self.online(there).await {
                Err(Setback::NotNow(why)) => {
                    tracing::info!(vm = %self.hands.id, why, "new vCPUs are the guest's to use");
                }
                done => done?,
            }
        }
        if added < missing {
            let why = "an emulating QEMU has no place for another vCPU after so many came and went";
            return Err(Setback::NotNow(why.to_owned()));
        }
        Ok(())
    }

    /// How many vCPUs QEMU can still make. TCG has a place for as many as QEMU was started for, and none is given back when
    /// its vCPU goes: with one more QEMU aborts.
    async fn room(&self) -> Result<u32, Setback> {
        let kvm = self.session.execute(query_kvm {}).await?;
        Ok(if kvm.enabled { u32::MAX } else { self.brief.vcpu_room })
    }

    async fn remove(&mut self, wanted: u32) -> Result<(), Setback> {
        if self.survives_unplug(wanted).await? {
            self.unplug(wanted).await?;
        }
        if self.used > wanted {
            self.online(wanted).await?;
        }
        Ok(())
    }

    /// Whether vCPUs can be unplugged and plugged again. Asked of the QEMU that runs: the one on the host, and what
    /// accelerates it, may be others by now.
    async fn survives_unplug(&self, wanted: u32) -> Result<bool, Setback> {
        let kvm = self.session.execute(query_kvm {}).await?;
        let unplugs = self.session.version().major >= UNPLUGS_UNDER_TCG;
        Ok(kvm.enabled || (unplugs && self.brief.vcpu_room >= self.used.saturating_sub(wanted)))
    }

    /// `device_del` of hot-added vCPUs, the highest first; those of the boot stay.
    async fn unplug(&mut self, wanted: u32) -> Result<(), Setback> {
        // QEMU would keep the request, and do it at whatever time the guest goes on.
        self.needs_running_guest().await?;
        let slots = slots(&self.session).await?;
        for id in slots.iter().rev().filter_map(Slot::hot_added) {
            if self.used <= wanted {
                break;
            }
            let before = threads(&self.session).await?.len() as u32;
            match self.session.execute(device_del { id: id.to_owned() }).await {
                // Before a guest takes part in the hot-plug of vCPUs QEMU has no way to ask it.
                Err(QmpError::Refused { desc, .. }) => return Err(Setback::NotNow(desc)),
                outcome => outcome?,
            };
            let deadline = Instant::now() + GUEST;
            let mut present = self.present().await?;
            while present >= before {
                if Instant::now() > deadline {
                    return Err(Setback::NotNow(format!("the guest does not let go of {id}")));
                }
                sleep(LOOK).await;
                present = self.present().await?;
            }
            self.tell(present, self.used.min(present));
        }
        Ok(())
    }

    async fn needs_running_guest(&self) -> Result<(), Setback> {
        if self.session.query_status().await?.running {
            return Ok(());
        }
        Err(Setback::NotNow("a guest that does not run neither takes vCPUs into use nor lets go of them".to_owned()))
    }

    /// vCPUs that QEMU has.
    async fn present(&self) -> Result<u32, Setback> {
        let threads = threads(&self.session).await?;
        let count = threads.len() as u32;
        self.hands.set_threads(threads);
        Ok(count)
    }

    fn bind(&self) -> Result<(), Setback> {
        let (definition, process) = (self.brief.definition(), self.hands.process());
        let (Some(pinning), Some(process)) = (&definition.cpu_pinning, process) else { return Ok(()) };
        let (threads, host) = (self.hands.threads(), &self.hands.ctx.host);
        pinning::bind(process.pid(), &threads, Some(pinning), definition.vcpus, host).map_err(Setback::Refused)
    }

    fn tell(&mut self, present: u32, used: u32) {
        self.used = used;
        self.hands.see(Sight::Vcpus { present, used });
    }

    /// Has the agent bring the guest's number of vCPUs in use to `wanted`.
    async fn online(&self, wanted: u32) -> Result<(), Setback> {
        if !self.brief.agent {
            let why = "no guest agent answers that could change the number of vCPUs in use";
            return Err(Setback::NotNow(why.to_owned()));
        }
        // Its agent would find the question when it goes on, with nobody there to answer.
        self.needs_running_guest().await?;
        let deadline = Instant::now() + GUEST;
        while !set_online(&self.hands.agent, wanted).await.map_err(|e| Setback::NotNow(e.to_string()))? {
            if Instant::now() > deadline {
                return Err(Setback::NotNow(format!("the guest does not use {wanted} vCPUs")));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }
}

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

    /// QEMU's id of a vCPU that was not there from the boot on.
    fn hot_added(&self) -> Option<&str> {
        self.qom_path.as_deref()?.rsplit('/').next().filter(|id| id.starts_with(PREFIX))
    }
}

/// The places of vCPUs, in their order.
async fn slots(session: &Session) -> Result<Vec<Slot>, QmpError> {
    // Raw: qapi's type has no room for properties that a newer QEMU adds, and `device_add` has to give all of them back.
    let mut slots: Vec<Slot> = session.execute_as("query-hotpluggable-cpus", None).await?;
    slots.sort_by_key(Slot::order);
    Ok(slots)
}

/// Whether the guest uses `wanted` vCPUs now; if not, it is asked to.
async fn set_online(agent: &Arc<Channel>, wanted: u32) -> Result<bool, AgentError> {
    let mut turn = agent.turn(AGENT, AGENT).await?;
    let odd = |error: serde_json::Error| QgaError::Decode {
        command: guest_get_vcpus::NAME.to_owned(),
        error: error.to_string(),
    };
    let cpus = turn.execute(guest_get_vcpus::NAME, None).await?;
    let mut cpus: Vec<GuestLogicalProcessor> = serde_json::from_value(cpus).map_err(odd)?;
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
        turn.execute(guest_set_vcpus::NAME, Some(json!({ "vcpus": vcpus }))).await?;
    }
    Ok(online == wanted)
}
