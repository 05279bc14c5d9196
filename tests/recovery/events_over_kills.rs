//! Whoever follows the events over real kills of the daemon, at any commit, is told of every acknowledged change exactly once
//! and in order, and goes on where it was.

use std::collections::BTreeMap;

use crate::support::{Daemon, crash::Side};
use serde_json::{Value, json};

/// All that was told, by pages as a client reads them.
async fn all(daemon: &Daemon, after: &mut String, heard: &mut Vec<Value>) {
    loop {
        let page = daemon.get(&format!("/events?after={after}&wait=0&limit=7")).await.expect(200);
        let events = page["events"].as_array().unwrap();
        heard.extend(events.iter().cloned());
        *after = page["next"].as_str().unwrap().to_owned();
        if events.is_empty() {
            return;
        }
    }
}

#[tokio::test]
async fn every_acknowledged_change_is_told_once_over_a_kill_at_every_commit() {
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    daemon.run();
    let id = daemon.create(daemon.wish()).await;
    let (mut after, mut heard) = ("0".to_owned(), Vec::new());
    all(&daemon, &mut after, &mut heard).await;
    daemon.kill();
    let mut acknowledged = BTreeMap::new();
    let mut died = 0;
    for round in 0..12_u64 {
        daemon.forget_log();
        let side = Side::BOTH[(round % 2) as usize];
        let command = daemon.dying_at(round / 2 + 1, side);
        if daemon.try_run_as(command) {
            for number in 0..6 {
                let name = format!("{round}-{number}");
                let limits = json!({ "io_limits": { "iops": 100 + 10 * round + number } });
                let request = daemon.http().put(daemon.at(&format!("/vms/{id}/disk")));
                match request.header("x-request-id", &name).json(&limits).send().await {
                    Ok(answer) if answer.status() == 200 => drop(acknowledged.insert(name, 0)),
                    Ok(answer) => panic!("{}", answer.status()),
                    Err(_) => break,
                }
            }
            // One that has not come to its commit is killed all the same.
            daemon.kill();
        } else {
            daemon.wait();
        }
        died += u64::from(daemon.log_text().contains("dying at the fail point"));
        daemon.run();
        all(&daemon, &mut after, &mut heard).await;
        daemon.kill();
    }
    assert!(died >= 6, "{died}");
    let numbers: Vec<u64> = heard.iter().map(|event| event["seq"].as_u64().unwrap()).collect();
    assert!(numbers.iter().copied().eq(1..=numbers.len() as u64), "without a gap, and none twice: {numbers:?}");
    for event in heard.iter().filter(|event| event["type"] == "vm.changed") {
        for by in event["by"].as_array().unwrap() {
            // One that was not answered may have been done.
            *acknowledged.entry(by["request_id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    let wrong: Vec<_> = acknowledged.iter().filter(|(_, times)| **times != 1).collect();
    assert!(wrong.is_empty() && acknowledged.len() > 6, "{wrong:?} of {acknowledged:?}");
}
