//! A real guest and its agent over REST: what it says of its guest, commands, files, the clock, and file systems that are frozen.
//! One boot for all of it. Agents that are mute, lie, flood or die are in `src/vm/guest/tests.rs`.

use std::{
    process::{Command, Output},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::{Answer, Daemon, PATIENCE, guest};

async fn exec(daemon: &Daemon, id: &str, body: Value) -> Answer {
    daemon.post(&format!("/vms/{id}/exec"), body).await
}

/// What a shell in the guest writes.
async fn shell(daemon: &Daemon, id: &str, script: &str) -> String {
    let done = exec(daemon, id, json!({ "argv": ["sh", "-c", script], "timeout": 600 })).await.expect(200);
    assert_eq!((&done["exit_code"], &done["stderr"]), (&json!(0), &json!("")), "{script}: {done}");
    done["stdout"].as_str().unwrap().to_owned()
}

async fn put(daemon: &Daemon, id: &str, query: &str, body: Vec<u8>) -> Answer {
    daemon.send(daemon.http().put(daemon.at(&format!("/vms/{id}/files?{query}"))).body(body)).await
}

/// Status and bytes.
async fn file(daemon: &Daemon, id: &str, query: &str) -> (u16, Vec<u8>) {
    let answer = daemon.http().get(daemon.at(&format!("/vms/{id}/files?{query}"))).send().await.unwrap();
    (answer.status().as_u16(), answer.bytes().await.unwrap().to_vec())
}

fn qherd(daemon: &Daemon, words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_qherd"));
    command.args(words).args(if words.contains(&"--") { &[][..] } else { &["-q"][..] });
    command.env("QHERD_URL", &daemon.url).output().unwrap()
}

#[tokio::test]
async fn a_guest_does_by_its_agent_what_it_is_asked_over_rest() {
    let mut daemon = guest::daemon();
    let mut wish = guest::wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    assert_eq!(exec(&daemon, &id, json!({ "argv": ["true"] })).await.status, 422, "it is still booting");
    daemon.await_boot(&id, None).await;

    says_what_it_is(&daemon, &id).await;
    runs_commands(&daemon, &id).await;
    keeps_files(&daemon, &id).await;
    has_a_clock(&daemon, &id).await;
    is_asked_by_other_clients(&daemon, &id).await;
    runs_what_bears_one_key_once(&mut daemon, &id).await;
    freezes_and_thaws(&mut daemon, &id).await;

    let events = daemon.get(&format!("/events?after=0&wait=0&type=vm.guest&vm={id}")).await.expect(200);
    for request in ["exec", "write_file", "set_time", "freeze", "thaw"] {
        let of = |event: &&Value| event["request"] == request;
        let event =
            events["events"].as_array().unwrap().iter().find(of).unwrap_or_else(|| panic!("{request}: {events}"));
        assert!(request == "thaw" || !event["by"].as_array().unwrap().is_empty(), "{event}");
    }
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(daemon.leftovers(), [] as [std::path::PathBuf; 0]);
}

async fn says_what_it_is(daemon: &Daemon, id: &str) {
    let agent = daemon.get(&format!("/vms/{id}/agent")).await.expect(200);
    assert!(agent["version"].as_str().unwrap().starts_with(|c: char| c.is_ascii_digit()), "{agent}");
    assert!(agent["capabilities"].as_array().unwrap().contains(&json!("guest-exec")), "{agent}");
    assert_eq!((&agent["hostname"], &agent["os"]["id"]), (&json!("qherd-guest"), &json!("qherd-guest")), "{agent}");
    let interfaces = agent["interfaces"].as_array().unwrap();
    assert!(interfaces.iter().any(|one| one["name"] == "lo"), "{agent}");
    assert!(agent["file_systems"].is_array() && agent["time"].is_string(), "{agent}");
}

async fn runs_commands(daemon: &Daemon, id: &str) {
    let script = "read line; echo \"$line $A in $PWD\"; echo wrong >&2; exit 3";
    let body = json!({ "argv": ["sh", "-c", script], "env": { "A": "b c" }, "cwd": "/usr/bin", "stdin": "hi\n" });
    let done = exec(daemon, id, body).await.expect(200);
    assert_eq!((&done["exit_code"], &done["signal"], &done["timed_out"]), (&json!(3), &Value::Null, &json!(false)));
    assert_eq!((&done["stdout"], &done["stderr"]), (&json!("hi b c in /usr/bin\n"), &json!("wrong\n")));
    for (body, code) in [
        (json!({ "argv": ["/no/such"] }), 127),
        (json!({ "argv": ["no-such"], "cwd": "/" }), 127),
        (json!({ "argv": ["/etc/passwd"] }), 126),
        (json!({ "argv": ["true"], "cwd": "/no/such" }), 125),
    ] {
        let done = exec(daemon, id, body).await.expect(200);
        assert_eq!(done["exit_code"], code, "{done}");
        assert_ne!(done["stderr"], "", "{done}");
    }
    let killed = exec(daemon, id, json!({ "argv": ["sh", "-c", "kill -9 $$"] })).await.expect(200);
    assert_eq!((&killed["exit_code"], &killed["signal"]), (&Value::Null, &json!(9)), "{killed}");
    let late = exec(daemon, id, json!({ "argv": ["sleep", "1000"], "timeout": 1 })).await.expect(200);
    assert_eq!((&late["timed_out"], &late["signal"]), (&json!(true), &json!(9)), "{late}");

    let much = json!({ "argv": ["sh", "-c", "head -c 262144 /dev/zero"], "encoding": "base64", "timeout": 600 });
    let much = exec(daemon, id, much).await.expect(200);
    assert_eq!(much["stdout"].as_str().unwrap().len(), 262_144_usize.div_ceil(3) * 4);
    assert_eq!(much["stdout_truncated"], false);
    // Many at once, each of which has its own answer.
    let each = (0..24).map(|number| async move { (number, shell(daemon, id, &format!("echo {number}")).await) });
    for (number, said) in join_all(each).await {
        assert_eq!(said, format!("{number}\n"));
    }

    let begun = daemon.http().post(daemon.at(&format!("/vms/{id}/exec"))).header("prefer", "respond-async");
    let begun = daemon.send(begun.json(&json!({ "argv": ["echo", "later"] }))).await.expect(202);
    let place = format!("/operations/{}?wait=60", begun["id"].as_str().unwrap());
    let ended = daemon.get(&place).await.expect(200);
    assert_eq!(ended["result"]["body"]["stdout"], "later\n", "{ended}");

    for (body, param) in [
        (json!({ "argv": [] }), "argv"),
        (json!({ "argv": ["a\u{0}b"] }), "argv"),
        (json!({ "argv": ["true"], "env": { "A=B": "" } }), "env"),
        (json!({ "argv": ["true"], "user": "-x" }), "user"),
        (json!({ "argv": ["true"], "timeout": 0 }), "timeout"),
        (json!({ "argv": ["true"], "stdin": "*", "encoding": "base64" }), "stdin"),
    ] {
        let refused = exec(daemon, id, body).await;
        assert_eq!(refused.status, 400, "{refused:?}");
        assert!(refused.message().contains(&format!("Invalid parameter: {param} ")), "{refused:?}");
    }
}

async fn keeps_files(daemon: &Daemon, id: &str) {
    let content: Vec<u8> = (0..700_000_u32).map(|number| (number.wrapping_mul(number) >> 7) as u8).collect();
    let done = put(daemon, id, "path=/run/large", content.clone()).await.expect(200);
    let sum = shell(daemon, id, "sha256sum </run/large").await;
    assert_eq!(sum.split(' ').next(), done["sha256"].as_str());
    assert_eq!(done["size"], content.len());
    assert!(file(daemon, id, "path=/run/large").await == (200, content.clone()));
    assert!(file(daemon, id, "path=/run/large&offset=699990").await == (200, content[699_990..].to_vec()));
    put(daemon, id, "path=/run/large&append=true", b"more".to_vec()).await.expect(200);
    assert!(file(daemon, id, "path=/run/large&offset=700000").await == (200, b"more".to_vec()));
    put(daemon, id, "path=/run/large", Vec::new()).await.expect(200);
    assert_eq!(file(daemon, id, "path=/run/large").await, (200, Vec::new()));
    // It has no length until it is read.
    let (status, version) = file(daemon, id, "path=/proc/version").await;
    assert!(status == 200 && version.starts_with(b"Linux"), "{version:?}");
    assert_eq!(file(daemon, id, "path=/no/such").await.0, 404);
    assert_eq!(put(daemon, id, "path=/no/such/file", b"x".to_vec()).await.status, 404);
    let folder = put(daemon, id, "path=/run", b"x".to_vec()).await;
    assert_eq!(folder.status, 409, "{folder:?}");
    assert!(folder.message().contains("directory"), "{folder:?}");
    assert_eq!(file(daemon, id, "offset=1").await.0, 400);

    // A user that is made so, and that a command runs as.
    let line = b"guest:x:1234:0:guest:/run:/bin/sh\n".to_vec();
    put(daemon, id, "path=/etc/passwd&append=true", line).await.expect(200);
    let body = json!({ "argv": ["sh", "-c", "id -u; echo \"$0 $1\"", "a b", "-c"], "user": "guest", "cwd": "/usr" });
    let done = exec(daemon, id, body).await.expect(200);
    assert_eq!(done["stdout"], "1234\na b -c\n", "{done}");
}

async fn has_a_clock(daemon: &Daemon, id: &str) {
    let path = format!("/vms/{id}/time");
    let set = daemon.post(&path, json!({ "time": "2031-05-06T00:00:00Z" })).await.expect(200);
    assert_eq!(set["time"], "2031-05-06T00:00:00.000Z");
    assert_eq!(shell(daemon, id, "date -u +%Y-%m").await, "2031-05\n");
    assert_eq!(daemon.post(&path, json!({ "time": "soon" })).await.status, 400);
    let now = daemon.post(&path, json!({})).await.expect(200);
    assert!(now["time"].as_str().unwrap().starts_with(shell(daemon, id, "date -u +%Y-%m").await.trim_end()), "{now}");
}

async fn is_asked_by_other_clients(daemon: &Daemon, id: &str) {
    let hyperv = daemon.get(&format!("/hyperv/vms/{id}/agent")).await.expect(200);
    assert_eq!((&hyperv["VMId"], &hyperv["HostName"]), (&json!(id), &json!("qherd-guest")), "{hyperv}");
    let done = daemon.post(&format!("/hyperv/vms/{id}/exec"), json!({ "argv": ["echo", "hi"] })).await.expect(200);
    assert_eq!((&done["ExitCode"], &done["Stdout"]), (&json!(0), &json!("hi\n")), "{done}");

    let out = qherd(daemon, &["exec", id, "--", "sh", "-c", "printf 'a\\377b'; echo err >&2; exit 7"]);
    assert_eq!((out.status.code(), out.stdout.as_slice()), (Some(7), &b"a\xffb"[..]), "{out:?}");
    assert_eq!(out.stderr, b"err\n");
    let folder = tempfile::tempdir().unwrap();
    let (here, back) = (folder.path().join("here"), folder.path().join("back"));
    std::fs::write(&here, b"of the host").unwrap();
    let there = format!("{id}:/run/there");
    let done = qherd(daemon, &["cp", here.to_str().unwrap(), &there]);
    assert!(done.status.success(), "{done:?}");
    let done = qherd(daemon, &["cp", &there, back.to_str().unwrap()]);
    assert!(done.status.success(), "{done:?}");
    assert_eq!(std::fs::read(&back).unwrap(), b"of the host");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left of a copy");
    let missing = qherd(daemon, &["cp", &format!("{id}:/no/such"), back.to_str().unwrap()]);
    assert_eq!(missing.status.code(), Some(3), "{missing:?}");
    let agent = qherd(daemon, &["agent", id]);
    assert!(String::from_utf8_lossy(&agent.stdout).contains("qherd test guest"), "{agent:?}");
}

/// A request with a key is not carried out again, also where its daemon was killed over it.
async fn runs_what_bears_one_key_once(daemon: &mut Daemon, id: &str) {
    let keyed = |daemon: &Daemon, key: &str, script: &str| {
        let body = json!({ "argv": ["sh", "-c", script], "timeout": 600 });
        daemon.http().post(daemon.at(&format!("/vms/{id}/exec"))).header("idempotency-key", key).json(&body)
    };
    let script = "echo x >>/run/kept; wc -l </run/kept";
    for _ in 0..2 {
        let done = daemon.send(keyed(daemon, "kept", script)).await.expect(200);
        assert_eq!(done["stdout"], "1\n");
    }
    let script = "echo x >>/run/once; exec sleep 3600";
    let lost = tokio::spawn(keyed(daemon, "once", script).send());
    let _ = shell(daemon, id, "until [ -s /run/once ]; do sleep 0.1; done").await;
    daemon.kill();
    assert!(lost.await.unwrap().is_err(), "its answer is lost");
    daemon.run();
    let wait = daemon.get(&format!("/vms/{id}/status?wait=agent&timeout=120")).await.expect(200);
    assert_eq!(wait["reached"], true, "{wait}");
    let again = daemon.send(keyed(daemon, "once", script)).await;
    assert_eq!(again.status, 409, "{again:?}");
    assert!(again.message().contains("Idempotency-Key"), "{again:?}");
    assert_eq!(shell(daemon, id, "wc -l </run/once").await, "1\n");
}

/// The guest answers again.
async fn is_thawed(daemon: &Daemon, id: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = exec(daemon, id, json!({ "argv": ["sync"] })).await;
        if answer.status == 200 {
            return;
        }
        assert!([409, 422, 502].contains(&answer.status), "{answer:?}");
        assert!(Instant::now() < deadline, "it is never thawed: {answer:?}\n{}", daemon.log_text());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn freezes_and_thaws(daemon: &mut Daemon, id: &str) {
    let at = |what: &str| format!("/vms/{id}/{what}");
    daemon.post(&at("disks"), json!({ "disk_size": 1 })).await.expect(201);
    let make = "until [ -b /dev/vdb ]; do sleep 0.1; done; mke2fs -q /dev/vdb 65536 >/dev/null 2>&1; mount -t ext4 /dev/vdb /mnt";
    let _ = shell(daemon, id, make).await;

    let frozen = daemon.post(&at("freeze"), json!({ "timeout": 600 })).await.expect(200);
    assert_eq!(frozen["file_systems"], 1, "{frozen}");
    assert!(frozen["thaws_at"].is_string(), "{frozen}");
    let refused = exec(daemon, id, json!({ "argv": ["true"] })).await;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert!(refused.message().contains("frozen"), "{refused:?}");
    assert_eq!(daemon.post(&at("freeze"), json!({})).await.status, 409);
    assert_eq!(daemon.get(&at("agent")).await.expect(200)["os"], Value::Null, "it says less");
    assert_eq!(daemon.post(&at("thaw"), json!({})).await.expect(200)["file_systems"], 1);
    assert_eq!(shell(daemon, id, "echo back >/mnt/x; cat /mnt/x").await, "back\n");
    assert_eq!(daemon.post(&at("thaw"), json!({})).await.expect(200)["file_systems"], 0);

    // By itself, also where its daemon has died meanwhile.
    daemon.post(&at("freeze"), json!({ "timeout": 1 })).await.expect(200);
    is_thawed(daemon, id).await;
    daemon.post(&at("freeze"), json!({ "timeout": 3 })).await.expect(200);
    daemon.kill();
    daemon.run();
    is_thawed(daemon, id).await;
    for timeout in [0, 601] {
        assert_eq!(daemon.post(&at("freeze"), json!({ "timeout": timeout })).await.status, 400);
    }

    // A guest that is frozen is stopped like any other.
    daemon.post(&at("freeze"), json!({ "timeout": 600 })).await.expect(200);
    let stopped = daemon.post(&at("stop"), json!({ "timeout": 300 })).await.expect(200);
    assert_eq!(stopped["forced"], false, "{stopped}");
    assert_eq!(exec(daemon, id, json!({ "argv": ["true"] })).await.status, 409);
    assert_eq!(daemon.post(&at("freeze"), json!({})).await.status, 409);
}
