//! Records of earlier versions, brought up to the present one step by step. Each step works on plain JSON and never
//! changes again: the types of today know nothing of yesterday.

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Builder;

use crate::model::{LayerId, monotonic_ms, now_ms};

/// Milliseconds; no client was ever given more time for a guest.
const LONGEST_DEADLINE: u64 = 24 * 3_600_000;

/// `vm/<key>`.
///
/// # Errors
/// For a version that never was, or data that is not of its version.
pub(super) fn definition(key: &str, from: u32, mut data: Value) -> Result<Value, String> {
    if !(1..=3).contains(&from) {
        return Err(format!("nothing here knows version {from}"));
    }
    if from == 1 {
        complete_nics(data.get_mut("spec").ok_or("it has no definition")?)?;
        if let Some(in_effect) = data.get_mut("run").and_then(|run| run.get_mut("in_effect")) {
            complete_nics(in_effect)?;
        }
    }
    if from <= 2 {
        data = set_run_apart(data)?;
        data["run"] = run(key, 1, data["run"].take())?;
    }
    name_layers(key, data.get_mut("spec").and_then(|spec| spec.get_mut("disks")))?;
    Ok(data)
}

/// `run/<key>`, and what a definition was stored with before there was one.
///
/// # Errors
/// As [`definition`].
pub(super) fn run(key: &str, from: u32, mut data: Value) -> Result<Value, String> {
    if from != 1 {
        return Err(format!("nothing here knows version {from}"));
    }
    name_layers(key, data.pointer_mut("/state/in_effect/disks"))?;
    name_layers(key, data.pointer_mut("/held/images"))?;
    Ok(data)
}

/// 3 to 4, and 1 to 2 of a run: a disk is in a layer, which has an id. One that follows from what the disk is called is the
/// same wherever the disk stands. What its file and its base are stays there until its layer is stored.
fn name_layers(key: &str, disks: Option<&mut Value>) -> Result<(), String> {
    for disk in disks.and_then(Value::as_array_mut).into_iter().flatten() {
        let disk = disk.as_object_mut().ok_or("a disk is no object")?;
        let text = |field| disk.get(field).and_then(Value::as_str);
        let name = text("name").ok_or("a disk has no name")?;
        let file = text("file").filter(|file| !file.is_empty()).ok_or("a disk has no file")?;
        let mut digest = Sha256::new();
        for part in [key, name, file] {
            digest.update((part.len() as u64).to_be_bytes());
            digest.update(part);
        }
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&digest.finalize()[..16]);
        let id = LayerId::from(Builder::from_random_bytes(bytes).into_uuid());
        disk.insert("layer".to_owned(), json!(id));
    }
    Ok(())
}

/// 2 to 3: how far a run has come, and what is wanted of it, is a record of its own. Whether a disk is made is no part of
/// its definition.
fn set_run_apart(mut data: Value) -> Result<Value, String> {
    let spec = data.get_mut("spec").ok_or("it has no definition")?;
    let unmade = take_unmade(spec)?;
    let spec = spec.take();
    let mut run = data.get_mut("run").filter(|run| run.is_object()).ok_or("it says nothing of its run")?.take();
    let intent = run.get_mut("intent").map(Value::take).unwrap_or(Value::Null);
    let mut goal = json!({ "goal": "rest" });
    let state = match run["state"].as_str().unwrap_or_default() {
        "creating" => json!({ "state": "making", "start": false }),
        "down" => json!({ "state": "down", "last": run["last"] }),
        "starting" => json!({
            "state": "starting", "process": run["process"], "new": run.get("new").unwrap_or(&json!(false)),
            "last": { "how": "clean" }
        }),
        // Its process may have been there yet: as one that was being started, with everything to go.
        "deleting" => {
            goal = json!({ "goal": "gone" });
            json!({ "state": "starting", "process": null, "new": false, "last": { "how": "clean" } })
        }
        "live" => {
            goal = goal_of(&intent)?;
            if let Some(in_effect) = run.get_mut("in_effect") {
                take_unmade(in_effect)?;
            }
            let fields = run.as_object_mut().ok_or("its run is no object")?;
            fields.remove("intent");
            fields.insert("state".to_owned(), json!("up"));
            fields.insert("guest".to_owned(), json!({ "guest": "running" }));
            run
        }
        other => return Err(format!("nobody knows the state {other}")),
    };
    let none = json!({ "attempts": 0, "due": null });
    let upkeep = data.get("upkeep").unwrap_or(&none);
    Ok(json!({
        "spec": spec,
        "run": { "state": state, "goal": goal, "upkeep": upkeep, "held": {}, "unmade": unmade }
    }))
}

