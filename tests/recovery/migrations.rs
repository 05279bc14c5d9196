//! Records of every version that ever was, as kept in `tests/fixtures/store` and as they might have been: the program of
//! today reads them and loses nothing of what they say.

use std::{collections::HashMap, fs, path::PathBuf};

use proptest::prelude::*;
use qherd::{
    model::{Disk, VmSpec},
    store::{Batch, Import, Record, Store},
    vm::{
        core::{self, RunRecord},
        records::{self, Definition, Stored},
    },
};
use serde_json::{Map, Value, json};

fn fixture(version: u32) -> Vec<Value> {
    let file = format!("{}/tests/fixtures/store/vm-{version}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&file).unwrap_or_else(|e| {
        panic!("{file}: {e}; a new VERSION of the record needs kept records of the one before, of every state of a run")
    });
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (mut vms, mut runs) = (Vec::new(), HashMap::new());
    for line in &lines {
        let (value, name) = (&line["value"], line["name"].as_str().unwrap());
        match name.split_once('/').unwrap() {
            ("vm", key) if value["v"] == version => vms.push((key, value["data"].clone())),
            ("run", key) => drop(runs.insert(key, value["data"].clone())),
            _ => {}
        }
    }
    // From version 3 on the run is a record of its own.
    let whole = vms.into_iter().map(|(key, mut vm)| {
        if let Some(run) = runs.remove(key) {
            vm["run"] = run;
        }
        vm
    });
    whole.collect()
}

/// Any value in the place of `old`, of its kind. Words that mean something to the program stay as they are.
fn like(key: &str, old: &Value) -> BoxedStrategy<Value> {
    match (key, old) {
        ("id", _) => any::<u128>().prop_map(|n| json!(uuid::Uuid::from_u128(n).to_string())).boxed(),
        ("mac", _) => any::<[u8; 3]>().prop_map(|[a, b, c]| json!(format!("52:54:00:{a:02x}:{b:02x}:{c:02x}"))).boxed(),
        // By these a disk is known.
        ("file", _) => "\\PC{1,32}".prop_map(Value::String).boxed(),
        ("held" | "unmade", _) => Just(old.clone()).boxed(),
        ("host_port" | "guest_port", _) => (1..=u16::MAX).prop_map(|port| json!(port)).boxed(),
        ("name" | "reason" | "boot_id" | "path" | "profile" | "machine_type", Value::String(_)) => {
            any::<String>().prop_map(Value::String).boxed()
        }
        (_, Value::Bool(_)) => any::<bool>().prop_map(Value::Bool).boxed(),
        (_, Value::Number(n)) => (0..=n.as_u64().unwrap().saturating_mul(2).max(255)).prop_map(|n| json!(n)).boxed(),
        (_, Value::Array(items)) if !items.is_empty() => {
            let items: Vec<_> = items.iter().map(|item| like("", item)).collect();
            (0usize..4)
                .prop_flat_map(move |count| items.iter().cycle().take(count).cloned().collect::<Vec<_>>())
                .prop_map(Value::Array)
                .boxed()
        }
        (_, Value::Object(fields)) => {
            let fields: Vec<_> = fields.iter().map(|(key, old)| (Just(key.clone()), like(key, old))).collect();
            fields.prop_map(|fields| Value::Object(Map::from_iter(fields))).boxed()
        }
        _ => Just(old.clone()).boxed(),
    }
}

fn arbitrary(version: u32) -> impl Strategy<Value = Value> {
    let kept = fixture(version);
    assert!(!kept.is_empty());
    (0..kept.len()).prop_flat_map(move |which| like("", &kept[which]))
}

/// What a version said in other words than today's: the present words for the value at this path.
fn reworded(version: u32, path: &str, old: &Value) -> Option<Value> {
    match version {
        1 if path.ends_with("/backend") => {
            assert_eq!(old, "user");
            Some(json!({ "user": { "forwards": [] } }))
        }
        _ => None,
    }
}

