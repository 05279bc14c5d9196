//! What carries NICs on the user-mode network beside QEMU: a passt for each, which outlives the daemon and is found again, and another
//! when it ends. QEMU listens for it all the while, so the guest keeps its NIC and its address, and loses the connections that it had
//! (docs/adr/0037). It ends by itself with QEMU, whose connection it lives by.

use std::{
    collections::BTreeMap,
    io,
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep, timeout},
};

use uuid::Uuid;

use crate::{
    host::{
        cgroups::Group,
        process::{self, Process},
        sandbox::Sandbox,
    },
    model::{self, Nic, NicId, VmId},
    net::passt::{self, Words},
    qmp::socket,
};

/// Before one that ended is started again; doubles up to the longest, and begins anew after a long life.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
const LONG_LIFE: Duration = Duration::from_secs(60);
/// SIGKILL takes some 5 ms with the namespaces that passt has made, unless it hangs in the kernel.
const END: Duration = Duration::from_secs(1);
/// QEMU serves one at a time, and lets go of one that has ended at once.
const CONNECT: Duration = Duration::from_secs(5);

/// Of one NIC.
#[derive(Clone)]
pub struct Carried {
    pub nic: Nic,
    /// Where its QEMU listens.
    pub listener: PathBuf,
    /// What its QEMU is kept in.
    pub sandbox: Arc<Sandbox>,
    pub run: model::Sandbox,
    pub group: Option<Group>,
}

/// How a NIC is carried.
#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Beginning,
    Carried,
    /// For this reason.
    Not(String),
}

/// Of all VMs.
#[derive(Default)]
pub struct Carriers(Mutex<BTreeMap<(VmId, NicId), Carrier>>);

struct Carrier {
    state: watch::Receiver<State>,
    /// Says that it is wanted no more. Where it goes without a word the daemon ends, and passt goes on.
    ended: watch::Sender<bool>,
}

impl Carriers {
    /// Sees to it that a NIC is carried for as long as nobody ends that; with `adopt` by whoever carries it already.
    pub fn begin(&self, vm: VmId, carried: Carried, adopt: bool) {
        let key = (vm, carried.nic.id);
        if adopt && self.all().contains_key(&key) {
            return;
        }
        self.let_go(key);
        let (sender, state) = watch::channel(State::Beginning);
        let (ended, end) = watch::channel(false);
        tokio::spawn(supervise(carried, adopt, sender, end));
        self.all().insert(key, Carrier { state, ended });
    }

    /// Waits until all NICs of a VM are carried.
    ///
    /// # Errors
    /// Why one is not.
    pub async fn begun(&self, vm: VmId) -> Result<(), String> {
        let states: Vec<_> =
            self.of(vm).into_iter().filter_map(|key| Some(self.all().get(&key)?.state.clone())).collect();
        for mut state in states {
            let begun = state.wait_for(|state| *state != State::Beginning).await;
            if let Ok(State::Not(why)) = begun.as_deref() {
                return Err(why.clone());
            }
        }
        Ok(())
    }

    /// Why a NIC that is to be carried is not.
    pub fn problem(&self, vm: VmId, nic: NicId) -> Option<String> {
        match &*self.all().get(&(vm, nic))?.state.borrow() {
            State::Not(why) => Some(why.clone()),
            State::Beginning | State::Carried => None,
        }
    }

    /// A NIC is carried no more. Returns when its ports of the host are free.
    pub async fn end(&self, vm: VmId, nic: NicId) {
        self.end_these([(vm, nic)]).await;
    }

    /// The same of all NICs of a VM.
    pub async fn end_all(&self, vm: VmId) {
        self.end_these(self.of(vm)).await;
    }

    async fn end_these(&self, these: impl IntoIterator<Item = (VmId, NicId)>) {
        let leaving: Vec<_> = these.into_iter().filter_map(|key| self.let_go(key)).collect();
        let gone = async {
            for mut state in leaving {
                while state.changed().await.is_ok() {}
            }
        };
        if timeout(END, gone).await.is_err() {
            tracing::warn!(
                "a passt that nobody needs any more does not end; its ports of the host are in use until it does"
            );
        }
    }

