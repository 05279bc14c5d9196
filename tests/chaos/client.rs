//! Carries a cycle of the plan out: asks, mistreats, kills, and notes what was said.

use std::{cell::RefCell, time::Duration};

use futures_util::future::join_all;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{
    Tally, aside,
    model::{Outcome, Vm},
    operation::{self, Around, Operation, Target},
    plan::{BARE, Cycle, Death, Deed, Lane, Violence},
    subscriber::told_as,
    switch::{self, Switch},
};
use crate::support::{Daemon, guest, outside};

/// What the lanes share of a cycle.
pub struct Client<'a> {
    pub daemon: &'a Daemon,
    /// What is wrong, as far as it is seen while asking.
    pub wrong: RefCell<Vec<String>>,
    /// Requests, and what each must have been told as.
    pub acknowledged: RefCell<Vec<(String, &'static str)>>,
    pub tally: RefCell<&'a mut Tally>,
}

/// The place of one VM and one switch, and how many it has had.
#[derive(Default)]
pub struct Place {
    pub vm: Option<Vm>,
    pub generation: u64,
    pub switch: Option<Switch>,
    pub switches: u64,
}

/// What switches of a place may have.
pub fn subnets(place: usize) -> [String; 2] {
    [77, 78].map(|second| format!("10.{second}.{place}.0/24"))
}

