//! A host that has run out of something: room in the state directory, permission to write there, descriptors, memory.
//! What cannot be done is told and leaves nothing behind; what frees something works; guests go on; and when there is
//! enough again so does everything, without a restart.

use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::mounts::{Filler, ext4, in_private_mounts, mount, run};
use crate::support::{Answer, Daemon, PATIENCE};
use serde_json::{Value, json};

/// A daemon whose state directory is an ext4 of so many MiB.
fn on_small_disk(mebibytes: u64) -> (Daemon, std::path::PathBuf) {
    let mut daemon = Daemon::prepare(&["--accel", "tcg"]);
    let image = ext4(&daemon.state(), mebibytes);
    daemon.run();
    (daemon, image)
}

async fn running(daemon: &Daemon) -> String {
    let mut wish = daemon.wish();
    wish["start"] = json!(true);
    daemon.create(wish).await
}

async fn act(daemon: &Daemon, id: &str, action: &str, body: Value) -> Answer {
    daemon.post(&format!("/vms/{id}/{action}"), body).await
}

#[track_caller]
fn reported(answer: Answer, why: &str) {
    let body = answer.expect(500);
    let detail = body["error"]["detail"].as_str().unwrap_or_default();
    assert!(detail.contains(why), "no {why:?} in {body}");
}

fn checked(daemon: &Daemon) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_qherd")).args(["db", "check", "--state-dir"]).arg(daemon.state()).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_full_disk_refuses_what_is_new_and_lets_everything_go() {
    in_private_mounts(module_path!(), "a_full_disk_refuses_what_is_new_and_lets_everything_go", || async {
        let (mut daemon, _image) = on_small_disk(128);
        let [forced, gracefully, deleted, stays, stopped] = [
            running(&daemon).await,
            running(&daemon).await,
            running(&daemon).await,
            running(&daemon).await,
            daemon.create(daemon.wish()).await,
        ];
        let mut filler = Filler::new(&daemon.state());
        filler.fill();
        reported(daemon.post("/vms", daemon.wish()).await, "no room in the state directory");
        reported(act(&daemon, &stopped, "start", json!({})).await, "no room in the state directory");
        reported(daemon.put(&format!("/vms/{stays}/memory"), json!({"memory": 128})).await, "no room");
        assert_eq!(daemon.get("/vms").await.expect(200).as_array().unwrap().len(), 5);
        assert_eq!(act(&daemon, &forced, "stop", json!({"force": true})).await.expect(200)["forced"], true);
        assert_eq!(act(&daemon, &gracefully, "stop", json!({"timeout": 1})).await.expect(200)["forced"], true);
        filler.fill();
        daemon.delete(&format!("/vms/{deleted}")).await.expect(200);
        filler.fill();
        act(&daemon, &stays, "reboot", json!({"timeout": 1})).await.expect(200);
        // And so it stays for a daemon that starts on the full disk.
        daemon.kill();
        filler.fill();
        daemon.run();
        for (id, status) in [(&forced, "stopped"), (&gracefully, "stopped"), (&stays, "running"), (&stopped, "stopped")]
        {
            daemon.await_status(id, status).await;
        }
        daemon.get(&format!("/vms/{deleted}")).await.expect(404);
        filler.fill();
        daemon.delete(&format!("/vms/{forced}")).await.expect(200);
        // An end in good order costs the export, and nothing of the ones before.
        let folder = daemon.state().join("exports");
        let exports = || fs::read_dir(&folder).unwrap().count();
        let before = exports();
        filler.fill();
        assert!(daemon.terminate().success());
        assert!(daemon.log_text().contains("no export of the definitions"), "{}", daemon.log_text());
        assert_eq!(exports(), before);
        for _ in 0..3 {
            filler.fill();
            daemon.run();
            daemon.kill();
        }
        daemon.run();
        drop(filler);
        act(&daemon, &stopped, "start", json!({})).await.expect(200);
        let late = running(&daemon).await;
        assert_eq!(daemon.status(&late).await, "running");
        assert!(daemon.terminate().success());
        assert!(checked(&daemon).contains("vm: 4\nall records can be read"));
    });
}

