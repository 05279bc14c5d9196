//! Bodies and queries that are refused: the status, a message that says what to change, and nothing left behind.
//! Base images have a file of their own (`bad_base_image.rs`).

use crate::support::{Answer, Daemon};
use serde_json::{Value, json};

const ID: &str = "123e4567-e89b-12d3-a456-426614174000";
const NOTHING: [std::path::PathBuf; 0] = [];

/// Refused, and the message holds every one of `words` (separated by `|`).
#[track_caller]
fn refused(answer: &Answer, status: u16, words: &str, requested: &str) {
    assert_eq!(answer.status, status, "{requested} → {}", answer.body);
    assert_eq!(answer.body["error"]["code"], status, "{requested} → {}", answer.body);
    for word in words.split('|') {
        assert!(answer.message().contains(word), "{requested}: no {word:?} in {:?}", answer.message());
    }
}

async fn nothing_is_left(daemon: &Daemon) {
    assert_eq!(daemon.get("/vms").await.expect(200), json!([]));
    assert_eq!(daemon.leftovers(), NOTHING);
    assert_eq!(daemon.qemus(), [] as [i32; 0]);
}

async fn create_text(daemon: &Daemon, text: impl Into<reqwest::Body>) -> Answer {
    daemon.send(daemon.http().post(daemon.at("/vms")).header("content-type", "application/json").body(text)).await
}

/// Each a JSON value for `field` in an otherwise good wish, and what the message must say.
async fn refuse_values(daemon: &Daemon, field: &str, cases: &[(&str, &str)]) {
    for (value, words) in cases {
        let mut wish = daemon.wish();
        wish.as_object_mut().unwrap().remove(field);
        let wish = wish.to_string();
        let text = format!("{},\"{field}\":{value}}}", wish.strip_suffix('}').unwrap());
        refused(&create_text(daemon, text).await, 400, &format!("{field}|{words}"), &format!("{field}: {value}"));
    }
}

#[tokio::test]
async fn numbers_outside_their_range_are_refused_with_the_range() {
    let daemon = Daemon::start();
    let positive = "must be greater than 0.";
    for (field, highest) in [
        ("vcpus", "must be at most 255."),
        ("memory", "must be at most |the memory of this host"),
        ("disk_size", "must be at most 65536 GiB."),
        ("max_vcpus", "must be at most 255."),
        ("max_memory", "must be at most |the memory of this host"),
    ] {
        let whole = "must be a whole number";
        let cases = [
            ("0", positive),
            ("-1", positive),
            ("-9223372036854775808", positive),
            ("9223372036854775807", highest),
            ("18446744073709551616", "must be a whole number within range."),
            ("1e30", "must be a whole number within range."),
            ("1.5", whole),
            ("\"2\"", whole),
            ("true", whole),
            ("[1]", whole),
            ("{}", whole),
        ];
        refuse_values(&daemon, field, &cases).await;
    }
    refuse_values(&daemon, "vcpus", &[("256", "at most 255"), ("null", "must be given")]).await;
    refuse_values(&daemon, "memory", &[("15", "at least 16 MiB"), ("null", "must be given")]).await;
    refuse_values(&daemon, "disk_size", &[("65537", "at most 65536"), ("null", "must be given")]).await;
    let host = procfs_memory_mib();
    refuse_values(&daemon, "memory", &[(&(host + 1).to_string(), &format!("at most {host} MiB"))]).await;
    refuse_values(&daemon, "max_memory", &[("63", "at least memory (64 MiB)")]).await;
    let mut wish = daemon.wish();
    (wish["vcpus"], wish["max_vcpus"]) = (json!(3), json!(2));
    refused(&daemon.post("/vms", wish).await, 400, "max_vcpus must be at least vcpus (3).", "max_vcpus 2");
    nothing_is_left(&daemon).await;
}

fn procfs_memory_mib() -> u64 {
    use procfs::Current;
    procfs::Meminfo::current().unwrap().mem_total >> 20
}

