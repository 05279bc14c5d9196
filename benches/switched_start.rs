//! What a NIC on a NAT switch adds to a start: through the API against the very same QEMU with a tap that was put on the
//! same bridge by hand, without rules, in turn, in one run.
//!
//! Run with `scripts/bench`, as root; it works in a network namespace of its own.

mod bare;
#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use bare::{ByHand, Carrier, bare_start, bare_stop, command_line, median};
use serde_json::json;
use support::{Daemon, netns::Host};

const PAIRS: usize = 30;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    // `cargo test --benches` asks for a run without measurements.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let host = Host::leave();
    let daemon = Daemon::start();
    let lan = json!({ "name": "LAN", "type": "internal", "subnet": "10.77.0.0/24", "nat": true });
    let lan = daemon.post("/switches", lan).await.expect(201)["id"].as_str().unwrap().to_owned();
    let bridge = format!("qhb{}", lan.replace('-', "").split_at(12).0);
    let vm = async |networks| {
        let mut wish = daemon.wish();
        wish["networks"] = networks;
        daemon.create(wish).await
    };
    let (with, without) = (vm(json!([{ "switch": "LAN" }])).await, vm(json!([])).await);
    let path = |id: &str, action: &str| format!("/vms/{id}/{action}");
    daemon.post(&path(&with, "start"), json!({})).await.expect(200);
    let pid = daemon.get(&format!("/vms/{with}")).await.expect(200)["pid"].as_i64().unwrap();
    let arguments = command_line(pid);
    daemon.post(&path(&with, "stop?force=true"), json!({})).await.expect(200);

    let by_hand = ByHand { tap: "byhand".into(), bridge };
    let (mut bare, mut started, mut alone) = (vec![], vec![], vec![]);
    for _ in 0..PAIRS {
        let (qemu, taken) = bare_start(&arguments, &daemon.run_dir(&with), Carrier::Tap(&by_hand));
        bare.push(ms(taken));
        bare_stop(qemu);
        for (id, times) in [(&with, &mut started), (&without, &mut alone)] {
            let begin = Instant::now();
            daemon.post(&path(id, "start"), json!({})).await.expect(200);
            times.push(ms(begin.elapsed()));
            daemon.post(&path(id, "stop?force=true"), json!({})).await.expect(200);
        }
    }
    println!("{PAIRS} rounds, in turn; milliseconds, median");
    println!("bare QEMU, its tap made by hand:          {:.1}", median(&bare));
    println!("start of a VM with a NIC on the switch:  {:.1}", median(&started));
    println!("start of a VM without a NIC:             {:.1}", median(&alone));
    let added: Vec<f64> = started.iter().zip(&bare).map(|(ours, bare)| ours - bare).collect();
    println!("added to bare and by hand, pair by pair:  {:.1}", median(&added));
    for id in [&with, &without] {
        daemon.delete(&format!("/vms/{id}")).await.expect(200);
    }
    daemon.delete(&format!("/switches/{lan}")).await.expect(200);
    drop(daemon);
    host.assert_untouched();
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
