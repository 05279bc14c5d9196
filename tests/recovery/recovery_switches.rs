//! Every state that the record of a switch can say is met, at the start of the daemon, with every part of the switch that
//! the host may lack. The states are taken from the type itself, as in `recovery_states.rs`.

use crate::support;

use std::collections::BTreeSet;

use crate::nics::links;
use crate::support::{
    Daemon,
    netns::{Host, ip, nft},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use qherd::{
    model::{SwitchRecord, SwitchState},
    store::{Batch, Store},
};
use serde_json::{Value, json};

/// The state's name, as the record spells it. Without a `_`, so that a new state has to come here.
fn name(state: SwitchState) -> &'static str {
    match state {
        SwitchState::Creating => "creating",
        SwitchState::Ready => "ready",
        SwitchState::Deleting => "deleting",
    }
}

const STATES: [SwitchState; 3] = [SwitchState::Creating, SwitchState::Ready, SwitchState::Deleting];

/// What of a switch is not there any more, or not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lacks {
    Nothing,
    Bridge,
    Dhcp,
    /// Its process, its configuration and its leases.
    DhcpAndFolder,
    All,
}

const LACKS: [Lacks; 5] = [Lacks::Nothing, Lacks::Bridge, Lacks::Dhcp, Lacks::DhcpAndFolder, Lacks::All];

/// The values of the type, out of the complaint about one that it does not have.
fn values() -> BTreeSet<String> {
    let complaint = serde_json::from_value::<SwitchState>(json!("?")).unwrap_err().to_string();
    let (_, list) = complaint.split_once("expected").unwrap();
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn short(id: &str) -> String {
    id.replace('-', "")[..12].to_owned()
}

fn bridges() -> BTreeSet<String> {
    let names = links().into_iter().map(|link| link["ifname"].as_str().unwrap().to_owned());
    names.filter(|name| name.starts_with("qhb")).collect()
}

fn take_away(daemon: &Daemon, id: &str, lacks: Lacks) {
    if [Lacks::Bridge, Lacks::All].contains(&lacks) {
        ip(&format!("link delete qhb{}", short(id)));
    }
    if [Lacks::Dhcp, Lacks::DhcpAndFolder, Lacks::All].contains(&lacks) {
        let folder = daemon.state().join("net").join(short(id));
        let mine = |process: &procfs::process::Process| {
            let line = process.cmdline().unwrap_or_default();
            line.iter().any(|word| word.contains(folder.to_str().unwrap()))
        };
        for process in procfs::process::all_processes().unwrap().flatten().filter(mine) {
            kill(Pid::from_raw(process.pid), Signal::SIGKILL).unwrap();
        }
        if lacks != Lacks::Dhcp {
            std::fs::remove_dir_all(&folder).unwrap();
        }
    }
}

#[tokio::test]
async fn every_state_of_a_switch_is_finished_or_unwound() {
    every_state(true).await;
}

#[tokio::test]
async fn without_the_rules_every_state_of_a_switch_is_finished_or_unwound() {
    every_state(false).await;
}

async fn every_state(rules: bool) {
    assert_eq!(values(), STATES.map(name).map(str::to_owned).into(), "every state of the type has its place here");
    let host = Host::leave();
    let mut daemon = Daemon::start();
    let mut switches = Vec::new();
    for (at, (state, lacks)) in STATES.iter().flat_map(|state| LACKS.map(|lacks| (*state, lacks))).enumerate() {
        let body = json!({ "name": format!("lan{at}"), "type": "internal", "subnet": format!("10.77.{at}.0/24") });
        let id = daemon.post("/switches", body).await.expect(201)["id"].as_str().unwrap().to_owned();
        switches.push((id, state, lacks));
    }
    daemon.kill();
    let store = Store::open(&daemon.state().join("db")).unwrap();
    for (id, state, lacks) in &switches {
        let mut record: SwitchRecord = store.get(id).unwrap().unwrap();
        record.state = *state;
        store.commit(Batch::new().put(id, &record).unwrap()).await.unwrap();
        take_away(&daemon, id, *lacks);
    }
    drop(store);
    if !rules {
        nft("flush ruleset");
    }
    let deaths = daemon.recover_dying().await;
    assert!(deaths > 2, "{deaths} deaths: the recovery was not cut short");
    // Its DHCP included.
    daemon.assert_in_order().await;
    let ready = |state: SwitchState| state == SwitchState::Ready;
    let mut wanted = BTreeSet::new();
    for (id, state, lacks) in &switches {
        let answer = daemon.get(&format!("/switches/{id}")).await;
        assert_eq!(answer.status, if ready(*state) { 200 } else { 404 }, "{state:?} lacking {lacks:?}: {answer:?}");
        if ready(*state) {
            assert_eq!(answer.body["problem"], Value::Null, "lacking {lacks:?}: {answer:?}");
            wanted.insert(format!("qhb{}", short(id)));
        }
        let rules = nft("list ruleset").contains(&short(id));
        assert_eq!(rules, ready(*state), "the rules of one that was {state:?} and lacked {lacks:?}");
    }
    assert_eq!(bridges(), wanted);
    for (id, ..) in switches.iter().filter(|(_, state, _)| ready(*state)) {
        daemon.delete(&format!("/switches/{id}")).await.expect(200);
    }
    daemon.assert_in_order().await;
    assert_eq!((bridges(), nft("list ruleset")), (BTreeSet::new(), String::new()));
    drop(daemon);
    host.assert_untouched();
}

#[tokio::test]
async fn the_rules_of_other_switches_stay_in_while_one_is_unwound() {
    let host = Host::leave();
    let mut daemon = Daemon::start();
    let mut ids = Vec::new();
    for name in ["one", "two"] {
        let made = daemon.post("/switches", json!({ "name": name, "type": "private" })).await.expect(201);
        ids.push(made["id"].as_str().unwrap().to_owned());
    }
    daemon.kill();
    // The one that the start comes to first.
    ids.sort();
    let store = Store::open(&daemon.state().join("db")).unwrap();
    let mut record: SwitchRecord = store.get(&ids[0]).unwrap().unwrap();
    record.state = SwitchState::Deleting;
    store.commit(Batch::new().put(&ids[0], &record).unwrap()).await.unwrap();
    drop(store);
    // It goes with the tables, and nobody puts it in again.
    let state = support::network_mark(&daemon.state());
    nft(&format!("add counter bridge qherd_{state} mark_of_the_test"));
    daemon.run();
    assert_eq!(bridges(), [format!("qhb{}", short(&ids[1]))].into());
    assert!(nft("list ruleset").contains("mark_of_the_test"), "all rules were taken out for a moment");
    drop(daemon);
    host.assert_untouched();
}
