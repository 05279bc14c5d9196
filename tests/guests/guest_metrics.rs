//! Every figure of a running guest against somebody else's: the kernel's accounts of its threads, the guest's own, and
//! the limits that the disk was given.

use std::time::{Duration, Instant};

use crate::support::{Daemon, PATIENCE, guest, vcpu_threads};
use serde_json::{Value, json};

/// Writes per second that the disk is limited to: what one writer at a time gets is known, then.
const WRITES: f64 = 50.0;

/// What the test itself reads of one vCPU, in seconds.
#[derive(Clone, Copy, Debug)]
struct Account {
    ran: f64,
    waited: f64,
}

struct Vm<'a> {
    daemon: &'a Daemon,
    id: String,
    pid: i32,
}

impl Vm<'_> {
    async fn performance(&self) -> Value {
        self.daemon.get(&format!("/vms/{}/performance", self.id)).await.expect(200)
    }

    /// The sample after the present one, right after it was taken.
    async fn next_sample(&self) -> Value {
        let before = self.performance().await["sampled_at"].clone();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let body = self.performance().await;
            if body["sampled_at"] != before && body["sampled_at"].is_string() {
                return body;
            }
            assert!(Instant::now() < deadline, "no sampling after {before}\n{}", self.daemon.log_text());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The first one of the samples from now on that fulfils `wanted`.
    async fn sample_with(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut seen = Vec::new();
        for _ in 0..15 {
            let sample = self.next_sample().await;
            if wanted(&sample) {
                return sample;
            }
            seen.push(sample);
        }
        panic!("no sample with {what}: {seen:#?}");
    }

    /// Types a command and returns what it prints as its last line, which ends with a word of its own.
    async fn guest(&self, command: &str) -> String {
        let line = self.daemon.type_line(&self.id, &format!("echo $({command}) sa''id"), " said").await;
        line.trim().strip_suffix(" said").unwrap().to_owned()
    }

    /// Ticks from `stat`, unlike qherd, and the waiting time from `schedstat`.
    fn accounts(&self) -> Vec<Account> {
        let account = |thread: i32| {
            let folder = format!("/proc/{}/task/{thread}", self.pid);
            let stat = procfs::process::Process::new(self.pid).unwrap().task_from_tid(thread).unwrap().stat().unwrap();
            let schedstat = std::fs::read_to_string(format!("{folder}/schedstat")).unwrap();
            let waited = schedstat.split(' ').nth(1).unwrap().parse::<f64>().unwrap() / 1e9;
            Account { ran: (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64, waited }
        };
        vcpu_threads(self.pid).into_iter().map(account).collect()
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("no number: {value}"))
}

#[tokio::test]
async fn the_figures_of_a_guest_are_those_of_the_kernel_and_of_the_guest() {
    let mut daemon = guest::daemon();
    let usable = daemon.get("/host").await.expect(200)["cores"]["usable"].clone();
    // Against their order, so that one taken for the other shows.
    let (first, last) = (usable[0].clone(), usable.as_array().unwrap().last().unwrap().clone());
    let pinning = if first == last { json!([first]) } else { json!([last, first]) };
    let mut wish = guest::wish();
    wish["vcpus"] = json!(2);
    wish["cpu_pinning"] = json!({ "cores": pinning });
    wish["io_limits"] = json!({ "iops_write": WRITES as u64 });
    let id = daemon.create(wish).await;
    let begin = Instant::now();
    daemon.post(&format!("/vms/{id}/start"), json!({})).await.expect(200);
    let started = Instant::now();
    let beat = daemon.await_boot(&id, None).await;
    daemon.type_line(&id, "", "guest#").await;
    let pid = daemon.get(&format!("/vms/{id}")).await.expect(200)["pid"].as_i64().unwrap() as i32;
    let vm = Vm { daemon: &daemon, id: id.clone(), pid };

    what_is_always_there(&vm, begin, started).await;
    cores_and_their_use(&vm, &last, &first).await;
    memory(&vm, beat.mem_mib).await;
    disk(&vm).await;

    // The next daemon has the totals at once, from QEMU.
    let before = vm.next_sample().await;
    daemon.kill();
    daemon.run();
    let vm = Vm { daemon: &daemon, id: id.clone(), pid };
    let after = vm.sample_with("totals", |sample| !sample["disk_write_bytes"].is_null()).await;
    assert_eq!(after["disk_write_bytes"], before["disk_write_bytes"]);
    assert!(number(&after["uptime"]) >= number(&before["uptime"]), "{after}");
    vm.sample_with("rates", |sample| !sample["cpu_usage"].is_null() && !sample["disk_read_iops"].is_null()).await;
}

async fn what_is_always_there(vm: &Vm<'_>, begin: Instant, started: Instant) {
    let least = started.elapsed().as_secs();
    let sample = vm.next_sample().await;
    let uptime = sample["uptime"].as_u64().unwrap();
    assert!((least.saturating_sub(1)..=begin.elapsed().as_secs() + 1).contains(&uptime), "{sample}");
    assert!((1.9..60.0).contains(&number(&sample["interval"])), "{sample}");
    let status = std::fs::read_to_string(format!("/proc/{}/status", vm.pid)).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    let resident: u64 = line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() / 1024;
    let reported = sample["resident_memory"].as_u64().unwrap();
    assert!(reported.abs_diff(resident) < 16, "said {reported} MiB, the kernel {resident}");
    for name in ["network_in_bytes", "network_out_bytes", "network_in_packets", "network_out_packets"] {
        assert_eq!(sample[name], Value::Null, "user-mode networking counts nothing");
    }
}

/// A busy loop on the guest's second processor.
async fn cores_and_their_use(vm: &Vm<'_>, first: &Value, second: &Value) {
    let busy = "taskset 2 sh -c 'while :; do :; done' & echo bu''sy";
    vm.daemon.type_line(&vm.id, busy, "busy").await;
    vm.next_sample().await;
    let mut seen = Vec::new();
    // Requests of the test take their time on a loaded machine; in some interval both look at the same stretch.
    let agreed = loop {
        let (accounts, clock) = (vm.accounts(), Instant::now());
        let sample = vm.next_sample().await;
        let seconds = clock.elapsed().as_secs_f64();
        let kernel: Vec<(f64, f64)> = vm
            .accounts()
            .iter()
            .zip(&accounts)
            .map(|(now, before)| {
                (100.0 * (now.ran - before.ran) / seconds, 100.0 * (now.waited - before.waited) / seconds)
            })
            .collect();
        let vcpus = sample["vcpus"].as_array().unwrap();
        assert_eq!((vcpus.len(), kernel.len()), (2, 2), "{sample}");
        assert_eq!(vcpus.iter().map(|v| &v["vcpu"]).collect::<Vec<_>>(), [&json!(0), &json!(1)]);
        assert_eq!((&vcpus[0]["core"], &vcpus[1]["core"]), (first, second), "pinned there: {sample}");
        let agrees = vcpus.iter().zip(&kernel).all(|(reported, kernel)| {
            (number(&reported["usage"]) - kernel.0).abs() < 10.0 && (number(&reported["wait"]) - kernel.1).abs() < 10.0
        });
        let (idle, busy) = (number(&vcpus[0]["usage"]), number(&vcpus[1]["usage"]));
        // Who always wants to run either runs or waits.
        let wants = busy + number(&vcpus[1]["wait"]);
        if agrees && busy > idle + 15.0 && (80.0..102.0).contains(&wants) {
            break sample;
        }
        seen.push((sample["vcpus"].clone(), kernel));
        assert!(seen.len() < 15, "never as the kernel says: {seen:#?}");
    };
    let of = |name: &str| number(&agreed["vcpus"][0][name]) + number(&agreed["vcpus"][1][name]);
    assert!((number(&agreed["cpu_usage"]) - of("usage") / 2.0).abs() < 0.11, "{agreed}");
    assert!((number(&agreed["cpu_wait"]) - of("wait") / 2.0).abs() < 0.11, "{agreed}");
    vm.daemon.type_line(&vm.id, "kill $!; echo kill''ed", "killed").await;
}

async fn memory(vm: &Vm<'_>, mem_mib: u64) {
    let in_use = async || {
        let awk = "awk '/^MemTotal/ {t=$2} /^MemAvailable/ {a=$2} END {print int((t-a)/1024)}' /proc/meminfo";
        vm.guest(awk).await.parse::<u64>().unwrap()
    };
    let requested = in_use().await;
    let sample = vm.sample_with("the balloon's figures", |sample| sample["memory_source"] == "guest").await;
    let balloon = &sample["balloon"];
    assert_eq!((&balloon["total"], &balloon["actual"]), (&json!(mem_mib), &json!(256)), "{sample}");
    let reported = sample["memory_usage"].as_u64().unwrap();
    assert!(reported.abs_diff(requested) < 16, "said {reported} MiB, the guest {requested}");
    let (free, available) = (number(&balloon["free"]), number(&balloon["available"]));
    assert!(free > 0.0 && free <= mem_mib as f64 && available > 0.0 && available <= mem_mib as f64, "{sample}");
    assert_eq!((&balloon["swap_in_bytes"], &balloon["swap_out_bytes"]), (&json!(0), &json!(0)), "it has no swap");
    assert!(number(&balloon["minor_faults"]) > 0.0, "{sample}");
    let updated = humantime::parse_rfc3339(balloon["updated_at"].as_str().unwrap()).unwrap();
    assert!(updated.elapsed().unwrap() < PATIENCE, "{sample}");

    // 60 MiB that cannot be given back.
    vm.daemon.type_line(&vm.id, "dd if=/dev/zero of=/tmp/ballast bs=1M count=60; echo to''ok-$?", "took-0").await;
    let grown = vm.sample_with("60 MiB more", |s| s["memory_usage"].as_u64().unwrap() >= reported + 50).await;
    let requested = in_use().await;
    assert!(number(&grown["memory_usage"]) < requested as f64 + 16.0, "the guest says {requested}: {grown}");
    vm.daemon.type_line(&vm.id, "rm /tmp/ballast; echo remov''ed", "removed").await;
}

async fn disk(vm: &Vm<'_>) {
    // One write at a time, so each takes the limit's share of a second and one is always under way.
    let before = vm.performance().await;
    let serial = vm.daemon.write_line(&vm.id, "io-test write 12");
    let loaded = vm
        .sample_with("writes at the limit", |sample| {
            let near = |name: &str, wanted: f64| {
                sample[name].as_f64().is_some_and(|value| (0.8 * wanted..1.2 * wanted).contains(&value))
            };
            near("disk_write_iops", WRITES) && near("disk_write_latency_ms", 1000.0 / WRITES) && near("disk_queue", 1.0)
        })
        .await;
    assert!(loaded["disk_read_iops"].as_u64().unwrap() < WRITES as u64, "{loaded}");
    vm.daemon.await_console(&vm.id, "qherd-io: op=write", 0).await;
    drop(serial);
    let idle = vm.sample_with("nothing written", |sample| sample["disk_write_iops"] == 0).await;
    assert_eq!(
        (&idle["disk_write_latency_ms"], &idle["disk_flush_latency_ms"]),
        (&Value::Null, &Value::Null),
        "{idle}"
    );
    let written = number(&idle["disk_write_bytes"]) - number(&before["disk_write_bytes"]);
    assert!(written >= WRITES * 8.0 * 4096.0 && written % 4096.0 == 0.0, "{written}");

    // 8 MiB past the guest's cache, to the byte.
    let dd = "dd if=/dev/zero of=/dev/vda bs=64k count=128 seek=10000 oflag=direct; echo wro''te-$?";
    vm.daemon.type_line(&vm.id, dd, "wrote-0").await;
    let after = vm.next_sample().await;
    assert_eq!(number(&after["disk_write_bytes"]) - number(&idle["disk_write_bytes"]), f64::from(8 << 20));

    // Flushes, over more than an interval.
    let _serial = vm.daemon.write_line(
        &vm.id,
        "for i in $(seq 200); do dd if=/dev/zero of=/dev/vda bs=4k count=1 seek=160000 conv=notrunc,fsync; done; echo flush''ed",
    );
    let flushed = vm.sample_with("flushes", |sample| !sample["disk_flush_latency_ms"].is_null()).await;
    assert!(number(&flushed["disk_flush_latency_ms"]) > 0.0, "{flushed}");
    vm.daemon.await_console(&vm.id, "flushed", 0).await;
}
