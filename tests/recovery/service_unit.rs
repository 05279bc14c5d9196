//! The unit of templates/qherd.service under a real systemd: its QEMUs and dnsmasqs are children in the service's cgroup,
//! and outlive every end of the service.

use crate::support;

use crate::support::netns::Host;
use crate::systemd::Container;
use serde_json::{Value, json};

const UNIT: &str = include_str!("../../templates/qherd.service");
const PROGRAM: &str = "ExecStart=/usr/bin/qherd serve\n";
const URL: &str = "http://127.0.0.1:8080";
/// Of the test's machine: no journal keeps the log, and there is no KVM.
const OWN: &str = "[Service]\nEnvironment=QHERD_ACCEL=tcg\nStandardError=append:/run/qherd.log\n";

async fn ask(container: &Container, method: reqwest::Method, path: &str, body: Value) -> Value {
    let request = reqwest::Client::new().request(method, format!("{URL}{path}")).json(&body);
    let answer = request.send().await.unwrap_or_else(|e| panic!("{path}: {e}\n{}", container.log()));
    let status = answer.status();
    let body: Value = answer.json().await.unwrap();
    assert!(status.is_success(), "{path}: {status}: {body}\n{}", container.log());
    body
}

/// Waits until the daemon answers, and has the VM in this status.
async fn await_status(container: &Container, id: &str, wanted: &str) {
    let begun = std::time::Instant::now();
    loop {
        let status = match reqwest::get(format!("{URL}/vms/{id}/status")).await {
            Ok(answer) => answer.json::<Value>().await.unwrap()["status"].clone(),
            Err(_) => Value::Null,
        };
        if status == wanted {
            return;
        }
        assert!(begun.elapsed() < support::PATIENCE, "still {status}, not {wanted}\n{}", container.log());
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Pids with their start times.
type Lives = Vec<(i32, u64)>;

/// What runs: the daemon, and what must not notice its end.
fn running(container: &Container) -> (Lives, [Lives; 2]) {
    (container.processes("qherd"), ["qemu-system-x86_64", "dnsmasq"].map(|name| container.processes(name)))
}

#[tokio::test]
async fn guests_and_dhcp_outlive_restart_stop_and_death_of_the_service() {
    let _host = Host::leave();
    assert!(UNIT.contains(PROGRAM), "{UNIT}");
    let unit = UNIT.replace(PROGRAM, "ExecStart=/opt/qherd serve\n");
    let container = Container::boot(&[
        ("qherd.service", &unit),
        ("qherd.service.d/own.conf", OWN),
        ("multi-user.target", "[Unit]\nWants=qherd.service\n"),
    ]);
    container.until("the daemon listens", || std::net::TcpStream::connect("127.0.0.1:8080").ok());
    assert_eq!(container.property("qherd", "ActiveState"), "active");
    assert_eq!(container.property("qherd", "OOMPolicy"), "continue");
    let bases = container.at("/var/lib/qherd/bases");
    std::fs::create_dir_all(&bases).unwrap();
    std::fs::File::create(bases.join("blank.raw")).unwrap().set_len(64 << 20).unwrap();
    let post = reqwest::Method::POST;
    ask(&container, post.clone(), "/switches", json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24" }))
        .await;
    let wish = json!({ "vcpus": 1, "memory": 64, "disk_size": 1, "base_image": "blank.raw", "start": true,
                       "networks": [{ "switch": "LAN" }] });
    let vm = ask(&container, post.clone(), "/vms", wish).await;
    let id = vm["id"].as_str().unwrap();
    let (mut daemon, children) = running(&container);
    assert_eq!((daemon.len(), children[0].len(), children[1].len()), (1, 1, 1), "{daemon:?} {children:?}");
    let cgroup = std::fs::read_to_string(container.at(&format!("/proc/{}/cgroup", children[0][0].0))).unwrap();
    assert!(cgroup.contains("/system.slice/qherd.service"), "{cgroup}");

    // Each end, and what makes it run again; systemd itself does where it died.
    let killed = ["kill", "--kill-whom=main", "--signal=KILL", "qherd"];
    let ends: [(&[&str], &[&str]); 3] =
        [(&["restart", "qherd"], &[]), (&["stop", "qherd"], &["start", "qherd"]), (&killed, &[])];
    for (end, again) in ends {
        container.systemctl(end);
        if !again.is_empty() {
            assert_eq!(running(&container), (vec![], children.clone()), "{end:?}\n{}", container.log());
            assert_eq!(container.property("qherd", "ActiveState"), "inactive");
            container.systemctl(again);
        }
        let next = container.until("another daemon", || {
            let (next, now) = running(&container);
            let live = children.iter().zip(&now).all(|(before, now)| before.iter().all(|child| now.contains(child)));
            assert!(live, "{end:?}: {now:?}, not {children:?}\n{}", container.log());
            // The QEMU that a daemon asks what it can do is gone by the time that it is ready.
            (next.len() == 1 && next != daemon && now == children).then_some(next)
        });
        daemon = next;
        await_status(&container, id, "running").await;
        assert_eq!(running(&container), (daemon.clone(), children.clone()), "{end:?}\n{}", container.log());
    }
    // Taken over, not only left alone.
    ask(&container, post, &format!("/vms/{id}/stop"), json!({ "force": true })).await;
    assert_eq!(running(&container).1, [vec![], children[1].clone()]);
}
