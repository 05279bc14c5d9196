//! `qmp::Session` against the QEMU that is installed: its replies decode, and its silence is
//! noticed.

use qherd::qmp::{Agent, CloseReason, Event, Events, Options, QgaError, QmpError, RunState, Session, socket};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A q35 machine that has not started, with a disk, a balloon and an agent port. Killed and reaped
/// when dropped.
struct Qemu {
    qemu: Child,
    directory: tempfile::TempDir,
}

impl Qemu {
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let monitor = socket::listen(&directory.path().join("qmp.sock")).unwrap();
        // A copy without close-on-exec; other tests' QEMUs may inherit it too, which does no harm
        // here.
        let fd = rustix::io::dup(&monitor).unwrap();
        let agent = directory.path().join("agent.sock");
        let qemu = Command::new("qemu-system-x86_64")
            .args(["-M", "q35", "-accel", "tcg", "-S", "-display", "none", "-nodefaults", "-m", "64M", "-smp", "2"])
            .arg("-chardev")
            .arg(format!("socket,id=mon,fd={},server=on,wait=off", fd.as_raw_fd()))
            .args(["-mon", "chardev=mon,mode=control"])
            .args(["-blockdev", "null-co,node-name=root,size=1048576"])
            .args(["-device", "virtio-blk-pci,drive=root,id=disk0"])
            .args(["-device", "virtio-balloon-pci,id=balloon0", "-device", "virtio-serial"])
            .arg("-chardev")
            .arg(format!("socket,id=agent0,path={},server=on,wait=off", agent.display()))
            .args(["-device", "virtserialport,chardev=agent0,name=org.qemu.guest_agent.0"])
            .spawn()
            .unwrap();
        Self { qemu, directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    async fn open(&self, options: Options) -> (Session, Events) {
        let stream = socket::connect(&self.path("qmp.sock"), PATIENCE).await.unwrap();
        Session::open_with(stream, PATIENCE, options).await.unwrap()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.qemu), signal).unwrap();
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

#[tokio::test]
async fn every_typed_query_decodes() {
    let qemu = Qemu::start();
    let (session, _events) = qemu.open(Options::default()).await;
    assert!(session.version().major >= 7);

    let status = session.query_status().await.unwrap();
    assert_eq!((status.running, status.status), (false, RunState::Prelaunch));

    let cpus = session.query_cpus_fast().await.unwrap();
    assert_eq!(cpus.iter().map(|cpu| cpu.cpu_index).collect::<Vec<_>>(), [0, 1]);
    assert!(cpus.iter().all(|cpu| cpu.thread_id > 0 && cpu.qom_path.starts_with("/machine/")));

    let stats = session.query_blockstats().await.unwrap();
    let root = stats.iter().find(|stats| stats.node_name.as_deref() == Some("root")).unwrap();
    assert_eq!(root.stats.rd_bytes, 0);

    let blocks = session.query_block().await.unwrap();
    assert_eq!(blocks[0].qdev.as_deref(), Some("/machine/peripheral/disk0/virtio-backend"));
    let medium = blocks[0].inserted.as_ref().unwrap();
    assert_eq!((medium.drv.as_str(), medium.image.virtual_size), ("null-co", 1 << 20));

    let machines = session.query_machines().await.unwrap();
    let q35 = machines.iter().find(|machine| machine.alias.as_deref() == Some("q35")).unwrap();
    assert!(q35.name.starts_with("pc-q35-") && q35.cpu_max >= 255);
    assert_eq!(machines.iter().filter(|machine| machine.is_default).count(), 1);

    let chardevs = session.query_chardev().await.unwrap();
    let open = |label| chardevs.iter().find(|chardev| chardev.label == label).unwrap().frontend_open;
    assert!(open("mon") && !open("agent0"));

    assert_eq!(session.query_balloon().await.unwrap(), 64 << 20);
    let guest = session.guest_stats("/machine/peripheral/balloon0").await.unwrap();
    assert_eq!((guest.last_update, guest.free_memory), (None, None));

    let schema = session.execute_raw("query-qmp-schema", None).await.unwrap();
    assert!(schema.as_array().unwrap().len() > 500, "the longest reply there is");
}

#[tokio::test]
async fn a_machine_runs_stops_and_quits_and_says_so() {
    let qemu = Qemu::start();
    let (session, mut events) = qemu.open(Options::default()).await;
    session.execute(qapi::qmp::cont {}).await.unwrap();
    session.execute(qapi::qmp::stop {}).await.unwrap();
    let refused = session.execute_raw("device_del", Some(json!({"id": "nothing"}))).await.unwrap_err();
    assert!(matches!(&refused, QmpError::Refused { class, .. } if class == "DeviceNotFound"), "{refused}");
    session.execute(qapi::qmp::quit {}).await.unwrap();
    let mut seen = Vec::new();
    while let Some(event) = events.next().await {
        seen.push(event.event);
    }
    let shutdown = Event::Shutdown { guest: false, reason: "host-qmp-quit".into() };
    for expected in [Event::Resume, Event::Stop, shutdown] {
        assert!(seen.contains(&expected), "{expected:?} in {seen:?}");
    }
    assert_eq!(session.closed().await, CloseReason::Eof);
}

#[tokio::test]
async fn a_stopped_qemu_is_a_timeout_and_a_new_session_works_once_it_goes_on() {
    let qemu = Qemu::start();
    let options = Options { deadline: |_| Duration::from_millis(500), ..Options::default() };
    let (session, _events) = qemu.open(options).await;
    qemu.signal(Signal::STOP);
    let error = session.query_status().await.unwrap_err();
    assert!(matches!(error, QmpError::Timeout { .. }), "{error}");
    qemu.signal(Signal::CONT);
    let (session, _events) = qemu.open(Options::default()).await;
    assert_eq!(session.query_status().await.unwrap().status, RunState::Prelaunch);
}

#[tokio::test]
async fn a_killed_qemu_closes_the_session_at_once() {
    let qemu = Qemu::start();
    let (session, _events) = qemu.open(Options::default()).await;
    let pending = session.execute_raw("query-status", None);
    qemu.signal(Signal::KILL);
    let _: Result<Value, QmpError> = pending.await; // answered or not, it does not hang
    assert_eq!(session.closed().await, CloseReason::Eof);
}

#[tokio::test]
async fn a_second_client_waits_for_the_first() {
    let qemu = Qemu::start();
    let first = qemu.open(Options::default()).await;
    let stream = socket::connect(&qemu.path("qmp.sock"), PATIENCE).await.unwrap();
    let error = Session::open(stream, Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(&error, QmpError::Timeout { command, .. } if command == "greeting"), "{error}");
    drop(first);
    qemu.open(Options::default()).await;
}

#[tokio::test]
async fn a_guest_without_an_agent_is_a_timeout() {
    let qemu = Qemu::start();
    let _session = qemu.open(Options::default()).await; // QEMU is up, and so is the agent's socket
    let short = Duration::from_millis(300);
    let error = Agent::connect(&qemu.path("agent.sock"), short).await.unwrap_err();
    assert!(matches!(error, QgaError::Timeout { .. }), "{error}");
}

#[tokio::test]
async fn qemu_takes_descriptors_and_uses_them() {
    let qemu = Qemu::start();
    let (session, _events) = qemu.open(Options::default()).await;
    for name in ["one", "two"] {
        let (qemus, _ours) = std::os::unix::net::UnixStream::pair().unwrap();
        // Queries beside it do not come between a descriptor and its command.
        let (sent, requested) = tokio::join!(session.send_descriptor(name, qemus.into()), session.query_status());
        sent.unwrap();
        requested.unwrap();
    }
    let netdev = json!({ "type": "socket", "id": "net0-host", "fd": "one" });
    session.execute_raw("netdev_add", Some(netdev)).await.unwrap();
    let close = |name: &str| session.execute_raw("closefd", Some(json!({ "fdname": name })));
    close("two").await.unwrap();
    let used_up = close("one").await;
    assert!(matches!(&used_up, Err(QmpError::Refused { .. })), "{used_up:?}");
}