/// What a client was told, in the order of its requests.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Known {
    Stopped,
    Running,
    Deleted,
    /// The last answer was an error: either may be.
    Open,
}

#[test]
fn a_disk_that_fills_up_at_any_moment_loses_nothing_that_was_acknowledged() {
    in_private_mounts(
        module_path!(),
        "a_disk_that_fills_up_at_any_moment_loses_nothing_that_was_acknowledged",
        || async {
            let (mut daemon, _image) = on_small_disk(128);
            let end = Arc::new(AtomicBool::new(false));
            let (ended, folder) = (end.clone(), daemon.state());
            let filling = std::thread::spawn(move || {
                let (mut filler, mut random) = (Filler::new(&folder), Random(42));
                while !ended.load(Ordering::SeqCst) {
                    filler.fill();
                    std::thread::sleep(Duration::from_millis(random.below(60)));
                    filler.yield_bytes(random.below(24 << 20));
                    std::thread::sleep(Duration::from_millis(random.below(60)));
                }
            });
            let (mut vms, mut random, mut refused): (BTreeMap<String, Known>, _, _) = (BTreeMap::new(), Random(7), 0);
            for _ in 0..300 {
                let living: Vec<String> =
                    vms.iter().filter(|(_, known)| **known != Known::Deleted).map(|(id, _)| id.clone()).collect();
                if living.len() < 3 {
                    let answer = daemon.post("/vms", daemon.wish()).await;
                    match answer.status {
                        201 => drop(vms.insert(answer.body["id"].as_str().unwrap().into(), Known::Stopped)),
                        _ => refused += usize::from(answer.expect(500) != Value::Null),
                    }
                    continue;
                }
                let id = living[random.below(living.len() as u64) as usize].clone();
                let (answer, then) = match random.below(4) {
                    0 | 1 => (act(&daemon, &id, "start", json!({})).await, Known::Running),
                    2 => (act(&daemon, &id, "stop", json!({"force": true})).await, Known::Stopped),
                    _ => (daemon.delete(&format!("/vms/{id}")).await, Known::Deleted),
                };
                let known = match answer.status {
                    200 => then,
                    // Started before it was found to be deleted, say, is no outcome here: requests follow each other.
                    500 => {
                        refused += 1;
                        assert!(!answer.body.to_string().contains("has stopped after a failed write"), "{answer:?}");
                        assert_eq!(then, Known::Running, "only what is new may be refused: {answer:?}");
                        Known::Open
                    }
                    _ => panic!("{answer:?}"),
                };
                vms.insert(id, known);
            }
            end.store(true, Ordering::SeqCst);
            filling.join().unwrap();
            assert!(refused > 0, "the disk was never full");
            for _ in 0..2 {
                for (id, known) in &vms {
                    match known {
                        Known::Deleted => drop(daemon.get(&format!("/vms/{id}")).await.expect(404)),
                        Known::Stopped => assert_eq!(daemon.status(id).await, "stopped"),
                        Known::Running => assert_eq!(daemon.status(id).await, "running"),
                        Known::Open => drop(daemon.get(&format!("/vms/{id}/status")).await.expect(200)),
                    }
                }
                running(&daemon).await;
                daemon.kill();
                daemon.run();
            }
            daemon.kill();
            checked(&daemon);
        },
    );
}

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn a_state_directory_that_becomes_read_only_is_told_and_nothing_in_it_is_lost() {
    in_private_mounts(
        module_path!(),
        "a_state_directory_that_becomes_read_only_is_told_and_nothing_in_it_is_lost",
        || async {
            let (mut daemon, image) = on_small_disk(96);
            let (runs, stopped) = (running(&daemon).await, daemon.create(daemon.wish()).await);
            // As after an error of the disk: nothing else can take the file system from those who write in it.
            let device = fs::read_to_string("/proc/self/mounts").unwrap();
            let device = device.lines().find(|l| l.contains(daemon.state().to_str().unwrap())).unwrap();
            let device = device.split(' ').next().unwrap().strip_prefix("/dev/").unwrap().to_owned();
            fs::write(format!("/sys/fs/ext4/{device}/trigger_fs_error"), "a test").unwrap();
            let answer = daemon.post("/vms", daemon.wish()).await;
            let said = answer.expect(500).to_string().to_lowercase();
            assert!(said.contains("read-only"), "{said}");
            daemon.post(&format!("/vms/{stopped}/start"), json!({})).await.expect(500);
            daemon.delete(&format!("/vms/{stopped}")).await.expect(500);
            assert_eq!(daemon.status(&runs).await, "running");
            assert_eq!(daemon.get("/vms").await.expect(200).as_array().unwrap().len(), 2);
            daemon.get("/health").await.expect(200);
            let qemu = daemon.qemus();
            assert!(daemon.terminate().success());
            // A start on a read-only file system says so.
            let output = daemon.command().output().unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert!(!output.status.success() && said.contains("Read-only file system"), "{said}");
            assert!(!said.contains("panicked"), "{said}");
            assert_eq!(daemon.qemus(), qemu, "guests go on");
            // A QEMU holds files there.
            for pid in qemu {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
            }
            let state = daemon.state();
            while !Command::new("umount").arg(&state).output().unwrap().status.success() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            mount(&image, &state, "loop");
            daemon.run();
            assert_eq!(daemon.status(&stopped).await, "stopped");
            daemon.await_status(&runs, "crashed").await;
            act(&daemon, &runs, "start", json!({})).await.expect(200);
        },
    );
}