/// Every value of the old record is in the new one.
fn keeps(version: u32, path: &str, old: &Value, new: &Value) {
    if let Some(expected) = reworded(version, path, old) {
        return assert_eq!(new, &expected, "{path}");
    }
    // Whether a disk is made, and what was to be done with a VM, stand elsewhere: `says_of_its_run` looks.
    if version <= 2 && elsewhere(path) {
        return;
    }
    match old {
        Value::Object(fields) => fields.iter().for_each(|(key, old)| {
            keeps(version, &format!("{path}/{key}"), old, &new[key]);
        }),
        Value::Array(items) => {
            assert_eq!(new.as_array().map(Vec::len), Some(items.len()), "{path}");
            items.iter().zip(new.as_array().unwrap()).for_each(|(old, new)| keeps(version, path, old, new));
        }
        _ => assert_eq!(new, old, "{path}"),
    }
}

fn elsewhere(path: &str) -> bool {
    path.ends_with("/disks/in_making") || ["/run/intent", "/run/state", "/run/new", "/run/process"].contains(&path)
}

/// What was said of its run in other words.
fn says_of_its_run(old: &Value, new: &RunRecord) {
    let (state, goal) = (json!(new.state), json!(new.goal));
    let (word, wanted) = match old["run"]["state"].as_str().unwrap() {
        "creating" => ("making", "rest"),
        "down" => ("down", "rest"),
        "starting" => ("starting", "rest"),
        "deleting" => ("starting", "gone"),
        "live" => (
            "up",
            match old["run"]["intent"]["intent"].as_str().unwrap() {
                "run" => "rest",
                other => other,
            },
        ),
        other => panic!("{other}"),
    };
    assert_eq!((&state["state"], &goal["goal"]), (&json!(word), &json!(wanted)));
    match word {
        "down" => assert_eq!(state["last"], old["run"]["last"]),
        "up" => assert_eq!(state["process"], old["run"]["process"]),
        "starting" if wanted == "rest" => {
            let new = old["run"].get("new").cloned().unwrap_or(json!(false));
            assert_eq!((&state["process"], &state["new"]), (&old["run"]["process"], &new));
        }
        _ => {}
    }
    let intent = &old["run"]["intent"];
    if let Some(monotonic) = intent["monotonic"].as_u64() {
        assert_eq!((&goal["at"], &goal["agent_only"]), (&json!(monotonic), &intent["agent_only"]));
    }
    if wanted == "off" {
        assert_eq!(goal["cause"], if intent["asked"] == true { "cut" } else { "guest" });
    }
    let unmade = |disk: &&Value| disk["in_making"] == true;
    let unmade = old["spec"]["disks"].as_array().unwrap().iter().filter(unmade).count();
    assert_eq!(new.unmade.is_empty(), unmade == 0);
    // Whatever it may have is held.
    let disks = old["spec"]["disks"].as_array().unwrap().iter();
    assert!(
        disks
            .filter_map(|disk| core::DiskNo::of(disk["name"].as_str().unwrap()))
            .all(|no| new.held.images.contains_key(&no))
    );
}

/// Path and value of all that the present records say, as those of that version said it.
fn as_before(version: u32, record: &core::Record) -> Value {
    let spec = with_layers(json!(record.definition), &record.definition);
    let mut run = json!(record.run);
    if let Some(up) = record.run.up() {
        run["state"]["in_effect"] = with_layers(run["state"]["in_effect"].take(), &up.in_effect);
    }
    if version > 2 {
        let images = record.run.held.images.values().zip(run["held"]["images"].as_array_mut().unwrap());
        images.for_each(|(disk, value)| with_layer(value, disk));
        return json!({ "spec": spec, "run": run });
    }
    let mut state = run["state"].take();
    state.as_object_mut().unwrap().remove("state");
    json!({ "spec": spec, "run": state, "upkeep": record.run.upkeep })
}

/// What was said of a disk that its layer says now.
fn with_layers(mut value: Value, spec: &VmSpec) -> Value {
    spec.disks.iter().zip(value["disks"].as_array_mut().unwrap()).for_each(|(disk, value)| with_layer(value, disk));
    value
}

fn with_layer(value: &mut Value, disk: &Disk) {
    assert!(value.get("file").is_none() && value.get("base").is_none(), "a disk repeats its layer: {value}");
    (value["file"], value["base"]) = (json!(&*disk.file), json!(disk.base));
}

