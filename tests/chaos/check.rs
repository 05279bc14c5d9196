//! Looks from outside, once nothing is under way, whether all is as it was acknowledged and nothing belongs to nobody.

use serde_json::Value;

use super::{
    client::{Place, subnets},
    model::Vm,
    network,
    operation::Definition,
    switch,
};
use crate::support::{
    Daemon,
    guest::Beat,
    outside::{self, Known, Qemu},
};

/// What is wrong; what may be this or that is settled to what it is.
pub async fn complaints(daemon: &Daemon, places: &mut [Place]) -> Vec<String> {
    let mut wrong = daemon.lasting_complaints().await;
    wrong.extend(network::lasting_complaints(daemon).await);
    let known = daemon.known().await;
    let qemus = outside::qemus(&daemon.state());
    for place in places.iter_mut() {
        let Some(vm) = &mut place.vm else { continue };
        // An id where there is one, else the name: nobody was told the id.
        let found = known.iter().find(|known| match &vm.id {
            Some(id) => known.id == *id,
            None => known.name == vm.name,
        });
        match found {
            None if vm.may_be_absent => place.vm = None,
            None => {
                wrong.push(format!("{} is gone, and nobody was told that it is deleted: {vm:?}", vm.name));
                place.vm = None;
            }
            Some(known) => wrong.extend(one(daemon, vm, known, &qemus).await),
        }
    }
    for known in &known {
        if places.iter().all(|place| place.vm.as_ref().is_none_or(|vm| vm.id.as_ref() != Some(&known.id))) {
            wrong.push(format!("{} {} ({}) is deleted, or was never created", known.name, known.id, known.status));
        }
    }
    // By now it is known which NICs there are.
    wrong.extend(switches(daemon, places).await);
    wrong
}

/// That each acknowledged switch is there, and no other.
async fn switches(daemon: &Daemon, places: &mut [Place]) -> Vec<String> {
    let listed = daemon.get("/switches").await.expect(200);
    let mut unowned: Vec<&Value> = listed.as_array().unwrap().iter().collect();
    let mut wrong = Vec::new();
    for (number, place) in places.iter_mut().enumerate() {
        let Some(switch) = &mut place.switch else { continue };
        let found = unowned.iter().position(|known| match &switch.id {
            Some(id) => known["id"] == id.as_str(),
            None => known["name"] == switch.name.as_str(),
        });
        match found.map(|at| unowned.swap_remove(at)) {
            Some(known) => {
                switch.id = known["id"].as_str().map(str::to_owned);
                switch.may_be_absent = false;
                if !known["problem"].is_null() {
                    wrong.push(format!("{} has a problem: {known}", switch.name));
                }
                let nics = place.vm.as_ref().map(|vm| vm.definition().nics).unwrap_or_default();
                let may_be = switch.definitions.iter().map(|one| one.clone().with_nics(|nic| nics.contains(&nic)));
                let may_be: Vec<_> = may_be.collect();
                let leads = may_be.iter().flat_map(|one| one.forwards.clone()).collect();
                let path = format!("/switches/{}/forwards", known["id"].as_str().unwrap());
                let forwards = daemon.get(&path).await.expect(200);
                let is = switch::Definition::read(known, &forwards, &subnets(number), &leads);
                if !may_be.contains(&is) {
                    wrong.push(format!("{} is {is:?}, and should be one of {may_be:?}", switch.name));
                }
                switch.definitions = vec![is];
            }
            None if switch.may_be_absent => place.switch = None,
            None => {
                wrong.push(format!("{switch:?} is gone, and nobody was told that it is deleted"));
                place.switch = None;
            }
        }
    }
    wrong.extend(unowned.iter().map(|known| format!("a switch is deleted, or was never created: {known}")));
    wrong
}

async fn one(daemon: &Daemon, vm: &mut Vm, known: &Known, qemus: &[Qemu]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut complain = |what: String| wrong.push(format!("{} {}: {what}", known.name, known.id));
    let statuses = ["running", "stopped", "crashed", "paused"];
    let status = statuses.into_iter().find(|status| *status == known.status).unwrap_or("in between");
    if !vm.statuses.contains(&status) {
        complain(format!("is {}, and should be {:?}", known.status, vm.statuses));
    }
    let process = qemus.iter().find(|qemu| qemu.vm == known.id).map(|qemu| qemu.process);
    if ["running", "paused"].contains(&status) && vm.process.is_some() && vm.process != process {
        complain(format!("was {:?} and is {process:?}", vm.process));
    }
    let config = daemon.get(&format!("/vms/{}/config", known.id)).await.expect(200);
    let disks = daemon.get(&format!("/vms/{}/disks", known.id)).await.expect(200);
    let networks = daemon.get(&format!("/vms/{}/networks", known.id)).await.expect(200);
    let definition = Definition::read(&config, &disks, &networks);
    if !vm.definitions.contains(&definition) {
        complain(format!("is defined as {definition:?}, and should be one of {:?}", vm.definitions));
    }
    let (boots, gap) = beats(&daemon.console(&known.id).await);
    if let Some(gap) = gap {
        complain(format!("its heartbeat has a gap: {gap}"));
    }
    vm.observe(&known.id, definition, status, process);
    let known_boots = vm.boot.as_ref().and_then(|boot| boots.iter().rposition(|other| other == boot));
    let new = boots.len() - known_boots.map_or(0, |index| index + 1);
    if new > vm.boots_due {
        complain(format!("its guest was {:?} and booted {new} times, not {}: {boots:?}", vm.boot, vm.boots_due));
    }
    vm.boots_due -= new.min(vm.boots_due);
    vm.boot = boots.last().cloned();
    wrong
}

/// The guest's boots, and a gap in the heartbeats of one of them.
fn beats(text: &str) -> (Vec<String>, Option<String>) {
    // The last line may be half written.
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let beats: Vec<Beat> = whole.lines().filter_map(Beat::parse).collect();
    let mut boots: Vec<String> = beats.iter().map(|beat| beat.boot.clone()).collect();
    boots.dedup();
    let gap = beats.windows(2).find(|two| two[0].boot == two[1].boot && two[1].beat != two[0].beat + 1);
    (boots, gap.map(|two| format!("{two:?}")))
}
