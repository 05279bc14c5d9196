//! Updates that are refused: the status, a message that says what to change, and a definition that is as it was. And
//! what becomes of good ones on a stopped VM.

use crate::support::{Answer, Daemon, affinity, vcpu_threads};
use crate::updates::{argument, config, disk_gib, everywhere, put};
use serde_json::{Value, json};

const ID: &str = "123e4567-e89b-12d3-a456-426614174000";

/// PUTs `text`; refused, the message holds every one of `words` (separated by `|`), and nothing has changed.
async fn refused(daemon: &Daemon, id: &str, what: &str, text: &str, words: &str) {
    let before = config(daemon, id).await;
    let answer = put_text(daemon, id, what, text).await;
    assert_eq!(answer.status, 400, "{what} {text} → {}", answer.body);
    assert_eq!(answer.body["error"]["code"], 400, "{what} {text} → {}", answer.body);
    for word in words.split('|') {
        assert!(answer.message().contains(word), "{what} {text}: no {word:?} in {:?}", answer.message());
    }
    assert_eq!(config(daemon, id).await, before, "{what} {text}");
}

async fn put_text(daemon: &Daemon, id: &str, what: &str, text: &str) -> Answer {
    let request = daemon.http().put(daemon.at(&format!("/vms/{id}/{what}")));
    daemon.send(request.header("content-type", "application/json").body(text.to_owned())).await
}

/// One stopped VM and one that runs, with bounds that their creator set.
async fn two_vms(daemon: &Daemon) -> [String; 2] {
    let mut wish = daemon.wish();
    (wish["vcpus"], wish["max_vcpus"], wish["max_memory"]) = (json!(2), json!(4), json!(128));
    (wish["disk_size"], wish["io_limits"]) = (json!(3), json!({ "iops": 500 }));
    wish["cpu_pinning"] = json!({ "cores": [0] });
    let stopped = daemon.create(wish.clone()).await;
    wish["start"] = json!(true);
    [stopped, daemon.create(wish).await]
}

#[tokio::test]
async fn numbers_types_and_fields_are_refused_by_name() {
    let daemon = Daemon::start();
    let whole = "must be a whole number";
    for id in two_vms(&daemon).await {
        for (what, field, highest) in [
            ("cpu", "vcpus", "at most max_vcpus (4)"),
            ("memory", "memory", "the memory of this host"),
            ("disk", "disk_size", "at most 65536 GiB"),
        ] {
            for (value, words) in [
                ("0", "must be greater than 0."),
                ("-1", "must be greater than 0."),
                ("-9223372036854775808", "must be greater than 0."),
                ("9223372036854775807", highest),
                ("18446744073709551616", "must be a whole number within range."),
                ("1e30", "must be a whole number within range."),
                ("2.5", whole),
                ("\"2\"", whole),
                ("true", whole),
                ("[2]", whole),
                ("{}", whole),
                ("null", ""),
            ] {
                let text = format!("{{\"{field}\":{value}}}");
                refused(&daemon, &id, what, &text, &format!("Invalid parameter: |{field}|{words}")).await;
            }
            let twice = format!("{{\"{field}\":2,\"{field}\":2}}");
            refused(&daemon, &id, what, &twice, &format!("{field} must be given only once")).await;
            refused(&daemon, &id, what, "{}", &format!("Invalid parameter: |{field}|must be given")).await;
            refused(&daemon, &id, what, &format!("{{\"{field}\":2,\"colour\":1}}"), "colour is not known").await;
            for (text, words) in [
                ("", "body is missing"),
                ("[]", "JSON object, not an array"),
                ("null", "JSON object, not null"),
                ("{", "not valid JSON"),
            ] {
                refused(&daemon, &id, what, text, words).await;
            }
        }
        refused(&daemon, &id, "cpu", "{\"vcpu\":2}", "vcpu is not known; did you mean vcpus?").await;
        refused(&daemon, &id, "memory", "{\"memory\":15}", "must be at least 16 MiB").await;
        refused(&daemon, &id, "memory", "{\"memory\":64,\"max_memory\":64}", "max_memory is not known").await;
        refused(&daemon, &id, "disk", "{\"size\":2}", "size is not known").await;
        refused(&daemon, &id, "cpu?force=true", "{\"vcpus\":2}", "force is not known").await;
    }
}

