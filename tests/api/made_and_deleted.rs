//! A client whose answer was lost asks again under its `Idempotency-Key`, after the daemon has died at one of its commits and
//! after somebody else has deleted what it had made: it is told so, and nothing is made a second time.

use std::collections::BTreeSet;

use crate::support::{Daemon, crash::Side, netns};
use serde_json::{Value, json};

/// What is made, and where it is found and deleted.
struct Thing {
    /// It is made by a POST to this path, and listed there.
    path: String,
    body: Value,
    /// Where it is deleted, with its id or name behind it.
    deleted_at: String,
    /// The field that tells one from the others.
    named: &'static str,
}

impl Thing {
    fn of(path: &str, body: Value) -> Self {
        Self { path: path.to_owned(), body, deleted_at: path.to_owned(), named: "id" }
    }

    async fn list(&self, daemon: &Daemon) -> BTreeSet<String> {
        let list = daemon.get(&self.path).await.expect(200);
        list.as_array().unwrap().iter().map(|one| one[self.named].as_str().unwrap().to_owned()).collect()
    }

    async fn delete(&self, daemon: &Daemon, name: &str) {
        daemon.delete(&format!("{}/{name}", self.deleted_at)).await.expect(200);
    }

    /// The answer, and whether it is one that was stored before; none where the daemon died over it.
    async fn post(&self, daemon: &Daemon, key: &str) -> Option<(u16, Value, bool)> {
        let request = daemon.http().post(daemon.at(&self.path)).header("idempotency-key", key).json(&self.body);
        let response = request.send().await.ok()?;
        let replayed = response.headers().contains_key("idempotency-replayed");
        Some((response.status().as_u16(), response.json().await.ok()?, replayed))
    }

    /// At each of the commits of a request the daemon dies once. It may make some of its own beside them: where that has kept the
    /// sweep from the one that matters, there is another sweep.
    async fn is_made_once(&self, daemon: &mut Daemon) {
        let known = self.list(daemon).await;
        let (mut made, mut unmade) = (0, 0);
        for sweep in 0.. {
            for commit in 1.. {
                let key = format!("{}:{}:{sweep}:{commit}", self.path, self.body.to_string().len());
                let died = self.asked_and_died(daemon, &key, commit).await;
                let there = self.list(daemon).await;
                let new: Vec<_> = there.difference(&known).cloned().collect();
                self.delete_but(daemon, &known).await;
                if !died {
                    break;
                }
                for _ in 0..2 {
                    let (status, body, replayed) = self.post(daemon, &key).await.unwrap();
                    if new.is_empty() {
                        assert_eq!(status, 201, "{body}");
                        unmade += 1;
                        continue;
                    }
                    // The last commit is the answer's: it was stored, and not sent.
                    assert_eq!(status, if replayed { 201 } else { 410 }, "{} {commit}: {body}", self.path);
                    assert!(replayed || body.to_string().contains("has been deleted since"), "{body}");
                    assert_eq!(self.list(daemon).await, known, "{}", self.path);
                    made += u32::from(!replayed);
                }
                self.delete_but(daemon, &known).await;
            }
            if made > 0 && unmade > 0 {
                return;
            }
            assert!(sweep < 5, "{}: made {made} times, not made {unmade} times", self.path);
        }
    }

    /// Whether the daemon has died over the request; another one runs then.
    async fn asked_and_died(&self, daemon: &mut Daemon, key: &str, commit: u64) -> bool {
        daemon.kill();
        let dying = daemon.dying_at(commit, Side::After);
        let answer = match daemon.try_run_as(dying) {
            true => self.post(daemon, key).await,
            // It was a commit of its start.
            false => None,
        };
        if let Some((status, body, _)) = &answer {
            assert_eq!(*status, 201, "{body}");
        }
        daemon.kill();
        daemon.run();
        answer.is_none()
    }

    async fn delete_but(&self, daemon: &Daemon, known: &BTreeSet<String>) {
        for name in self.list(daemon).await.difference(known) {
            self.delete(daemon, name).await;
        }
    }
}

#[tokio::test]
async fn a_vm_that_was_deleted_is_not_made_again_for_a_lost_answer() {
    let mut daemon = Daemon::start();
    let mut wish = daemon.wish();
    Thing::of("/vms", wish.clone()).is_made_once(&mut daemon).await;
    wish["start"] = json!(true);
    Thing::of("/vms", wish).is_made_once(&mut daemon).await;
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
    let document = daemon.get("/openapi.json").await.expect(200);
    assert!(document["paths"]["/vms"]["post"]["responses"]["410"].is_object(), "it says so");
}

#[tokio::test]
async fn nor_is_a_disk_a_nic_a_switch_or_a_forward() {
    let _host = netns::Host::leave();
    let mut daemon = Daemon::start();
    let lan = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true });
    let lan = daemon.post("/switches", lan).await.expect(201)["id"].as_str().unwrap().to_owned();
    let mut wish = daemon.wish();
    wish["networks"] = json!([{ "switch": lan }]);
    let vm = daemon.create(wish).await;
    let of_vm = |what: &str| format!("/vms/{vm}/{what}");
    let disk = Thing { named: "name", ..Thing::of(&of_vm("disks"), json!({ "disk_size": 1 })) };
    let forward = json!({ "protocol": "tcp", "host_port": 8080, "vm": vm, "guest_port": 80 });
    for kind in [
        disk,
        Thing::of(&of_vm("networks"), json!({ "user": {} })),
        Thing::of("/switches", json!({ "name": "WAN", "type": "private" })),
        Thing::of(&format!("/switches/{lan}/forwards"), forward),
    ] {
        kind.is_made_once(&mut daemon).await;
    }
}

#[tokio::test]
async fn the_other_dialect_says_so_too() {
    let _host = netns::Host::leave();
    let mut daemon = Daemon::start();
    let switch = Thing::of("/hyperv/switches", json!({ "name": "WAN", "type": "Private" }));
    Thing { named: "Id", ..switch }.is_made_once(&mut daemon).await;
}