    /// The end of its states is the end of its process.
    fn let_go(&self, key: (VmId, NicId)) -> Option<watch::Receiver<State>> {
        let carrier = self.all().remove(&key)?;
        carrier.ended.send_replace(true);
        Some(carrier.state)
    }

    /// NICs of a VM that are carried.
    pub fn count(&self, vm: VmId) -> usize {
        self.of(vm).len()
    }

    fn of(&self, vm: VmId) -> Vec<(VmId, NicId)> {
        let all = self.all();
        let (first, last) = (NicId::from(Uuid::nil()), NicId::from(Uuid::max()));
        all.range((vm, first)..=(vm, last)).map(|(key, _)| *key).collect()
    }

    // Every change under the lock is whole, so a panic leaves nothing half done.
    fn all(&self) -> MutexGuard<'_, BTreeMap<(VmId, NicId), Carrier>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nothing here is dropped half-way: a process that nobody waits for stays in the kernel's table.
async fn supervise(carried: Carried, adopt: bool, state: watch::Sender<State>, mut end: watch::Receiver<bool>) {
    let mut pause = FIRST_PAUSE;
    let mut found = if adopt { carried.found().await } else { None };
    loop {
        let born = Instant::now();
        let begun = match found.take() {
            Some(process) => Ok((process, None)),
            None => carried.start().await.map(|(process, words)| (process, Some(words))),
        };
        let why = match begun {
            Ok((process, words)) => {
                state.send_replace(State::Carried);
                tokio::select! {
                    _ = process.exited() => {}
                    is_end = is_ended(&mut end) => {
                        // Without a word the daemon ends.
                        if is_end {
                            process.kill();
                            process.exited().await;
                        }
                        return;
                    }
                }
                let said = words.map(Words::read).filter(|said| !said.is_empty());
                said.map_or_else(|| "passt has ended".to_owned(), |said| format!("passt has ended: {said}"))
            }
            Err(error) => format!("passt cannot be started: {error}"),
        };
        if born.elapsed() > LONG_LIFE {
            pause = FIRST_PAUSE;
        }
        state.send_replace(State::Not(why.clone()));
        tokio::select! {
            () = sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            _ = is_ended(&mut end) => return,
        }
        tracing::warn!(nic = %carried.nic.id, why, "a NIC on the user-mode network is not carried; starting another passt");
    }
}

/// Whether somebody has said so; else there is nobody left to.
async fn is_ended(end: &mut watch::Receiver<bool>) -> bool {
    end.wait_for(|ended| *ended).await.is_ok()
}

impl Carried {
    async fn start(&self) -> io::Result<(Process, Words)> {
        // Before QEMU executes a thing the connection waits in its socket.
        let qemu = socket::connect(&self.listener, CONNECT).await?.into_std()?;
        qemu.set_nonblocking(false)?;
        let carried = self.clone();
        spawn_blocking(move || carried.spawn(qemu)).await.map_err(io::Error::other)?
    }

    fn spawn(&self, qemu: UnixStream) -> io::Result<(Process, Words)> {
        let forwards = self.nic.backend.forwards();
        let maps_router = passt::Task::needs_router_mapped(forwards);
        let cell = self.sandbox.cell_beside(&self.run, self.group.as_ref())?;
        passt::spawn(&passt::Task { mac: self.nic.mac, forwards, maps_router }, qemu, cell)
    }

    /// The one that an earlier daemon started: it is in the VM's group, or at least the VM's own user. The address alone proves
    /// nothing, as a copy of a state directory has the same.
    async fn found(&self) -> Option<Process> {
        let (mac, group, uid) = (self.nic.mac, self.group.clone(), self.run.uid);
        let found = spawn_blocking(move || {
            let is_grouped = group.is_some();
            let among = group.map(|group| group.processes());
            let mut found = passt::running(mac, among.as_deref()).unwrap_or_else(|error| {
                tracing::warn!(%error, "whether a passt of an earlier daemon carries a NIC is not seen; starting another");
                Vec::new()
            });
            found.retain(|process| is_grouped || (uid.is_some() && process::user(process.pid()) == uid));
            found
        });
        let mut found = found.await.ok()?;
        let first = found.pop();
        // One is enough.
        found.iter().for_each(Process::kill);
        first
    }
}
