//! What the store promises, against the real thing: `kill -9`, a power cut, a full disk, a write that fails.
//!
//! The process under test is this very binary, started again with `QHERD_STORE_ROLE`. Mounts are made in a mount
//! namespace of their own: they vanish with its last process, whatever happens to the test.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use qherd::store::{Batch, Record, Store, StoreError};
use serde::{Deserialize, Serialize};

const ROLE: &str = "QHERD_STORE_ROLE";
const DIR: &str = "QHERD_STORE_DIR";

/// Two kinds that every commit changes together.
#[derive(Debug, Serialize, Deserialize)]
struct Left(u64);
#[derive(Debug, Serialize, Deserialize)]
struct Right {
    n: u64,
    padding: String,
}
/// Lives for [`TRAIL`] commits, so that removals take part.
#[derive(Debug, Serialize, Deserialize)]
struct Trail(u64);

impl Record for Left {
    const KIND: &'static str = "left";
    const VERSION: u32 = 1;
}
impl Record for Right {
    const KIND: &'static str = "right";
    const VERSION: u32 = 1;
}
impl Record for Trail {
    const KIND: &'static str = "trail";
    const VERSION: u32 = 1;
}

const SLOTS: u64 = 23;
const TRAIL: u64 = 5;

fn step(n: u64) -> Batch {
    let slot = format!("{:02}", n % SLOTS);

    // Like the record of a VM, or as large as they get: sled must not begin to use blob files.
    let size = if n.is_multiple_of(3) { 28_000 } else { 200 + (n * 37 % 2000) as usize };
    let right = Right { n, padding: "x".repeat(size) };
    let batch = Batch::new().put(&slot, &Left(n)).unwrap().put(&slot, &right).unwrap();
    let batch = batch.put(&format!("{n:020}"), &Trail(n)).unwrap();
    batch.remove::<Trail>(&format!("{:020}", n.saturating_sub(TRAIL)))
}

fn all<R: Record>(store: &Store) -> BTreeMap<String, R> {
    store.scan().unwrap().into_iter().map(|(key, record)| (key, record.unwrap())).collect()
}

/// Opens the store and checks that everything up to `acknowledged` is in it and every batch is whole.
/// Returns the last commit found: at least `acknowledged`.
fn verify(dir: &Path, acknowledged: u64) -> u64 {
    let store = Store::open(dir).unwrap();
    let left: BTreeMap<_, Left> = all(&store);
    let right: BTreeMap<_, Right> = all(&store);
    let trail: Vec<u64> = all::<Trail>(&store).into_values().map(|t| t.0).collect();
    let last = left.values().map(|l| l.0).max().unwrap_or(0);
    assert!(last >= acknowledged, "{acknowledged} was acknowledged, {last} is the last one there");
    assert_eq!(left.len(), right.len());
    for (slot, l) in &left {
        assert_eq!(l.0, right[slot].n, "slot {slot} is half of a batch");
    }
    for n in last.saturating_sub(SLOTS - 1).max(1)..=last {
        assert_eq!(left[&format!("{:02}", n % SLOTS)].0, n, "commit {n} of {last} is missing");
    }
    let expected: Vec<u64> = (last.saturating_sub(TRAIL - 1).max(1)..=last).collect();
    assert_eq!(trail, if last == 0 { vec![] } else { expected });
    assert_eq!(fs::read_dir(dir.join("blobs")).unwrap().count(), 0, "blobs are not durable");
    last
}

// ---- the processes under test ----

/// Not a test of its own: what the other tests start.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else {
        return;
    };
    let dir = std::env::var_os(DIR).expect("a directory");
    let dir = Path::new(&dir);
    match role.as_str() {
        "write" => write_for_ever(dir),
        "write-until-failure" => write_until_failure(dir),
        "power-cut" => power_cut(dir),
        "disk-full" => disk_full(dir),
        "reserve" => reserve(dir),
        other => panic!("no role {other}"),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// One system call per line, so that what was said has been said.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    out.write_all(format!("{line}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn write_for_ever(dir: &Path) {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).unwrap();
    let start = verify(dir, 0);
    let store = Store::open(dir).unwrap();
    runtime().block_on(async {
        for n in start + 1.. {
            store.commit(step(n)).await.unwrap();
            say(&format!("ack {n}"));
        }
    });
}

fn write_until_failure(dir: &Path) {
    let store = Store::open(dir).unwrap();
    runtime().block_on(async {
        for n in 1..100_000 {
            match store.commit(step(n)).await {
                Ok(()) => say(&format!("ack {n}")),
                Err(first) => {
                    assert!(matches!(first, StoreError::Failed { .. }), "{first:?}");
                    let again = store.commit(step(n)).await.unwrap_err();
                    assert_eq!(first.to_string(), again.to_string());
                    assert!(matches!(store.get::<Left>("00"), Err(StoreError::Failed { .. })));
                    say(&format!("refused {first}"));
                    break;
                }
            }
        }
    });
}