#[tokio::test]
async fn bounds_that_the_creator_set_and_the_size_of_a_disk_hold() {
    let daemon = Daemon::start();
    for id in two_vms(&daemon).await {
        refused(&daemon, &id, "cpu", "{\"vcpus\":5}", "Invalid parameter: vcpus must be at most max_vcpus (4)").await;
        refused(&daemon, &id, "memory", "{\"memory\":129}", "Invalid parameter: memory must be at most |128 MiB").await;
        // What goes along with it is not stored either.
        for text in ["{\"disk_size\":2}", "{\"disk_size\":1,\"io_limits\":{\"iops\":7}}"] {
            refused(&daemon, &id, "disk", text, "Invalid parameter: disk_size must |current size (3 GiB)").await;
        }
        refused(&daemon, &id, "disk", "{\"disk_size\":4,\"io_limits\":{\"iops\":0}}", "io_limits.iops must be").await;
        refused(&daemon, &id, "cpu", "{\"vcpus\":3,\"cpu_pinning\":{\"cores\":[4095]}}", "no core 4095").await;
        assert_eq!(disk_gib(&daemon, &id).await, 3);
    }
}

#[tokio::test]
async fn pinning_and_limits_that_cannot_be_are_refused() {
    let daemon = Daemon::start();
    for id in two_vms(&daemon).await {
        for (pinning, words) in [
            ("{\"cores\":[0],\"vcpus\":[[0]]}", "cpu_pinning.cores|combined with cpu_pinning.vcpus"),
            ("{\"vcpus\":[[0],[0],[0]]}", "cpu_pinning.vcpus|at most as many entries as there are vCPUs (2)"),
            ("{\"vcpus\":[[0],[]]}", "cpu_pinning.vcpus[1]|at least one core"),
            ("{\"vcpus\":[]}", "cpu_pinning.vcpus must|at least one vCPU"),
            ("{\"vcpus\":[[0],[4095]]}", "cpu_pinning.vcpus[1]|no core 4095"),
            ("{\"vcpus\":[[0,0]]}", "cpu_pinning.vcpus[0]|0 is repeated"),
            ("{\"vcpus\":[[0],[-1]]}", "cpu_pinning.vcpus[1]|no core -1"),
            ("{\"vcpus\":[0]}", "cpu_pinning.vcpus[0] must be an array"),
            ("{\"vcpus\":null}", "cpu_pinning must hold cores"),
            ("{\"cores\":[]}", "cpu_pinning.cores must name at least one core"),
            ("{\"cores\":[0,0]}", "cpu_pinning.cores|0 is repeated"),
            ("{\"cores\":[-1]}", "cpu_pinning.cores|no core -1"),
            ("{\"cores\":[4095]}", "cpu_pinning.cores|no core 4095"),
            ("{\"cores\":[\"0\"]}", "cpu_pinning.cores[0] must be a whole number"),
            ("{\"cores\":null}", "cpu_pinning must hold cores"),
            ("{\"emulator\":[]}", "cpu_pinning.emulator must name at least one core"),
            ("{\"emulator\":[0,0]}", "cpu_pinning.emulator|0 is repeated"),
            ("{\"emulator\":[4095]}", "cpu_pinning.emulator|no core 4095"),
            ("{}", "cpu_pinning must hold cores, vcpus or emulator"),
            ("{\"core\":[0]}", "cpu_pinning.core is not known; did you mean cores?"),
            ("[0]", "cpu_pinning must be an object"),
        ] {
            refused(&daemon, &id, "cpu", &format!("{{\"cpu_pinning\":{pinning}}}"), words).await;
        }
        for (limits, words) in [
            ("{}", "io_limits must hold at least one limit"),
            ("{\"iops\":0}", "must be greater than 0."),
            ("{\"iops\":-5}", "must be greater than 0."),
            ("{\"iops\":\"fast\"}", "io_limits.iops must be a whole number"),
            ("{\"iops\":9223372036854775807}", "io_limits.iops must be at most 1000000000000000"),
            ("{\"iops\":1,\"iops_read\":1}", "io_limits.iops must not be combined with iops_read"),
            ("{\"bps\":1,\"bps_write\":1}", "io_limits.bps must not be combined"),
            ("{\"iops\":10,\"iops_burst\":5}", "iops_burst must not be lower than iops (10)"),
            ("{\"iops_burst\":5}", "must come together with iops"),
            ("{\"iops\":5,\"iops_burst_seconds\":5}", "must come together with iops_burst"),
            ("{\"iop\":1}", "io_limits.iop is not known; did you mean iops?"),
            ("[]", "io_limits must be an object"),
        ] {
            refused(&daemon, &id, "disk", &format!("{{\"io_limits\":{limits}}}"), words).await;
        }
    }
    // Fewer vCPUs than the list of their pinning has entries.
    let id = daemon.create(daemon.wish()).await;
    put(&daemon, &id, "cpu", json!({ "vcpus": 2, "cpu_pinning": { "vcpus": [[0], [0]] } })).await;
    refused(&daemon, &id, "cpu", "{\"vcpus\":1}", "vcpus must be at least 2, for cpu_pinning.vcpus").await;
    put(&daemon, &id, "cpu", json!({ "vcpus": 1, "cpu_pinning": null })).await;
}