/// A disk is in the same layer wherever it stands, and no other is.
fn names_layers(record: &core::Record) {
    let disks = record.definition.disks.iter().chain(record.run.held.images.values().map(|disk| &**disk));
    let disks = disks.chain(record.run.up().into_iter().flat_map(|up| &up.in_effect.disks));
    let (mut by_layer, mut by_name) = (HashMap::new(), HashMap::new());
    for disk in disks {
        let name = (disk.name.clone(), disk.file.to_path_buf());
        assert_eq!(*by_layer.entry(disk.layer).or_insert_with(|| name.clone()), name);
        assert_eq!(*by_name.entry(name).or_insert(disk.layer), disk.layer);
    }
}

/// A store that holds these records as a daemon of that version wrote them.
fn written(version: u32, records: &[Value]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::from("{\"qherd_export\":1,\"by\":\"a test\",\"at\":\"\"}\n");
    let mut lines = 0;
    let mut line = |kind: &str, number: usize, version: u32, data: &Value| {
        let data = data.to_string();
        let crc = crc32fast::hash(data.as_bytes());
        let value = format!("{{\"v\":{version},\"crc\":\"{crc:08x}\",\"data\":{data}}}");
        text += &format!("{{\"name\":\"{kind}/{number:04}\",\"value\":{value}}}\n");
        lines += 1;
    };
    for (number, record) in records.iter().enumerate() {
        if version <= 2 {
            line("vm", number, version, record);
        } else {
            line("vm", number, version, &json!({ "spec": record["spec"] }));
            line("run", number, version - 2, &record["run"]);
        }
    }
    text += &format!("{{\"records\":{lines}}}\n");
    let db = dir.path().join("db");
    Import::parse(&text).unwrap().make(&db).unwrap();
    (dir, db)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_an_older_record_says_is_in_the_present_one(
        (version, records) in (1..=Definition::VERSION - 1)
            .prop_flat_map(|version| (Just(version), prop::collection::vec(arbitrary(version), 1..20)))
    ) {
        let (dir, db) = written(version, &records);
        let store = Store::open(&db).unwrap();
        let mut vms = read(&store);
        for (old, new) in records.iter().zip(&vms) {
            keeps(version, "", old, &as_before(version, &new.record));
            if version <= 2 {
                says_of_its_run(old, &new.record.run);
            }
            names_layers(&new.record);
        }
        // Written by this program, it reads the same.
        let store = Store::open(&dir.path().join("anew")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let all = &mut vms.iter_mut().collect::<Vec<_>>();
        runtime.block_on(records::commit_all(&store, Batch::new(), all)).unwrap();
        vms.sort_by_key(|vm| vm.record.definition.id.to_string());
        let written: Vec<_> = vms.into_iter().map(|vm| vm.record).collect();
        let read: Vec<_> = read(&store).into_iter().map(|vm| vm.record).collect();
        prop_assert_eq!(read, written);
    }
}

fn read(store: &Store) -> Vec<Stored> {
    let all = records::scan(store).unwrap().into_iter();
    all.map(|(key, vm)| vm.unwrap_or_else(|e| panic!("{key}: {e}"))).collect()
}

const KEYS: &[&str] =
    &["spec", "run", "state", "in_effect", "held", "disks", "images", "nics", "name", "file", "mac", "id", "x"];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(|n| json!(n)),
        ".{0,40}".prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((prop::sample::select(KEYS).prop_map(str::to_owned), inner), 0..4)
                .prop_map(|fields| Value::Object(Map::from_iter(fields))),
        ]
    })
}

proptest! {
    /// A panic would keep the daemon from starting, where an error costs one VM.
    #[test]
    fn what_is_no_record_of_its_version_is_an_error_and_no_panic(version in 0..Definition::VERSION, data in any_json()) {
        let _ = Definition::migrate("a", version, data.clone());
        let _ = RunRecord::migrate("a", version, data);
    }
}

#[test]
fn of_every_older_version_a_record_of_every_state_is_kept() {
    for version in 1..Definition::VERSION {
        let kept = fixture(version);
        let (states, at): (&[&str], _) = match version {
            1 | 2 => (&["creating", "down", "starting", "live", "deleting"], "/run/state"),
            _ => (&["making", "down", "starting", "up"], "/run/state/state"),
        };
        for state in states {
            let is_kept = kept.iter().any(|record| record.pointer(at).is_some_and(|kept| kept == state));
            assert!(is_kept, "version {version}: no {state}");
        }
    }
}
