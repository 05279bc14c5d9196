//! The daemon dies right before and right after every commit of a switch's operations, and again at every commit of the
//! recovery: the switch is there whole, with its bridge, rules and DHCP, or gone with all of it.

use crate::nics::links;
use crate::support::{
    Daemon,
    crash::Side,
    netns::{Host, nft},
};
use reqwest::Method;
use serde_json::{Value, json};

fn bridges() -> Vec<String> {
    let names = links().into_iter().map(|link| link["ifname"].as_str().unwrap().to_owned());
    names.filter(|name| name.starts_with("qhb")).collect()
}

/// The switch, if there is one; fails where something of it is without it, or it without something.
async fn whole_or_gone(daemon: &Daemon) -> Option<Value> {
    // Its DHCP, too.
    daemon.assert_in_order().await;
    let switches = daemon.get("/switches").await.expect(200);
    let rules = nft("list ruleset");
    let Some(switch) = switches.get(0) else {
        assert_eq!((bridges(), rules.as_str()), (vec![], ""));
        let folders = std::fs::read_dir(daemon.state().join("net")).unwrap().flatten();
        assert!(!folders.into_iter().any(|entry| entry.path().is_dir()), "a folder of a switch is left");
        return None;
    };
    assert_eq!((switches.as_array().unwrap().len(), &switch["problem"]), (1, &Value::Null), "{switches}");
    let bridge = switch["bridge"].as_str().unwrap();
    assert_eq!(bridges(), [bridge]);
    assert!(rules.contains(bridge), "{rules}");
    Some(switch.clone())
}

/// Does it once for each of its commits and each side of it; `allowed` says what a switch may have become of that was
/// (before, now), when it was answered or not.
async fn dies_at_every_commit_of(
    ask: impl Fn(&Daemon, &str) -> (Method, String, Value),
    begins_with_one: bool,
    commits: u64,
    allowed: impl Fn(Option<&Value>, Option<&Value>, bool) -> bool,
) {
    let host = Host::leave();
    let mut daemon = Daemon::start();
    let lan = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24" });
    'commits: for commit in 1.. {
        for side in Side::BOTH {
            let mut before = whole_or_gone(&daemon).await;
            if let (Some(switch), false) = (&before, begins_with_one) {
                daemon.delete(&format!("/switches/{}", switch["id"].as_str().unwrap())).await.expect(200);
                before = whole_or_gone(&daemon).await;
            }
            if begins_with_one && before.is_none() {
                daemon.post("/switches", lan.clone()).await.expect(201);
                before = whole_or_gone(&daemon).await;
            }
            daemon.kill();
            let command = daemon.dying_at(commit, side);
            daemon.run_as(command);
            let id = before.as_ref().map_or("", |switch| switch["id"].as_str().unwrap());
            let (method, path, body) = ask(&daemon, id);
            let request = daemon.http().request(method, daemon.at(&path)).json(&body);
            let answer = daemon.try_send(request).await;
            if let Some(answer) = &answer {
                assert!((200..300).contains(&answer.status), "{answer:?}");
                assert_eq!((commit - 1, side), (commits, Side::Before), "the commits of this operation");
                let now = whole_or_gone(&daemon).await;
                assert!(allowed(before.as_ref(), now.as_ref(), true), "{before:?} became {now:?}");
                break 'commits;
            }
            daemon.wait();
            daemon.recover_dying().await;
            let now = whole_or_gone(&daemon).await;
            assert!(
                allowed(before.as_ref(), now.as_ref(), false),
                "{side:?} commit {commit}: {before:?} became {now:?}"
            );
        }
    }
    // One that does not die any more.
    daemon.kill();
    daemon.run();
    for switch in daemon.get("/switches").await.expect(200).as_array().unwrap() {
        daemon.delete(&format!("/switches/{}", switch["id"].as_str().unwrap())).await.expect(200);
    }
    assert_eq!(whole_or_gone(&daemon).await, None);
    drop(daemon);
    host.assert_untouched();
}

#[tokio::test]
async fn a_new_switch_is_whole_or_gone() {
    let lan = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true });
    let create = |_: &Daemon, _: &str| (Method::POST, "/switches".to_owned(), lan.clone());
    dies_at_every_commit_of(create, false, 2, |_, now, answered| now.is_some() || !answered).await;
}

#[tokio::test]
async fn a_switch_that_is_deleted_is_whole_or_gone() {
    let delete = |_: &Daemon, id: &str| (Method::DELETE, format!("/switches/{id}"), json!({}));
    dies_at_every_commit_of(
        delete,
        true,
        2,
        |before, now, answered| if answered { now.is_none() } else { now.is_none() || before == now },
    )
    .await;
}

#[tokio::test]
async fn the_subnet_of_a_switch_is_the_old_or_the_new_one() {
    let change = |_: &Daemon, id: &str| (Method::PUT, format!("/switches/{id}"), json!({ "subnet": "10.78.0.0/24" }));
    let delete_first = |before: Option<&Value>, now: Option<&Value>, answered: bool| {
        let (before, now) = (before.unwrap(), now.unwrap());
        let new = now["subnet"] == "10.78.0.0/24" && now["host_address"] == "10.78.0.1";
        let old = now["subnet"] == "10.77.0.0/24" && now["host_address"] == "10.77.0.1";
        before["id"] == now["id"] && (new || !answered && old)
    };
    dies_at_every_commit_of(change, true, 1, delete_first).await;
}

#[tokio::test]
async fn the_notes_of_a_switch_are_the_old_or_the_new_ones() {
    let next = std::cell::Cell::new(0);
    let change = |_: &Daemon, id: &str| {
        next.set(next.get() + 1);
        (Method::PUT, format!("/switches/{id}"), json!({ "notes": format!("{}", next.get()) }))
    };
    let allowed = |before: Option<&Value>, now: Option<&Value>, answered: bool| {
        let (before, now) = (before.unwrap(), now.unwrap());
        let new = now["notes"] == format!("{}", next.get());
        before["id"] == now["id"] && (new || !answered && before["notes"] == now["notes"])
    };
    dies_at_every_commit_of(change, true, 1, allowed).await;
}
