//! Three hundred VMs in the list and in `top`.

use futures_util::{StreamExt, stream};
use nix::sys::signal::{Signal, kill};
use serde_json::{Value, json};

use crate::{
    screen::{Screen, done, qherd},
    support::Daemon,
};

const MANY: usize = 300;

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_vms_are_listed_and_watched() {
    let daemon = Daemon::start();
    let made = stream::iter(0..MANY).map(async |number| {
        let mut wish = daemon.wish();
        wish["name"] = json!(format!("vm-{number:03}"));
        wish["networks"] = json!([]);
        daemon.create(wish).await
    });
    let ids: Vec<String> = made.buffered(8).collect().await;
    done(&daemon, &["start", "vm-000", "vm-150", &ids[299]]);

    let table = done(&daemon, &["ls"]);
    assert_eq!(table.lines().count(), MANY + 1);
    let long = done(&daemon, &["ls", "-l"]);
    assert_eq!(long.lines().count(), MANY + 1);
    assert!(ids.iter().all(|id| table.contains(id.as_str()) && long.contains(id.as_str())));
    assert_eq!(done(&daemon, &["ls", "-q", "--status", "running"]).lines().count(), 3);
    let json: Vec<Value> = serde_json::from_str(&done(&daemon, &["ls", "-o", "json"])).unwrap();
    assert_eq!(json.len(), MANY);
    assert_eq!(done(&daemon, &["top", "--once"]).lines().count(), MANY + 1);

    let mut top = Screen::open(qherd(&daemon, &["top", "--interval", "1s"]), 24, 120);
    top.see("300 VMs, 3 running");
    let in_use = |screen: &Screen| {
        screen.text().lines().any(|line| line.contains("running") && line.contains('%') && line.contains('▁'))
    };
    top.wait("figures with how they went", in_use);
    top.type_text("n");
    top.see("NAME*");
    assert!(top.text().lines().nth(2).unwrap().starts_with("vm-000"), "{}", top.text());
    // The End key.
    top.type_text("\x1b[F");
    top.see("vm-298");
    top.type_text("q");
    top.ends(0);

    let mut top = Screen::open(qherd(&daemon, &["top"]), 24, 120);
    top.see("300 VMs");
    kill(top.pid(), Signal::SIGTERM).unwrap();
    top.ends(143);
    // Ctrl-C is a key there.
    let mut top = Screen::open(qherd(&daemon, &["top"]), 24, 120);
    top.see("300 VMs");
    top.type_text("\x03");
    top.ends(0);

    let names: Vec<String> = (0..MANY).map(|number| format!("vm-{number:03}")).collect();
    let args: Vec<&str> = ["rm"].into_iter().chain(names.iter().map(String::as_str)).collect();
    assert_eq!(done(&daemon, &args).lines().count(), MANY);
    assert_eq!(done(&daemon, &["ls"]), "NAME  STATUS  ID\n");
}