// ---- starting them ----

/// Killed at the end of the test, also a failed one.
struct Role(Child);

impl Role {
    fn spawn(mut command: Command, role: &str, dir: &Path) -> Role {
        command.env(ROLE, role).env(DIR, dir).env("RUST_BACKTRACE", "0").stdout(Stdio::piped());
        Role(command.spawn().unwrap())
    }

    fn start(role: &str, dir: &Path) -> Role {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "role", "--nocapture"]);
        Role::spawn(command, role, dir)
    }

    /// Through a shell or another program that runs its arguments.
    fn start_through(program: &[&str], role: &str, dir: &Path) -> Role {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).arg(std::env::current_exe().unwrap());
        command.args(["--exact", "role", "--nocapture"]);
        Role::spawn(command, role, dir)
    }

    fn stdout(&mut self) -> BufReader<ChildStdout> {
        BufReader::new(self.0.stdout.take().unwrap())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The number in `ack N`. The test harness may have put words of its own before it on the line.
fn acknowledged(line: &str) -> Option<u64> {
    line.rsplit_once("ack ")?.1.trim().parse().ok()
}

/// Follows the acknowledgements in the background; the handle ends with the child's output.
fn follow(out: BufReader<ChildStdout>) -> (Arc<AtomicU64>, thread::JoinHandle<()>) {
    let last = Arc::new(AtomicU64::new(0));
    let seen = last.clone();
    let reader = thread::spawn(move || {
        for n in out.lines().map_while(Result::ok).filter_map(|line| acknowledged(&line)) {
            seen.store(n, Ordering::SeqCst);
        }
    });
    (last, reader)
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !done() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Different on every run, as the instants are meant to be.
fn random_millis(from: u64, to: u64) -> Duration {
    let nanos = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    Duration::from_millis(from + u64::from(nanos.subsec_nanos()) / 1009 % (to - from))
}

/// Runs a role of this binary as root in a mount namespace of its own. Fails where that is impossible.
fn in_private_mounts(role: &str) {
    assert!(rustix::process::geteuid().is_root(), "the {role} test needs root and mount namespaces");
    let dir = tempfile::tempdir().unwrap();
    let unshare = ["unshare", "--mount", "--propagation", "private", "--"];
    let mut role = Role::start_through(&unshare, role, dir.path());
    let output: Vec<String> = role.stdout().lines().map_while(Result::ok).collect();
    let status = role.0.wait().unwrap();
    assert!(status.success(), "in its own mount namespace:\n{}", output.join("\n"));
}

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

// ---- the tests ----

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("db");
    let mut last = 0;
    for _ in 0..10 {
        let mut writer = Role::start("write", &store);
        let (seen, reader) = follow(writer.stdout());
        wait_for("a commit", || seen.load(Ordering::SeqCst) > last);
        thread::sleep(random_millis(1, 120));
        drop(writer);
        // The pipe keeps what was said before the kill.
        reader.join().unwrap();
        last = verify(&store, seen.load(Ordering::SeqCst));
    }
}

#[test]
fn nothing_acknowledged_is_lost_by_a_power_cut() {
    in_private_mounts("power-cut");
}

/// ext4 on a loop device. The backing file holds what the disk would hold at this instant, the rest is in memory
/// only; so a copy of the file, mounted, is the machine after a power cut.
fn power_cut(dir: &Path) {
    let (image, mount) = (dir.join("disk.img"), dir.join("disk"));
    let (copy, after) = (dir.join("copy.img"), dir.join("after"));
    fs::create_dir(&mount).unwrap();
    fs::create_dir(&after).unwrap();
    fs::File::create(&image).unwrap().set_len(128 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-F", text(&image)]);
    // Seldom writes back on its own: nothing gets to the disk that the store has not asked for.
    run("mount", &["-o", "loop,commit=300", text(&image), text(&mount)]);

    let mut writer = Role::start("write", &mount.join("db"));
    let (seen, _reader) = follow(writer.stdout());
    let mut before = 0;
    for _ in 0..6 {
        wait_for("a commit", || seen.load(Ordering::SeqCst) > before);
        thread::sleep(random_millis(1, 250));
        // Stopped, so that the copy is of one instant. What has been said by then is waiting in the pipe.
        writer.signal(rustix::process::Signal::STOP);
        thread::sleep(Duration::from_millis(30));
        before = seen.load(Ordering::SeqCst);
        run("cp", &["--sparse=always", text(&image), text(&copy)]);
        writer.signal(rustix::process::Signal::CONT);
        run("mount", &["-o", "loop", text(&copy), text(&after)]);
        verify(&after.join("db"), before);
        // sled's threads may hold the file for a moment after the store has been closed.
        let unmount = || Command::new("umount").arg(&after).output().unwrap().status.success();
        wait_for("the copy to be unmounted", unmount);
    }
}

#[test]
fn a_full_disk_is_refused_in_time_and_forgotten_when_there_is_room() {
    in_private_mounts("disk-full");
}

fn disk_full(dir: &Path) {
    run("mount", &["-t", "tmpfs", "-o", "size=72m", "none", text(dir)]);
    let (db, ballast) = (dir.join("db"), dir.join("ballast"));
    fs::write(&ballast, vec![1; 24 << 20]).unwrap();
    let store = Store::open(&db).unwrap();
    let runtime = runtime();
    let commit = |n| runtime.block_on(store.commit(step(n)));
    let fill = |n: u64| Batch::new().put(&format!("fill{n}"), &Right { n, padding: "y".repeat(25_000) });
    commit(1).unwrap();
    let mut n = 0;
    let full = loop {
        n += 1;
        assert!(n < 2000, "the disk never got full");
        if let Err(e) = runtime.block_on(store.commit(fill(n).unwrap())) {
            break e;
        }
    };
    assert!(matches!(full, StoreError::NoSpace { .. }), "{full:?}");
    assert!(n > 2, "not even {n} fitted");
    // The refused record is not there, the store can still be read, and goes on by itself.
    assert!(store.get::<Right>(&format!("fill{n}")).unwrap().is_none());
    assert!(store.get::<Left>("01").unwrap().is_some());
    fs::remove_file(&ballast).unwrap();
    let mut clear = Batch::new();
    for n in 1..n {
        assert!(store.get::<Right>(&format!("fill{n}")).unwrap().is_some());
        clear = clear.remove::<Right>(&format!("fill{n}"));
    }
    runtime.block_on(store.commit(clear)).unwrap();
    for n in 2..40 {
        commit(n).unwrap();
    }
    drop(store);
    assert_eq!(verify(&db, 39), 39);
}

#[test]
fn the_reserve_takes_what_has_happened_however_long_the_disk_is_full() {
    in_private_mounts("reserve");
}

/// Others take every byte there is, again and again; thousands of commits from the reserve rewrite what sled has.
/// Returns when a file has not changed its size or its blocks for a while.
fn wait_for_rest(file: &Path) {
    let look = || fs::metadata(file).map(|about| (about.len(), about.blocks())).unwrap();
    let (mut before, mut calm) = (look(), 0);
    while calm < 10 {
        thread::sleep(Duration::from_millis(5));
        let now = look();
        calm = if now == before { calm + 1 } else { 0 };
        before = now;
    }
}

fn reserve(dir: &Path) {
    let image = dir.join("disk.img");
    fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
    run("mkfs.ext4", &["-q", "-F", "-m", "0", text(&image)]);
    let mount = dir.join("disk");
    fs::create_dir(&mount).unwrap();
    run("mount", &["-o", "loop", text(&image), text(&mount)]);
    let db = mount.join("db");
    let store = Store::open(&db).unwrap();
    let runtime = runtime();
    let mut others = fs::File::create(mount.join("others")).unwrap();
    let mut take_all = || {
        for size in [1 << 20, 1 << 16, 1 << 12] {
            while others.write_all(&vec![7; size]).is_ok() {}
        }
    };
    for n in 1..=3000 {
        if n % 20 == 0 {
            // sled cuts its log in the background, and the store takes back what that frees; until it has, others are not
            // let in here, who could be faster.
            wait_for_rest(&db.join("db"));
            take_all();
        }
        if let Err(e) = runtime.block_on(store.commit(step(n).from_reserve())) {
            panic!("commit {n}: {e}");
        }
        if n % 500 == 0 {
            let new = runtime.block_on(store.commit(step(n + 1)));
            assert!(matches!(new, Err(StoreError::NoSpace { .. })), "{new:?}");
        }
    }
    drop(store);
    take_all();
    // Opened, and gone on with, on the full disk.
    assert_eq!(verify(&db, 3000), 3000);
    let store = Store::open(&db).unwrap();
    take_all();
    runtime.block_on(store.commit(step(3001).from_reserve())).unwrap();
}

/// The space may also run out between the look and the write, or the disk fail: here a file size limit does it.
#[test]
fn a_failed_write_stops_the_store_and_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("db");
    let limited = ["bash", "-c", r#"trap "" XFSZ; ulimit -f 1500; exec "$0" "$@""#];
    let mut role = Role::start_through(&limited, "write-until-failure", &store);
    let (mut last, mut refused) = (0, false);
    for line in role.stdout().lines().map_while(Result::ok) {
        last = acknowledged(&line).unwrap_or(last);
        refused |= line.contains("refused") && line.contains("File too large");
    }
    assert!(role.0.wait().unwrap().success());
    assert!(last > 10 && refused, "{last} {refused}");
    verify(&store, last);
}