#[tokio::test]
async fn wrong_types_and_texts_are_refused_with_the_expectation() {
    let daemon = Daemon::start();
    let long = format!("\"{}\"", "x".repeat(65));
    let characters = "must consist of letters, digits";
    refuse_values(
        &daemon,
        "name",
        &[
            ("\"\"", "must have 1 to 64 characters"),
            (&long, "must have 1 to 64 characters"),
            ("\" a\"", characters),
            ("\"a,b=c\"", characters),
            ("\"../etc\"", characters),
            ("\"a\\nb\"", characters),
            ("\"a\\u0000\"", characters),
            ("7", "must be a string, not 7"),
            ("[]", "must be a string"),
        ],
    )
    .await;
    refuse_values(
        &daemon,
        "profile",
        &[
            ("\"vax\"", "must be one of pc, q35, not \"vax\""),
            ("\"\"", "must be one of pc, q35"),
            ("\"../q35\"", "must be one of"),
            ("1", "must be a string"),
        ],
    )
    .await;
    let boolean = "must be true or false";
    refuse_values(&daemon, "start", &[("\"yes\"", boolean), ("1", boolean)]).await;
    let modes = "must be one of linked, full";
    refuse_values(&daemon, "clone", &[("\"copy\"", modes), ("true", modes), ("\"Full\"", modes)]).await;
    refuse_values(
        &daemon,
        "base_image",
        &[
            ("1", "must be a string"),
            ("null", "must be given"),
            ("\"\"", "must be the path"),
            ("\"a\\u0000b\"", "must be the path"),
        ],
    )
    .await;
    nothing_is_left(&daemon).await;
}

#[tokio::test]
async fn missing_unknown_and_repeated_fields_are_named() {
    let daemon = Daemon::start();
    for field in ["vcpus", "memory", "disk_size", "base_image"] {
        let mut wish = daemon.wish();
        wish.as_object_mut().unwrap().remove(field);
        let words = format!("Invalid parameter: {field} must be given.");
        refused(&daemon.post("/vms", wish).await, 400, &words, field);
    }
    for (field, words) in [
        ("vcpu", "vcpu is not known; did you mean vcpus?"),
        ("diskSize", "diskSize is not known; did you mean disk_size?"),
        ("colour", "colour is not known; known here: vcpus, memory"),
        ("", "is not known"),
    ] {
        let mut wish = daemon.wish();
        wish[field] = json!(1);
        refused(&daemon.post("/vms", wish).await, 400, words, field);
    }
    let twice = [
        ("vcpus", "1"),
        ("memory", "64"),
        ("disk_size", "1"),
        ("base_image", "\"blank.raw\""),
        ("name", "\"a\""),
        ("profile", "\"pc\""),
        ("start", "false"),
        ("clone", "\"full\""),
        ("max_vcpus", "4"),
        ("max_memory", "64"),
        ("cpu_pinning", "{\"cores\":[0]}"),
        ("io_limits", "{\"iops\":1}"),
    ];
    for (field, value) in twice {
        let mut wish = daemon.wish();
        wish.as_object_mut().unwrap().remove(field);
        let wish = wish.to_string();
        let text = format!("{},\"{field}\":{value},\"{field}\":{value}}}", wish.strip_suffix('}').unwrap());
        refused(&create_text(&daemon, text).await, 400, &format!("{field} must be given only once."), field);
    }
    nothing_is_left(&daemon).await;
}

#[tokio::test]
async fn cores_that_cannot_be_pinned_to_are_named() {
    let daemon = Daemon::start();
    refuse_values(
        &daemon,
        "cpu_pinning",
        &[
            ("{\"cores\":[]}", "cores must name at least one core"),
            ("{\"cores\":[0,4095]}", "there is no core 4095"),
            ("{\"cores\":[-1]}", "there is no core -1"),
            ("{\"cores\":[99999999999]}", "there is no core 99999999999"),
            ("{\"cores\":[0,0]}", "once; 0 is repeated"),
            ("{\"cores\":[\"0\"]}", "cores[0] must be a whole number"),
            ("{\"cores\":[0.5]}", "cores[0] must be a whole number"),
            ("{\"cores\":0}", "must be an array"),
            ("{\"cores\":null}", "must hold cores, vcpus or emulator"),
            ("{}", "must hold cores, vcpus or emulator"),
            ("{\"vcpus\":[[0],[1]]}", "cpu_pinning.vcpus must have at most as many entries as there are vCPUs (1)"),
            ("{\"core\":[0]}", "cpu_pinning.core is not known; did you mean cores?"),
            ("[0]", "must be an object"),
            ("\"0-1\"", "must be an object"),
        ],
    )
    .await;
    nothing_is_left(&daemon).await;
}

#[tokio::test]
async fn limits_that_contradict_themselves_are_refused_before_anything_is_made() {
    let daemon = Daemon::start();
    let positive = "must be greater than 0.";
    refuse_values(
        &daemon,
        "io_limits",
        &[
            ("{}", "must hold at least one limit"),
            ("{\"iops\":0}", positive),
            ("{\"iops\":-5}", positive),
            ("{\"bps_write_burst_seconds\":0}", positive),
            ("{\"iops\":9223372036854775807}", "io_limits.iops must be at most 1000000000000000"),
            ("{\"iops\":1e30}", "whole number within range"),
            ("{\"iops\":\"fast\"}", "io_limits.iops must be a whole number"),
            ("{\"iops\":1,\"iops\":2}", "io_limits.iops must be given only once"),
            ("{\"iop\":1}", "io_limits.iop is not known; did you mean iops?"),
            ("{\"iops\":1,\"iops_read\":1}", "iops must not be combined with iops_read"),
            ("{\"bps\":1,\"bps_write\":1}", "bps must not be combined with"),
            ("{\"iops\":10,\"iops_burst\":5}", "iops_burst must not be lower than iops (10)"),
            ("{\"iops_burst\":5}", "must come together with iops"),
            ("{\"iops\":5,\"iops_burst_seconds\":5}", "must come together with iops_burst"),
            ("[]", "must be an object"),
            ("1000", "must be an object"),
        ],
    )
    .await;
    nothing_is_left(&daemon).await;
}

