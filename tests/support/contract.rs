//! The examples of the KVM document (tests/fixtures/README.md): what each needs prepared, and how an answer is held
//! against it.
#![allow(unsafe_code)]
#![allow(dead_code)] // Every test file uses its own part.

use std::os::unix::process::CommandExt;

use serde_json::{Value, json};

use crate::support::{Answer, Daemon};

pub const EXAMPLES: &str = include_str!("../fixtures/kvm-examples.json");
/// The id in the document. No VM here can have it: it is no UUID v4.
pub const ID: &str = "123e4567-e89b-12d3-a456-426614174000";

pub fn examples(section: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_json::from_str(EXAMPLES).unwrap();
    let found: Vec<Value> = all.into_iter().filter(|e| e["section"] == section).collect();
    assert!(!found.is_empty(), "no examples of {section}");
    found
}

pub fn failing(section: &str) -> Value {
    examples(section).into_iter().find(|e| e["situation"] == "host_fails").unwrap()
}

/// A daemon that knows the document's folders, with a second for a guest to stop or reboot.
pub fn prepared() -> Daemon {
    let mut daemon = Daemon::prepare(&["--accel", "tcg", "--stop-timeout", "1"]);
    for folder in ["/var/lib/libvirt/images", "/path/to"] {
        let map = format!("{folder}={}", daemon.bases().display());
        daemon.add_args(&["--path-map", &map]);
    }
    daemon
}

pub fn started() -> Daemon {
    let mut daemon = prepared();
    daemon.run();
    daemon
}

pub fn base_image(daemon: &Daemon, name: &str) {
    let file = daemon.bases().join(name);
    let made =
        std::process::Command::new("qemu-img").args(["create", "-q", "-f", "qcow2"]).arg(file).arg("1G").status();
    assert!(made.unwrap().success());
}

/// The document's VM, named as in its examples.
pub async fn vm(daemon: &Daemon) -> String {
    if !daemon.bases().join("ubuntu-base.qcow2").exists() {
        base_image(daemon, "ubuntu-base.qcow2");
    }
    let mut body = examples("create")[0]["body"].clone();
    body["name"] = json!("vm1");
    daemon.create(body).await
}

pub async fn running_vm(daemon: &Daemon) -> String {
    let id = vm(daemon).await;
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    id
}

/// Sends an example's request, with the VM `id` in the place of the document's.
pub async fn ask(daemon: &Daemon, example: &Value, id: &str) -> Answer {
    let url = daemon.at(&example["path"].as_str().unwrap().replace(ID, id));
    let request = daemon.http().request(example["method"].as_str().unwrap().parse().unwrap(), url);
    let request = if example["body"].is_null() { request } else { request.json(&example["body"]) };
    daemon.send(request).await
}

/// Holds an answer against an example.
#[track_caller]
pub fn check(example: &Value, id: &str, answer: &Answer) {
    let context = format!("{example}\n→ {} {}", answer.status, answer.body);
    assert_eq!(answer.status, example["status"], "{context}");
    let expected = &example["response"];
    if answer.status >= 400 {
        let message = expected["error"]["message"].as_str().unwrap().replace(ID, id);
        assert_eq!(answer.body["error"]["code"], expected["error"]["code"], "{context}");
        assert_eq!(answer.message(), message, "{context}");
        return;
    }
    same_shape(expected, &answer.body, example, &context);
    for field in example["literal"].as_array().unwrap() {
        let field = field.as_str().unwrap();
        assert_eq!(answer.body[field], expected[field], "{field}: {context}");
    }
    for field in ["id", "vm_id"] {
        if id != ID && !expected[field].is_null() {
            assert_eq!(answer.body[field], id, "{context}");
        }
    }
}

/// Every documented field is there, with the JSON type that it has in the example. More fields are fine.
#[track_caller]
pub fn same_shape(expected: &Value, actual: &Value, example: &Value, context: &str) {
    match (expected, actual) {
        (Value::Object(fields), Value::Object(_)) => {
            for (name, value) in fields {
                let found = actual.get(name).unwrap_or_else(|| panic!("{name} is missing: {context}"));
                let nullable = example["nullable"].as_array().is_some_and(|n| n.contains(&json!(name)));
                if !(nullable && found.is_null()) {
                    same_shape(value, found, example, context);
                }
            }
        }
        (Value::Array(items), Value::Array(found)) => {
            assert!(!found.is_empty(), "{context}");
            found.iter().for_each(|item| same_shape(&items[0], item, example, context));
        }
        (Value::Number(number), Value::Number(found)) => {
            assert!(number.is_f64() || found.is_u64(), "{found} is not a whole number: {context}");
        }
        (Value::String(_), Value::String(_)) | (Value::Bool(_), Value::Bool(_)) => {}
        _ => panic!("{actual} is not of the type of {expected}: {context}"),
    }
}

/// All examples of a section for which the host need not fail.
pub async fn section(name: &str) {
    let daemon = started();
    for example in examples(name) {
        let id = match example["situation"].as_str().unwrap() {
            "host_fails" | "cannot_fail" => continue,
            "no_vm" | "bad_id" => ID.to_owned(),
            "stopped_vm" => vm(&daemon).await,
            "running_vm" => running_vm(&daemon).await,
            other => panic!("{other}"),
        };
        check(&example, &id, &ask(&daemon, &example, &id).await);
    }
}

/// A full disk, as the daemon and its qemu-img see it: no file may be written beyond `bytes`.
pub fn file_size_limit(pid: Option<i32>, bytes: u64) -> std::io::Result<()> {
    let limit = nix::libc::rlimit { rlim_cur: bytes, rlim_max: nix::libc::RLIM_INFINITY };
    // SAFETY: one system call on a local.
    match unsafe { nix::libc::prlimit(pid.unwrap_or(0), nix::libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// A daemon that gets an error, as on a full disk, rather than a signal when it meets a limit.
pub fn started_with_limit(bytes: u64) -> Daemon {
    let mut daemon = prepared();
    let mut command = daemon.command();
    // SAFETY: async-signal-safe system calls only.
    unsafe {
        command.pre_exec(move || {
            nix::libc::signal(nix::libc::SIGXFSZ, nix::libc::SIG_IGN);
            file_size_limit(None, bytes)
        })
    };
    daemon.run_as(command);
    daemon
}
