//! A monitor that does not keep to the protocol, or never ends to talk: its session is dropped with the reason in the
//! VM's status, the daemon's memory stays bounded, other VMs are served, and the VM can be got rid of. The monitor is a
//! program in QEMU's place that plays an honest one up to the point where its VM runs.

use std::time::{Duration, Instant};

use crate::stand_in::StandIn;
use crate::support::{Daemon, PATIENCE};
use serde_json::{Value, json};

/// MiB that the daemon may grow by: the longest line that is accepted has 16, and it is held twice while it is read.
const GROWTH: u64 = 96;

/// A stand-in whose VMs named `hostile` do `deed` once they run, in Perl, with the monitor's connection in `$c`. It
/// answers as QEMU does for as long as the daemon starts it.
fn hostile(deed: &str) -> StandIn {
    let program = r#"
use strict; use warnings; use IO::Handle; use Socket;
$SIG{PIPE} = 'IGNORE';
my $args = join "\n", @ARGV;
my ($fd) = $args =~ /id=monitor,fd=(\d+)/;
open my $l, '+<&=', $fd or die;
my ($running, $status) = ('true', 'running');
while (accept my $c, $l) {
    $c->autoflush(1);
    print $c qq({"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}\n);
    while (my $line = <$c>) {
        my ($command) = $line =~ /"execute":"([^"]+)"/; my ($id) = $line =~ /"id":("[^"]+")/;
        my $return = $command eq 'query-status' ? qq({"running": $running, "status": "$status"}) : $command =~ /^query-/ ? '[]' : '{}';
        print $c qq({"return": $return, "id": $id}\n);
        if ($command eq 'query-blockstats') { DEED }
    }
}
"#;
    let program = program.replace("DEED", deed).replace('\'', "'\\''");
    StandIn::new(&format!("case \" $* \" in *guest=hostile,*) exec perl -e '{program}' -- \"$@\" ;; esac"))
}

fn resident(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

async fn running(daemon: &Daemon, name: &str) -> String {
    let mut wish = daemon.wish();
    wish["name"] = json!(name);
    wish["start"] = json!(true);
    daemon.create(wish).await
}

async fn a_monitor_that(deed: &str, reason: &str) {
    let stand_in = hostile(deed);
    let daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    let other = running(&daemon, "other").await;
    let before = resident(&daemon);
    let id = running(&daemon, "hostile").await;
    let (begun, mut reported, mut rounds) = (Instant::now(), false, 0);
    // It goes on for as long as it likes; the other one is served meanwhile.
    while !reported || rounds < 3 {
        let status: Value = daemon.get(&format!("/vms/{id}/status")).await.expect(200);
        reported |= status["status"] == "unresponsive" && status["reason"].as_str().unwrap().contains(reason);
        daemon.post(&format!("/vms/{other}/stop"), json!({ "force": true })).await.expect(200);
        daemon.post(&format!("/vms/{other}/start"), json!({})).await.expect(200);
        assert_eq!(daemon.status(&other).await, "running");
        rounds += 1;
        assert!(begun.elapsed() < PATIENCE, "never told: {status}");
        assert!(resident(&daemon) < before + GROWTH, "{} MiB of {before}", resident(&daemon));
    }
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(daemon.qemus().len(), 1);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(resident(&daemon) < before + GROWTH);
}

/// Only a KVM that is broken in its own way has such errors; here QEMU's place is taken for what it says then.
#[tokio::test]
async fn a_vm_halted_by_an_internal_error_is_paused_with_the_words_of_qemu() {
    let deed = r#"if ($running eq 'true') {
        ($running, $status) = ('false', 'internal-error');
        print STDERR "KVM internal error. Suberror: 1\n";
        print $c qq({"event": "STOP"}\n);
    }"#;
    let stand_in = hostile(deed);
    let daemon = Daemon::start_with(&["--accel", "tcg", "--qemu", &stand_in.as_arg()]);
    let id = running(&daemon, "hostile").await;
    daemon.await_status(&id, "paused").await;
    let status = daemon.get(&format!("/vms/{id}/status")).await.expect(200);
    let reason = status["reason"].as_str().unwrap();
    assert!(reason.contains("internal error") && reason.contains("Suberror: 1"), "{reason}");
    daemon.post(&format!("/vms/{id}/stop"), json!({ "force": true })).await.expect(200);
}

#[tokio::test]
async fn a_monitor_that_sends_events_without_end_is_dropped() {
    let deed = r#"while (print $c qq({"event": "RTC_CHANGE", "data": {"offset": 1}}\n) x 1000) {} last;"#;
    a_monitor_that(deed, "more messages than can be dealt with").await;
}

#[tokio::test]
async fn a_monitor_that_sends_garbage_is_dropped() {
    a_monitor_that(r#"while (print $c "\x00\xff not JSON\n" x 1000) {} last;"#, "not a message").await;
}

#[tokio::test]
async fn a_monitor_that_sends_a_line_without_end_is_dropped() {
    a_monitor_that(r#"my $x = "x" x 65536; while (print $c $x) {} last;"#, "a line of more than").await;
}

#[tokio::test]
async fn a_monitor_that_sends_replies_to_nothing_is_dropped() {
    a_monitor_that(r#"while (print $c qq({"return": {}, "id": 999999}\n) x 1000) {} last;"#, "a reply to nothing")
        .await;
}

#[tokio::test]
async fn a_monitor_that_answers_another_client_without_end_is_dropped() {
    let deed = r#"while (print $c qq({"return": {}, "id": "other-1"}\n) x 1000) {} last;"#;
    a_monitor_that(deed, "more messages than can be dealt with").await;
}

#[tokio::test]
async fn a_monitor_that_ends_in_the_middle_of_a_reply_is_dropped() {
    a_monitor_that(r#"print $c qq({"return": ); last;"#, "middle of a line").await;
}

#[tokio::test]
async fn a_monitor_that_stops_in_the_middle_of_a_reply_is_dropped() {
    a_monitor_that(r#"print $c qq({"return": ); sleep 3600;"#, "not answered within").await;
}