#[tokio::test]
async fn bodies_that_are_no_json_object_are_refused_in_words() {
    let daemon = Daemon::start();
    let deep = "[".repeat(100_000);
    for (text, words) in [
        ("{", "not valid JSON|line 1, column 1"),
        ("{\"vcpus\":1,}", "not valid JSON|line 1"),
        ("{\"vcpus\":1}\n}", "not valid JSON|line 2|something follows after its end"),
        ("vcpus=1", "not valid JSON"),
        ("{\"vcpus\":NaN}", "not valid JSON"),
        ("{\"vcpus\":1e999}", "not valid JSON|too large"),
        (&deep, "nested too deeply"),
        ("[]", "must be a JSON object, not an array"),
        ("null", "must be a JSON object, not null"),
        ("7", "must be a JSON object, not a number"),
        ("\"x\"", "must be a JSON object, not a string"),
        ("", "The body is missing"),
        ("{}", "vcpus must be given"),
    ] {
        refused(&create_text(&daemon, text.to_owned()).await, 400, words, &text[..text.len().min(40)]);
    }
    refused(&create_text(&daemon, vec![b'{', 0xff, b'}']).await, 400, "not UTF-8|column 2", "not UTF-8");
    let wish = daemon.wish().to_string();
    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let request = daemon.http().post(daemon.at("/vms")).body(wish.clone());
        let request = content_type.iter().fold(request, |request, kind| request.header("content-type", *kind));
        refused(&daemon.send(request).await, 415, "Content-Type: application/json", "another content type");
    }
    nothing_is_left(&daemon).await;
}

#[tokio::test]
async fn a_body_of_100_mb_is_refused_and_the_daemon_goes_on() {
    let daemon = Daemon::start();
    let words = "too large|1048576 bytes";
    let known = create_text(&daemon, vec![b' '; 100_000_000]).await;
    refused(&known, 413, words, "100 MB at once");
    // Of a length that is not told beforehand.
    let piece = || Ok::<_, std::io::Error>(hyper::body::Frame::data(bytes::Bytes::from(vec![b' '; 1_000_000])));
    let pieces = http_body_util::StreamBody::new(futures_util::stream::iter((0..100).map(move |_| piece())));
    refused(&create_text(&daemon, reqwest::Body::wrap(pieces)).await, 413, words, "100 MB in pieces");
    // The order of checks holds: an unknown VM is told first.
    let request = daemon.http().post(daemon.at(&format!("/vms/{ID}/stop"))).body(vec![b' '; 2_000_000]);
    refused(&daemon.send(request).await, 404, "VM not found", "2 MB for an unknown VM");
    let request = daemon.http().post(daemon.at("/nope")).body(vec![b' '; 20_000_000]);
    refused(
        &daemon.send(request).await,
        404,
        "No such path; openapi.json lists those that there are.",
        "20 MB for nobody",
    );
    let rss = procfs::process::Process::new(daemon.pid()).unwrap().statm().unwrap().resident * procfs::page_size();
    assert!(rss < 100 << 20, "{rss} bytes are resident");
    nothing_is_left(&daemon).await;
}