/// The numbers of disks whose image is not made, which are no longer said of the disks themselves.
fn take_unmade(spec: &mut Value) -> Result<Vec<u32>, String> {
    let mut unmade = Vec::new();
    for disk in spec.get_mut("disks").and_then(Value::as_array_mut).into_iter().flatten() {
        let disk = disk.as_object_mut().ok_or("a disk is no object")?;
        if disk.remove("in_making") == Some(Value::Bool(true)) {
            let name = disk.get("name").and_then(Value::as_str).unwrap_or_default();
            unmade.push(name.strip_prefix("disk").and_then(|number| number.parse().ok()).unwrap_or(0));
        }
    }
    Ok(unmade)
}

/// What was to be done with a live VM.
fn goal_of(intent: &Value) -> Result<Value, String> {
    let agent_only = intent.get("agent_only").and_then(Value::as_bool).unwrap_or(false);
    // Records of the first daemons know the wall clock alone.
    let at = || match (intent["monotonic"].as_u64(), intent["deadline"].as_u64()) {
        (Some(monotonic), _) => monotonic,
        (None, deadline) => {
            monotonic_ms().saturating_add(deadline.unwrap_or(0).saturating_sub(now_ms()).min(LONGEST_DEADLINE))
        }
    };
    Ok(match intent["intent"].as_str().unwrap_or_default() {
        "run" => json!({ "goal": "rest" }),
        word @ ("stop" | "reboot") => json!({ "goal": word, "at": at(), "agent_only": agent_only }),
        "off" if intent["asked"] == json!(true) => json!({ "goal": "off", "cause": "cut" }),
        "off" => json!({ "goal": "off", "cause": "guest" }),
        other => return Err(format!("nobody knows the intent {other}")),
    })
}

/// 1 to 2: a NIC had no id and one kind of backend. An id that is the VM's with the NIC's own digits at its end is
/// the same at every reading.
fn complete_nics(spec: &mut Value) -> Result<(), String> {
    let id = spec["id"].as_str().and_then(|id| id.get(..30)).ok_or("the VM has no id")?.to_owned();
    let nics = spec["nics"].as_array_mut().ok_or("the VM has no list of NICs")?;
    for nic in nics.iter_mut() {
        let mac = nic["mac"].as_str().ok_or("a NIC has no MAC address")?;
        let digits: String = mac.chars().filter(char::is_ascii_hexdigit).skip(6).collect();
        nic["id"] = format!("{id}{digits}").into();
        nic["label"] = "Network Adapter".into();
        nic["slot"] = Value::Null;
        nic["queues"] = 1.into();
        nic["backend"] = json!({ "user": { "forwards": [] } });
    }
    let added = nics.len();
    spec["nics_added"] = added.into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NicBackend, VmSpec};

    #[test]
    fn a_record_of_version_1_becomes_one_of_today() {
        for line in include_str!("../../tests/fixtures/store/vm-1.jsonl").lines() {
            let line: Value = serde_json::from_str(line).unwrap();
            let old = &line["value"]["data"];
            let mut new = definition("a", 1, old.clone()).unwrap();
            let spec: VmSpec = serde_json::from_value(new["spec"].take()).unwrap();
            let mut specs = vec![spec.clone()];
            if new["run"]["state"]["state"] == "up" {
                let in_effect: VmSpec = serde_json::from_value(new["run"]["state"]["in_effect"].take()).unwrap();
                assert_eq!(in_effect.nics, spec.nics);
                specs.push(in_effect);
            }
            for spec in &specs {
                let [nic] = &spec.nics[..] else { panic!("{:?}", spec.nics) };
                assert_eq!((nic.slot, nic.queues, spec.nics_added), (None, 1, 1));
                assert_eq!(nic.backend, NicBackend::User { forwards: Vec::new() });
                assert_eq!(nic.id.to_string()[..30], spec.id.to_string()[..30]);
                assert_eq!(serde_json::to_value(nic.mac).unwrap(), old["spec"]["nics"][0]["mac"]);
            }
        }
        assert!(definition("a", 0, json!({})).is_err() && definition("a", 1, json!({})).is_err());
    }
}