fn limit(daemon: &Daemon, what: &str, soft: &str) {
    run("prlimit", &["--pid", &daemon.pid().to_string(), &format!("--{what}={soft}:")]);
}

/// Ticks of the processor that the daemon has used.
fn used(daemon: &Daemon) -> u64 {
    let stat = procfs::process::Process::new(daemon.pid()).unwrap().stat().unwrap();
    stat.utime + stat.stime
}

#[tokio::test]
async fn without_descriptors_requests_are_refused_or_wait_and_vms_stay() {
    let daemon = Daemon::start();
    let (runs, stopped) = (running(&daemon).await, daemon.create(daemon.wish()).await);
    // One connection, kept alive, so that descriptors are wanted by the requests' own work alone. No number below the limit
    // is free; `launch.rs` has starts that run out of them later on.
    limit(&daemon, "nofile", "3");
    reported(act(&daemon, &stopped, "start", json!({})).await, "Too many open files");
    reported(daemon.post("/vms", daemon.wish()).await, "Too many open files");
    assert_eq!(daemon.status(&stopped).await, "stopped");
    assert_eq!(daemon.status(&runs).await, "running");
    // Not even for a connection: those wait, and the daemon does not spin.
    let url = daemon.at("/health");
    let (one, another) = (reqwest::Client::new(), reqwest::Client::new());
    let waiting = tokio::spawn(async move { tokio::join!(one.get(&url).send(), another.get(&url).send()) });
    daemon.await_log("connections cannot be accepted").await;
    let before = used(&daemon);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(used(&daemon) - before < 100, "half of a core, or more, for nothing");
    assert!(!waiting.is_finished());
    act(&daemon, &runs, "stop", json!({"force": true})).await.expect(200);
    limit(&daemon, "nofile", "4096");
    let (one, another) = tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap();
    assert!(one.unwrap().status().is_success() && another.unwrap().status().is_success());
    act(&daemon, &stopped, "start", json!({})).await.expect(200);
    act(&daemon, &runs, "start", json!({})).await.expect(200);
}

#[tokio::test]
async fn a_qemu_that_gets_no_memory_fails_to_start_with_its_own_words() {
    let daemon = Daemon::start();
    let mut wish = daemon.wish();
    wish["memory"] = json!(2048);
    let id = daemon.create(wish).await;
    limit(&daemon, "as", &(1536u64 << 20).to_string());
    reported(act(&daemon, &id, "start", json!({})).await, "Cannot allocate memory");
    assert_eq!(daemon.status(&id).await, "stopped");
    assert!(daemon.qemus().is_empty());
    limit(&daemon, "as", "unlimited");
    act(&daemon, &id, "start", json!({})).await.expect(200);
}
