//! Records of every version that ever was, as kept in `tests/fixtures/store` and as they might have been: the program of
//! today reads them and loses nothing of what they say.

use std::{fs, path::PathBuf};

use proptest::prelude::*;
use qherd::{
    store::{Batch, Import, Record, Store},
    vm::{
        core::{self, RunRecord},
        records::{self, Definition},
    },
};
use serde_json::{Map, Value, json};

fn fixture(version: u32) -> Vec<Value> {
    let file = format!("{}/tests/fixtures/store/vm-{version}.jsonl", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(&file).unwrap_or_else(|e| {
        panic!("{file}: {e}; a new VERSION of the record needs kept records of the one before, of every state of a run")
    });
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    lines.map(|line| line["value"].clone()).filter(|value| value["v"] == version).map(|v| v["data"].clone()).collect()
}

/// Any value in the place of `old`, of its kind. Words that mean something to the program stay as they are.
fn like(key: &str, old: &Value) -> BoxedStrategy<Value> {
    match (key, old) {
        ("id", _) => any::<u128>().prop_map(|n| json!(uuid::Uuid::from_u128(n).to_string())).boxed(),
        ("mac", _) => any::<[u8; 3]>().prop_map(|[a, b, c]| json!(format!("52:54:00:{a:02x}:{b:02x}:{c:02x}"))).boxed(),
        ("name" | "reason" | "boot_id" | "file" | "path" | "profile" | "machine_type", Value::String(_)) => {
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
    if path.ends_with("/disks/in_making") || ["/run/intent", "/run/state", "/run/new", "/run/process"].contains(&path) {
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

/// Path and value of all that the present records say, as the one of before said it.
fn as_before(record: &core::Record) -> Value {
    let mut run = json!(record.run.state);
    if let Some(fields) = run.as_object_mut() {
        fields.remove("state");
    }
    json!({ "spec": record.definition, "run": run, "upkeep": record.run.upkeep })
}

/// A store that holds these records as a daemon of that version wrote them.
fn written(version: u32, records: &[Value]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::from("{\"qherd_export\":1,\"by\":\"a test\",\"at\":\"\"}\n");
    for (number, record) in records.iter().enumerate() {
        let data = record.to_string();
        let crc = crc32fast::hash(data.as_bytes());
        let value = format!("{{\"v\":{version},\"crc\":\"{crc:08x}\",\"data\":{data}}}");
        text += &format!("{{\"name\":\"vm/{number:04}\",\"value\":{value}}}\n");
    }
    text += &format!("{{\"records\":{}}}\n", records.len());
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
        let (_dir, db) = written(version, &records);
        let store = Store::open(&db).unwrap();
        let read: Vec<core::Record> = read(&store);
        for (old, new) in records.iter().zip(&read) {
            keeps(version, "", old, &as_before(new));
            says_of_its_run(old, &new.run);
        }
        // Written by this program, it reads the same.
        let mut batch = Batch::new();
        for (number, record) in read.iter().enumerate() {
            let key = format!("{number:04}");
            batch = batch.put(&key, &Definition::of(record)).unwrap().put(&key, &record.run).unwrap();
        }
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(store.commit(batch)).unwrap();
        prop_assert_eq!(self::read(&store), read);
    }
}

fn read(store: &Store) -> Vec<core::Record> {
    let all = records::scan(store).unwrap().into_iter();
    all.map(|(key, record)| record.unwrap_or_else(|e| panic!("{key}: {e}"))).collect()
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(|n| json!(n)),
        ".{0,40}".prop_map(Value::String),
    ];
    let key =
        prop_oneof![Just("spec"), Just("run"), Just("in_effect"), Just("nics"), Just("mac"), Just("id"), Just("x")];
    leaf.prop_recursive(4, 40, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec((key.clone().prop_map(str::to_owned), inner), 0..4)
                .prop_map(|fields| Value::Object(Map::from_iter(fields))),
        ]
    })
}

proptest! {
    /// A panic would keep the daemon from starting, where an error costs one VM.
    #[test]
    fn what_is_no_record_of_its_version_is_an_error_and_no_panic(version in 0..Definition::VERSION, data in any_json()) {
        let _ = Definition::migrate(version, data);
    }
}

#[test]
fn of_every_older_version_a_record_of_every_state_is_kept() {
    for version in 1..Definition::VERSION {
        let kept = fixture(version);
        for state in ["creating", "down", "starting", "live", "deleting"] {
            assert!(kept.iter().any(|record| record["run"]["state"] == state), "version {version}: no {state}");
        }
    }
}