impl Client<'_> {
    /// Until the daemon is dead. Returns the processes that are to be continued when the next one is there.
    pub async fn carry_out(&self, cycle: &Cycle, places: &mut [Place]) -> Vec<i32> {
        let busy: Vec<usize> = cycle.lanes.iter().map(|lane| lane.place).collect();
        let mut hanging = Vec::new();
        let lanes = async {
            let places = places.iter_mut().enumerate();
            let lanes = places.map(|(number, place)| {
                let lane = cycle.lanes.iter().find(|lane| lane.place == number);
                let violence: Vec<Violence> =
                    cycle.violence.iter().filter(|violence| violence.place == number).copied().collect();
                let busy = busy.contains(&number);
                async move { self.place(number, place, lane, &violence, busy).await }
            });
            hanging = join_all(lanes).await.into_iter().flatten().collect();
        };
        match cycle.death {
            Death::At(after) => {
                let death = async {
                    sleep(Duration::from_millis(after)).await;
                    self.daemon.signal(Signal::SIGKILL);
                };
                tokio::join!(lanes, death, self.read());
            }
            Death::WhenDone => {
                let end = async {
                    lanes.await;
                    self.daemon.signal(Signal::SIGKILL);
                };
                tokio::join!(end, self.read());
            }
            Death::Commit(..) => {
                // A daemon that has not come to its commit by then dies all the same.
                let end = async {
                    tokio::select! {
                        () = lanes => {}
                        () = async { sleep(Duration::from_secs(4)).await; self.daemon.signal(Signal::SIGKILL); std::future::pending().await } => {}
                    }
                    self.daemon.signal(Signal::SIGKILL);
                };
                tokio::join!(end, self.read());
            }
        }
        hanging
    }

    /// One place: what it is asked, and what is done to it meanwhile.
    async fn place(
        &self,
        number: usize,
        place: &mut Place,
        lane: Option<&Lane>,
        violence: &[Violence],
        busy: bool,
    ) -> Vec<i32> {
        // The deeds first, as one that is known before a request is judged by it.
        let id = place.vm.as_ref().and_then(|vm| vm.id.clone());
        let done = RefCell::new(Vec::new());
        let mut hanging = Vec::new();
        let deeds = async {
            for violence in violence {
                let Some(id) = &id else { continue };
                sleep(Duration::from_millis(violence.at)).await;
                hanging.extend(self.mistreat(id, violence.deed, &done).await);
            }
        };
        let asking = async {
            if let Some(lane) = lane {
                self.ask_all(number, place, lane, &done).await;
            }
        };
        tokio::join!(deeds, asking);
        if let Some(vm) = &mut place.vm
            && vm.id == id
            && !vm.is_gone()
        {
            done.take().into_iter().for_each(|deed| vm.mistreat(deed, busy));
        }
        hanging
    }

    async fn mistreat(&self, id: &str, deed: Deed, done: &RefCell<Vec<Deed>>) -> Option<i32> {
        let qemu = outside::qemus(&self.daemon.state()).into_iter().find(|qemu| qemu.vm == id)?;
        let pid = Pid::from_raw(qemu.process.pid);
        done.borrow_mut().push(deed);
        match deed {
            Deed::Kill => {
                self.tally.borrow_mut().qemus_killed += u64::from(kill(pid, Signal::SIGKILL).is_ok());
                None
            }
            Deed::Hang(time) => {
                self.tally.borrow_mut().qemus_stopped += u64::from(kill(pid, Signal::SIGSTOP).is_ok());
                sleep(Duration::from_millis(time)).await;
                let _ = kill(pid, Signal::SIGCONT);
                None
            }
            Deed::HangOverRestart => {
                self.tally.borrow_mut().qemus_stopped += u64::from(kill(pid, Signal::SIGSTOP).is_ok());
                Some(pid.as_raw())
            }
        }
    }

    async fn ask_all(&self, number: usize, place: &mut Place, lane: &Lane, done: &RefCell<Vec<Deed>>) {
        for step in &lane.steps {
            sleep(Duration::from_millis(step.pause)).await;
            let operation = match &place.vm {
                None => &step.create,
                Some(vm) if !vm.statuses.contains(&"running") => &step.asleep,
                Some(_) => &step.operation,
            };
            if place.vm.is_none() {
                place.generation += 1;
                place.vm = Some(Vm::asked_for(format!("chaos-{number}-{}", place.generation)));
            }
            let Some(vm) = &mut place.vm else { return };
            let (lowest, defined) =
                (vm.definition().nics.first().copied(), place.switch.as_ref().map(Switch::definition));
            let volume = match operation {
                Operation::AttachVolume(_) => self.lonely(|_| true).await.map(|(_, size)| size),
                _ => None,
            };
            let operation = &operation.meeting(Around {
                volume,
                switch: place.switch.is_some(),
                private: defined.as_ref().is_some_and(|switch| switch.subnet.is_none()),
                nic: lowest.is_some(),
                forward: defined.is_some_and(|switch| !switch.forwards.is_empty()),
            });
            if matches!(operation, Operation::MakeSwitch { .. }) {
                place.switches += 1;
            }
            let name = format!("switch-{number}-{}", place.switches);
            let switch = place.switch.as_ref().and_then(|switch| switch.id.as_deref()).unwrap_or_default();
            let Some((outcome, answer)) = self.ask(number, vm, (&name, switch), operation, done).await else {
                // It was not even sent.
                if vm.definitions.is_empty() {
                    place.vm = None;
                }
                return;
            };
            if outcome == Outcome::Acknowledged && matches!(operation, Operation::Create { .. }) {
                vm.id = answer["id"].as_str().map(str::to_owned);
            }
            vm.learn(operation, outcome);
            let there = if vm.is_gone() { Default::default() } else { vm.definition().nics };
            switch::learn(&mut place.switch, operation, outcome, (&name, answer["id"].as_str()), lowest);
            // What leads to a NIC goes with it.
            if let Some(switch) = &mut place.switch
                && outcome == Outcome::Acknowledged
            {
                let live = |switch: switch::Definition| switch.with_nics(|nic| there.contains(&nic));
                switch.definitions = switch.definitions.drain(..).map(live).collect();
            }
            if outcome == Outcome::Unanswered {
                return;
            }
            if vm.is_gone() {
                place.vm = None;
            }
        }
    }

    /// None where the daemon was gone before it could be asked.
    async fn ask(
        &self,
        number: usize,
        vm: &Vm,
        (switch, switch_id): (&str, &str),
        operation: &Operation,
        done: &RefCell<Vec<Deed>>,
    ) -> Option<(Outcome, Value)> {
        let base = if number < BARE { json!("blank.raw") } else { json!(guest::image()) };
        let id = vm.id.clone().unwrap_or_default();
        let mut disk = String::new();
        if matches!(operation, Operation::RemoveDisk | Operation::KeepDisk) {
            let disks = self.daemon.try_get(&format!("/vms/{id}/disks")).await?;
            let further = disks.as_array()?.iter().skip(1);
            disk = further.min_by_key(|disk| disk["disk_size"].as_u64())?["name"].as_str()?.to_owned();
        }
        let mut nic = String::new();
        if matches!(operation, Operation::RemoveNic | Operation::AddForward(_)) {
            let networks = self.daemon.try_get(&format!("/vms/{id}/networks")).await?;
            nic = operation::nics(&networks).min()?.1.to_owned();
        }
        let mut forward = String::new();
        if *operation == Operation::RemoveForward {
            let forwards = self.daemon.try_get(&format!("/switches/{switch_id}/forwards")).await?;
            let lowest = forwards.as_array()?.iter().min_by_key(|forward| forward["host_port"].as_u64())?;
            forward = lowest["id"].as_str()?.to_owned();
        }
        let mut volume = String::new();
        if let Operation::AttachVolume(wanted) = operation {
            volume = self.lonely(|size| size == *wanted).await?.0;
        }
        let subnets = subnets(number);
        let (name, now) = (vm.name.as_str(), vm.definition());
        let theirs = self.daemon.dir.path().join("theirs");
        let target =
            Target { base, name, id: &id, now, disk, nic, switch, switch_id, subnets, forward, theirs, volume };
        let (method, path, body) = operation.request(&target);
        let (request_id, is_aside) = {
            let mut tally = self.tally.borrow_mut();
            tally.operations += 1;
            tally.named += 1;
            (format!("request-{}", tally.named), tally.named.is_multiple_of(aside::EVERY))
        };
        let request = self.daemon.http().request(method, self.daemon.at(&path)).json(&body);
        let request = request.header("x-request-id", &request_id);
        let request = if is_aside { request.header("prefer", "respond-async") } else { request };
        let (outcome, answer) = match request.send().await {
            Err(error) if error.is_timeout() => {
                self.complain(format!("{} {operation:?} was not answered: {error:?}", vm.name));
                (Outcome::Unanswered, Value::Null)
            }
            Err(error) if error.is_connect() => {
                self.tally.borrow_mut().operations -= 1;
                return None;
            }
            Err(_) => (Outcome::Unanswered, Value::Null),
            Ok(response) => {
                let (status, place) = (response.status().as_u16(), response.headers().get("location").cloned());
                // A head without its body tells enough.
                let answer: Value = response.json().await.unwrap_or_default();
                let (status, answer) = match place {
                    None => (status, answer),
                    Some(place) => {
                        self.tally.borrow_mut().aside += 1;
                        let ended = aside::follow(self.daemon, place.to_str().unwrap(), operation).await;
                        // Where the daemon has died over it, that is told of by the next one.
                        ended.unwrap_or((0, Value::Null))
                    }
                };
                let outcome = match status {
                    0 => Outcome::Unanswered,
                    200..300 => Outcome::Acknowledged,
                    409 => Outcome::Refused,
                    // A disk that was there already stays anyhow.
                    400 if *operation == Operation::KeepDisk => Outcome::Refused,
                    // There is no such image.
                    404 if matches!(operation, Operation::DeleteImage | Operation::CloneDisk(_)) => Outcome::Refused,
                    500 | 503 if !done.borrow().is_empty() => Outcome::Refused,
                    _ => {
                        self.complain(format!("{} {operation:?} was answered {status} {answer}", vm.name));
                        Outcome::Refused
                    }
                };
                let makes = matches!(operation, Operation::Create { .. } | Operation::MakeSwitch { .. });
                if outcome == Outcome::Acknowledged && answer.is_null() && makes {
                    (Outcome::Unanswered, answer)
                } else {
                    (outcome, answer)
                }
            }
        };
        if let (Outcome::Acknowledged, Some(kind)) = (outcome, told_as(operation)) {
            self.acknowledged.borrow_mut().push((request_id, kind));
        }
        let mut tally = self.tally.borrow_mut();
        *match outcome {
            Outcome::Acknowledged => &mut tally.acknowledged,
            Outcome::Refused => &mut tally.refused,
            Outcome::Unanswered => &mut tally.unanswered,
        } += 1;
        Some((outcome, answer))
    }

    /// The id and the size of a volume that nobody has.
    async fn lonely(&self, wanted: impl Fn(u64) -> bool) -> Option<(String, u64)> {
        let volumes = self.daemon.try_get("/volumes").await?;
        let mut lonely = volumes.as_array()?.iter().filter(|volume| volume["attached"].is_null());
        lonely.find_map(|volume| {
            let size = volume["disk_size"].as_u64().filter(|size| wanted(*size))?;
            Some((volume["id"].as_str()?.to_owned(), size))
        })
    }

    /// Reads all there is to read, until the daemon is gone.
    async fn read(&self) {
        loop {
            let Some(vms) = self.daemon.try_get("/vms").await else { return };
            if self.daemon.try_get("/switches").await.is_none() {
                return;
            }
            for vm in vms.as_array().unwrap() {
                for what in ["", "/config", "/status", "/disks", "/networks", "/performance", "/console/log?tail=3"] {
                    let path = format!("/vms/{}{what}", vm["id"].as_str().unwrap());
                    let request = self.daemon.http().request(Method::GET, self.daemon.at(&path));
                    let Some(answer) = self.daemon.try_send(request).await else { return };
                    self.tally.borrow_mut().reads += 1;
                    if ![200, 404].contains(&answer.status) {
                        self.complain(format!("GET {path} was answered {answer:?}"));
                    }
                }
                sleep(Duration::from_millis(5)).await;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    fn complain(&self, what: String) {
        self.wrong.borrow_mut().push(what);
    }
}