#[tokio::test]
async fn bad_queries_are_refused_with_the_name_of_the_parameter() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    for (path, words) in [
        ("/vms?colour=red", "colour is not known; known here: status, name, label, fields, sort, limit, page_token"),
        ("/vms?statsu=running", "statsu is not known; did you mean status?"),
        ("/vms?status=on", "status must be one of stopped|running|not \"on\""),
        ("/vms?status=running&status=stopped", "status must be given only once"),
        ("/vms?limit=0", "limit must be greater than 0"),
        ("/vms?limit=-1", "limit must be greater than 0"),
        ("/vms?limit=10001", "limit must be at most 10000"),
        ("/vms?limit=many", "limit must be a whole number"),
        ("/vms?limit=", "limit must be a whole number"),
        ("/vms?limit=99999999999999999999", "limit must be a whole number within range"),
        ("/vms?page_token=x", "page_token must be one that a list gave"),
        ("/vms?page_token=", "page_token must be one that a list gave"),
        ("/vms?page_token=1.not-a-uuid", "page_token must be one that a list gave"),
        (&format!("/vms?page_token=-1.{ID}"), "page_token must be one that a list gave"),
        ("/health?verbose=1", "verbose is not known; none is expected here"),
        (&format!("/vms/{id}?full=1"), "full is not known"),
        (&format!("/vms/{id}/console/log?tail=0"), "tail must be greater than 0"),
        (&format!("/vms/{id}/console/log?tail=-5"), "tail must be greater than 0"),
        (&format!("/vms/{id}/console/log?tail=all"), "tail must be a whole number"),
        (&format!("/vms/{id}/console/log?tail=1&tail=2"), "tail must be given only once"),
        (&format!("/vms/{id}/console/log?tail=9223372036854775808"), "tail must be a whole number within range"),
    ] {
        refused(&daemon.get(path).await, 400, words, path);
    }
    let answer = daemon.delete(&format!("/vms/{id}?graceful=maybe")).await;
    refused(&answer, 400, "graceful must be true or false", "graceful");
    assert_eq!(daemon.status(&id).await, "stopped", "the VM is still there");
}

#[tokio::test]
async fn bad_actions_are_refused_and_the_vm_runs_on() {
    let daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    let pid = daemon.qemus();
    let seconds = "timeout must be at most 86400 (seconds)";
    for (action, body, words) in [
        ("stop?force=true", json!({"force": false}), "force must be the same in query (true) and body (false)"),
        ("stop?timeout=5", json!({"timeout": 6}), "timeout must be the same in query (5) and body (6)"),
        ("stop?force=1", json!({}), "force must be true or false"),
        ("stop?force", json!({}), "force must be true or false"),
        ("stop?force=true&force=true", json!({}), "force must be given only once"),
        ("stop?forse=true", json!({}), "forse is not known; did you mean force?"),
        ("stop", json!({"force": "true"}), "force must be true or false"),
        ("stop", json!({"forced": true}), "forced is not known; did you mean force?"),
        ("stop", json!({"timeout": 0}), "timeout must be greater than 0|force=true"),
        ("stop", json!({"timeout": -1}), "timeout must be greater than 0"),
        ("stop", json!({"timeout": 86_401}), seconds),
        ("stop", json!({"timeout": 1.5}), "timeout must be a whole number"),
        ("stop", json!([]), "must be a JSON object"),
        ("reboot", json!({"timeout": 0}), "timeout must be greater than 0"),
        ("reboot?timeout=soon", json!({}), "timeout must be a whole number"),
        ("reboot", json!({"force": true}), "force is not known; known here: timeout"),
        ("start", json!({"paused": true}), "paused is not known; none is expected here"),
        ("start?force=true", json!({}), "force is not known"),
        ("start", Value::Null, "must be a JSON object, not null"),
    ] {
        refused(
            &daemon.post(&format!("/vms/{id}/{action}"), body.clone()).await,
            400,
            words,
            &format!("{action} {body}"),
        );
    }
    let plain = daemon.http().post(daemon.at(&format!("/vms/{id}/stop"))).body("{}");
    refused(&daemon.send(plain).await, 415, "application/json", "no content type");
    assert_eq!((daemon.status(&id).await.as_str(), daemon.qemus()), ("running", pid));
    // Saying the same twice is no contradiction.
    let agreed = daemon.post(&format!("/vms/{id}/stop?force=true"), json!({"force": true})).await.expect(200);
    assert_eq!(agreed["forced"], true);
    daemon.post(&format!("/vms/{id}/stop"), json!({"timeout": 86_400})).await.expect(200);
    // Ruling 6: the syntax of the id, then its existence, then the body.
    let bad = json!({"nonsense": 1});
    refused(&daemon.post("/vms/nonsense/stop", bad.clone()).await, 400, "Invalid UUID format.", "bad id, bad body");
    refused(&daemon.post(&format!("/vms/{ID}/stop"), bad).await, 404, "VM not found", "unknown id, bad body");
}

/// An id has one notation.
#[tokio::test]
async fn other_notations_of_an_id_are_refused() {
    let daemon = Daemon::start();
    let id = daemon.create(daemon.wish()).await;
    let other =
        ["0", "not-a-uuid", "%00", "..%2F..", &id.replace('-', ""), &format!("%7B{id}%7D"), &format!("{id}%20")];
    for bad in other {
        refused(&daemon.get(&format!("/vms/{bad}")).await, 400, "Invalid UUID format.", bad);
    }
    assert_eq!(daemon.get(&format!("/vms/{}", id.to_uppercase())).await.expect(200)["id"], id);
}
