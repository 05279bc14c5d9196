//! Somebody who follows the events over every death of the daemon: each comes once and in order, every acknowledged change is
//! among them once, and what they say of VMs and switches is what there is.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{aside, operation::Operation};
use crate::support::Daemon;

/// What an acknowledged request must have been told as, once.
pub fn told_as(operation: &Operation) -> Option<&'static str> {
    match operation {
        Operation::Create { .. } => Some("vm.created"),
        Operation::Delete => Some("vm.deleted"),
        Operation::MakeSwitch { .. } => Some("switch.created"),
        Operation::RemoveSwitch => Some("switch.deleted"),
        Operation::ImportImage => Some("image.created"),
        Operation::DeleteImage => Some("image.deleted"),
        Operation::AddDisk(_)
        | Operation::CloneDisk(_)
        | Operation::AddNic(_)
        | Operation::RemoveDisk
        | Operation::RemoveNic => Some("vm.changed"),
        Operation::AddForward(_) | Operation::RemoveForward => Some("switch.changed"),
        // It may have been so before.
        _ => None,
    }
}

pub struct Subscriber {
    after: String,
    pub seen: u64,
    /// Status by VM.
    vms: BTreeMap<String, String>,
    switches: BTreeSet<String>,
    images: BTreeSet<String>,
    volumes: BTreeSet<String>,
    operations: aside::Reported,
    /// How often a request was told as a type.
    requests: BTreeMap<(String, String), u64>,
}

impl Default for Subscriber {
    fn default() -> Self {
        let (vms, switches, images, volumes) = Default::default();
        let (operations, requests) = Default::default();
        Self { after: "0".to_owned(), seen: 0, vms, switches, images, volumes, operations, requests }
    }
}

impl Subscriber {
    /// Reads on. Nothing is under way. Returns what is wrong.
    pub async fn complaints(&mut self, daemon: &Daemon, acknowledged: &mut Vec<(String, &'static str)>) -> Vec<String> {
        let mut wrong = Vec::new();
        loop {
            let page = daemon.get(&format!("/events?after={}&wait=0", self.after)).await;
            if page.status != 200 {
                return vec![format!("events after {}: {page:?}", self.after)];
            }
            let events = page.body["events"].as_array().unwrap();
            for event in events {
                self.take(event, &mut wrong);
            }
            self.after = page.body["next"].as_str().unwrap().to_owned();
            if events.is_empty() {
                break;
            }
        }
        for (request, kind) in acknowledged.drain(..) {
            let times = self.requests.get(&(request.clone(), kind.to_owned())).copied().unwrap_or_default();
            if times != 1 {
                wrong.push(format!("the acknowledged request {request} was told {times} times as {kind}"));
            }
        }
        let was = |request: &String, kind: &str| self.requests.contains_key(&(request.clone(), kind.to_owned()));
        // A switch that changes gives each NIC on it another address, which is told of each; a disk that is kept is a volume first,
        // and then goes.
        let changes_often = |request: &String| was(request, "switch.changed") || was(request, "volume.created");
        let twice = self.requests.iter().filter(|((request, kind), times)| {
            **times > 1 && kind.ends_with(".changed") && (kind != "vm.changed" || !changes_often(request))
        });
        wrong.extend(twice.map(|((request, kind), times)| format!("{request} was told {times} times as {kind}")));
        wrong.extend(self.differences(daemon).await);
        wrong.extend(self.operations.differences(daemon).await);
        wrong
    }

    fn take(&mut self, event: &Value, wrong: &mut Vec<String>) {
        let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
        let (kind, vm, switch) = (text("type"), text("vm_id"), text("switch_id"));
        self.seen += 1;
        if event["seq"].as_u64() != Some(self.seen) {
            wrong.push(format!("the event {} came as {event}", self.seen));
        }
        let fits = match kind.as_str() {
            "vm.created" => self.vms.insert(vm, String::new()).is_none(),
            "vm.deleted" => self.vms.remove(&vm).is_some(),
            "vm.status" => self.vms.insert(vm, text("status")).is_some_and(|before| before != text("status")),
            "switch.created" => self.switches.insert(switch),
            "switch.deleted" => self.switches.remove(&switch),
            "image.created" => self.images.insert(text("image_id")),
            "image.deleted" => self.images.remove(&text("image_id")),
            "volume.created" => self.volumes.insert(text("volume_id")),
            "volume.deleted" => self.volumes.remove(&text("volume_id")),
            "host.warnings" => true,
            kind if kind.starts_with("operation.") => self.operations.take(event),
            _ if vm.is_empty() => self.switches.contains(&switch),
            _ => self.vms.contains_key(&vm),
        };
        if !fits {
            wrong.push(format!("it was otherwise before {event}"));
        }
        for by in event["by"].as_array().unwrap() {
            let request = by["request_id"].as_str().unwrap().to_owned();
            *self.requests.entry((request, kind.clone())).or_default() += 1;
        }
    }

    /// Between what was told and what is listed.
    async fn differences(&self, daemon: &Daemon) -> Vec<String> {
        let text = |row: &Value, field: &str| row[field].as_str().unwrap().to_owned();
        let listed = daemon.get("/vms").await.expect(200);
        let vms: BTreeMap<String, String> =
            listed.as_array().unwrap().iter().map(|row| (text(row, "id"), text(row, "status"))).collect();
        let listed = daemon.get("/switches").await.expect(200);
        let switches: BTreeSet<String> = listed.as_array().unwrap().iter().map(|row| text(row, "id")).collect();
        let listed = daemon.get("/images").await.expect(200);
        let images: BTreeSet<String> = listed.as_array().unwrap().iter().map(|row| text(row, "id")).collect();
        let listed = daemon.get("/volumes").await.expect(200);
        let volumes: BTreeSet<String> = listed.as_array().unwrap().iter().map(|row| text(row, "id")).collect();
        let mut wrong = Vec::new();
        if volumes != self.volumes {
            wrong.push(format!("the volumes are {volumes:?}, and {:?} were told", self.volumes));
        }
        if images != self.images {
            wrong.push(format!("the images are {images:?}, and {:?} were told", self.images));
        }
        // One file for the data that all of them have, and nothing half made.
        let folder = daemon.state().join("layers");
        let files = std::fs::read_dir(folder).unwrap().flatten().filter(|entry| entry.path().is_file()).count();
        if files != images.len().min(1) {
            wrong.push(format!("{files} files of {} images", images.len()));
        }
        if vms != self.vms {
            wrong.push(format!("the VMs are {vms:?}, and {:?} were told", self.vms));
        }
        if switches != self.switches {
            wrong.push(format!("the switches are {switches:?}, and {:?} were told", self.switches));
        }
        wrong
    }
}