/// Ruling 6: the syntax of the id, then its existence, then the body.
#[tokio::test]
async fn ids_are_judged_before_bodies() {
    let daemon = Daemon::start();
    for what in ["cpu", "memory", "disk"] {
        for text in ["{\"nonsense\":1}", "{", ""] {
            let bad = put_text(&daemon, "not-a-uuid", what, text).await;
            assert_eq!((bad.status, bad.message()), (400, "Invalid UUID format."), "{what}");
            let unknown = put_text(&daemon, ID, what, text).await;
            assert_eq!((unknown.status, unknown.message()), (404, format!("VM not found: {ID}.").as_str()), "{what}");
        }
        let id = daemon.create(daemon.wish()).await;
        let plain = daemon.http().put(daemon.at(&format!("/vms/{id}/{what}"))).body("{}");
        daemon.send(plain).await.expect(415);
        daemon.post(&format!("/vms/{id}/{what}"), json!({})).await.expect(405);
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
        daemon.put(&format!("/vms/{id}/{what}"), json!({})).await.expect(404);
    }
}

#[tokio::test]
async fn a_stopped_vm_has_it_at_its_next_start() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    for (what, body) in [
        ("cpu", json!({ "vcpus": 3, "cpu_pinning": { "vcpus": [[1], [0, 1]], "emulator": [0] } })),
        ("memory", json!({ "memory": 96 })),
        ("disk", json!({ "disk_size": 2 })),
        ("disk", json!({ "io_limits": { "iops": 100, "bps_read": 1_000_000 } })),
    ] {
        let answer = put(&daemon, &id, what, body.clone()).await;
        assert_eq!((&answer["applied"], &answer["pending"]), (&json!("next_start"), &json!({})), "{answer}");
        let config = config(&daemon, &id).await;
        assert_eq!(config["pending"], json!({}), "nothing runs that could lack it");
        for (field, value) in body.as_object().unwrap() {
            assert_eq!((&answer[field], &config[field]), (value, value));
        }
    }
    assert_eq!(disk_gib(&daemon, &id).await, 2);
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let pid = daemon.qemus()[0];
    assert!(argument(pid, "-smp").starts_with("cpus=3,"), "{}", argument(pid, "-smp"));
    assert!(argument(pid, "-m") == "size=96M", "{}", argument(pid, "-m"));
    let bound: Vec<_> = vcpu_threads(pid).into_iter().map(affinity).collect();
    assert_eq!(bound, [vec![1], vec![0, 1], everywhere()]);
    assert_eq!(affinity(pid), [0]);
    assert_eq!(config(&daemon, &id).await["pending"], json!({}));

    // And it is taken away again.
    daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
    let answer = put(&daemon, &id, "cpu", json!({ "cpu_pinning": null })).await;
    assert_eq!((&answer["cpu_pinning"], &answer["vcpus"]), (&Value::Null, &json!(3)));
    let answer = put(&daemon, &id, "disk", json!({ "io_limits": null })).await;
    assert_eq!((&answer["io_limits"], &answer["disk_size"]), (&Value::Null, &json!(2)));
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    assert_eq!(affinity(daemon.qemus()[0]), everywhere());
}

/// Ruling 12: a bound that nobody set gives way, at the next start.
#[tokio::test]
async fn vcpus_beyond_an_assumed_bound_come_with_the_next_start() {
    let daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let answer = put(&daemon, &id, "cpu", json!({ "vcpus": 18 })).await;
    assert_eq!((&answer["applied"], &answer["vcpus"]), (&json!("next_start"), &json!(18)), "{answer}");
    assert_eq!(answer["pending"]["vcpus"]["configured"], 18, "{answer}");
    assert_eq!(answer["pending"]["max_vcpus"], json!({ "configured": 18, "in_effect": 16 }), "{answer}");
    daemon.post(&format!("/vms/{id}/stop?force=true"), json!({})).await.expect(200);
    assert_eq!(config(&daemon, &id).await["pending"], json!({}));
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let pid = daemon.qemus()[0];
    assert!(argument(pid, "-smp").starts_with("cpus=18,maxcpus=18,"), "{}", argument(pid, "-smp"));
    assert_eq!(vcpu_threads(pid).len(), 18);
    let config = config(&daemon, &id).await;
    assert_eq!((&config["vcpus"], &config["max_vcpus"], &config["pending"]), (&json!(18), &json!(18), &json!({})));
}
