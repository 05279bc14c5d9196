//! Whatever sequence of updates, starts, forced stops and deaths of the daemon: a VM's definition is what was last
//! acknowledged, and the next start has all of it.

use crate::support::Daemon;
use crate::support_updates::{argument, config, disk_gib, force_off, start};
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};

/// The creator's bounds of the VM here.
const MAX_VCPUS: i64 = 4;
const MAX_MEMORY: i64 = 128;

#[derive(Clone, Debug)]
enum Act {
    Vcpus(i64),
    Pinning(Value),
    Memory(i64),
    Size(i64),
    Limits(Value),
    Start,
    ForceOff,
    DaemonDies,
}

/// Some of it is refused. Memory is rare: a guest without a driver is given 5 s to follow.
fn act() -> impl Strategy<Value = Act> {
    let pinnings = vec![
        Value::Null,
        json!({ "cores": [0] }),
        json!({ "cores": [1, 0] }),
        json!({ "vcpus": [[0], [1]], "emulator": [1] }),
        json!({ "emulator": [0] }),
        json!({ "cores": [] }),
        json!({ "cores": [4095] }),
    ];
    let limits =
        vec![Value::Null, json!({ "iops": 100 }), json!({ "bps_read": 5000 }), json!({ "iops": 0 }), json!({})];
    prop_oneof![
        4 => (0..=MAX_VCPUS + 1).prop_map(Act::Vcpus),
        4 => proptest::sample::select(pinnings).prop_map(Act::Pinning),
        1 => prop_oneof![Just(0), Just(64), Just(96), Just(MAX_MEMORY), Just(MAX_MEMORY + 1)].prop_map(Act::Memory),
        3 => (0..6_i64).prop_map(Act::Size),
        3 => proptest::sample::select(limits).prop_map(Act::Limits),
        2 => Just(Act::Start),
        1 => Just(Act::ForceOff),
        2 => Just(Act::DaemonDies),
    ]
}

/// What was acknowledged.
#[derive(Debug)]
struct Model(Value);

impl Model {
    fn vcpus(&self) -> i64 {
        self.0["vcpus"].as_i64().unwrap()
    }

    fn listed(pinning: &Value) -> i64 {
        pinning["vcpus"].as_array().map_or(0, Vec::len) as i64
    }

    /// Whether a value is to be taken.
    fn takes(&self, act: &Act) -> bool {
        match act {
            Act::Vcpus(n) => (1..=MAX_VCPUS).contains(n) && *n >= Self::listed(&self.0["cpu_pinning"]),
            Act::Pinning(pinning) => {
                pinning["cores"] != json!([])
                    && pinning["cores"] != json!([4095])
                    && Self::listed(pinning) <= self.vcpus()
            }
            Act::Memory(n) => (16..=MAX_MEMORY).contains(n),
            Act::Size(n) => *n >= self.0["disk_size"].as_i64().unwrap(),
            Act::Limits(limits) => *limits != json!({}) && limits["iops"] != json!(0),
            _ => true,
        }
    }
}

async fn update(daemon: &Daemon, id: &str, model: &mut Model, act: &Act) {
    let (what, field, value) = match act {
        Act::Vcpus(n) => ("cpu", "vcpus", json!(n)),
        Act::Pinning(pinning) => ("cpu", "cpu_pinning", pinning.clone()),
        Act::Memory(n) => ("memory", "memory", json!(n)),
        Act::Size(n) => ("disk", "disk_size", json!(n)),
        Act::Limits(limits) => ("disk", "io_limits", limits.clone()),
        _ => unreachable!(),
    };
    let taken = model.takes(act);
    let answer = daemon.put(&format!("/vms/{id}/{what}"), json!({ field: value })).await;
    assert_eq!(answer.status, if taken { 200 } else { 400 }, "{act:?} of {model:?} → {}", answer.body);
    if taken {
        assert_eq!(answer.body[field], value);
        model.0[field] = value;
    }
}

#[track_caller]
fn same(config: &Value, model: &Model) {
    for (field, value) in model.0.as_object().unwrap() {
        assert_eq!(&config[field], value, "{field} of {config}");
    }
}

async fn play(acts: Vec<Act>) {
    let mut daemon = Daemon::start();
    let mut wish = daemon.wish();
    (wish["max_vcpus"], wish["max_memory"]) = (json!(MAX_VCPUS), json!(MAX_MEMORY));
    let id = daemon.create(wish).await;
    let unset = Value::Null;
    let mut model =
        Model(json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "cpu_pinning": unset, "io_limits": unset }));
    let mut runs = false;
    for act in &acts {
        match act {
            Act::Start => {
                if runs {
                    // Over a daemon's death it may take a moment until its monitor answers.
                    daemon.await_status(&id, "running").await;
                }
                start(&daemon, &id).await;
                runs = true;
            }
            Act::ForceOff => {
                force_off(&daemon, &id).await;
                runs = false;
            }
            Act::DaemonDies => {
                daemon.kill();
                daemon.run();
            }
            change => update(&daemon, &id, &mut model, change).await,
        }
        let now = config(&daemon, &id).await;
        same(&now, &model);
        assert_eq!(daemon.qemus().len(), usize::from(runs), "after {act:?}");
        assert!(runs || now["pending"] == json!({}), "{now}");
    }
    force_off(&daemon, &id).await;
    start(&daemon, &id).await;
    let now = config(&daemon, &id).await;
    same(&now, &model);
    assert_eq!(now["pending"], json!({}));
    let pid = daemon.qemus()[0];
    assert!(argument(pid, "-smp").starts_with(&format!("cpus={},", model.0["vcpus"])));
    assert!(argument(pid, "-m").starts_with(&format!("size={}M", model.0["memory"])));
    assert_eq!(disk_gib(&daemon, &id).await, model.0["disk_size"].as_u64().unwrap());
}

#[test]
fn a_definition_is_what_was_last_acknowledged() {
    // Each case takes seconds: few of them, and none is made smaller.
    let few = ProptestConfig { cases: 6, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    TestRunner::new(few)
        .run(&proptest::collection::vec(act(), 12), |acts| {
            runtime.block_on(play(acts));
            Ok(())
        })
        .unwrap();
}
