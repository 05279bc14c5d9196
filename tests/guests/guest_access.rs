//! A guest on the default NIC, whose network is its QEMU's, where no rules keep it from the host: to the API it looks like its QEMU's user,
//! and is nobody. What the rules do is in `guest_user_network`.

use crate::callers;

use crate::support::{Daemon, guest};
use serde_json::json;

/// What the guest is answered when it asks for `request` at 10.0.2.2, where the host's loopback is for it.
async fn answer(daemon: &Daemon, id: &str, request: &str) -> String {
    let port = daemon.url.rsplit(':').next().unwrap();
    // QEMU's network, where nobody has given it an address yet.
    let up = "ip addr replace 10.0.2.15/24 dev eth0; ip link set eth0 up";
    // The host is asked until there is an answer: the driver needs its time.
    let ask = format!("printf '{request}' | nc -w 10 10.0.2.2 {port} | tr -d '\\r' | grep -a ^HTTP");
    let line = format!("{up}; n=0; until {ask} || [ $n = 20 ]; do n=$((n+1)); sleep 1; done; echo an-''swered");
    let from = daemon.console(id).await.len();
    let _serial = daemon.write_line(id, &line);
    let end = daemon.await_console(id, "an-swered", from).await;
    let log = daemon.console(id).await;
    let status = log[from..end].lines().rev().find_map(|line| line.trim().strip_prefix("HTTP/1.1 "));
    status.unwrap_or_else(|| panic!("no answer:\n{}", &log[from..])).to_owned()
}

#[tokio::test]
async fn a_guest_on_the_default_nic_is_refused_and_its_host_is_not() {
    let mut daemon = guest::daemon();
    daemon.kill();
    let mut command = unable_to_rule(&daemon);
    command.args(["--user-network", "slirp"]);
    daemon.run_as(command);
    let exposure = daemon.get("/host").await.expect(200)["user_network"]["exposure"].take();
    assert!(exposure.as_str().unwrap().contains("CAP_NET_ADMIN"), "{exposure}");
    let warned = daemon.get("/health").await.expect(200)["warnings"].take();
    assert_eq!(warned, json!([exposure]));
    is_refused(daemon, "is that of a VM", unable_to_rule).await;
}

/// A daemon that may not change the network of its host.
fn unable_to_rule(daemon: &Daemon) -> std::process::Command {
    let whole = daemon.command();
    let mut command = std::process::Command::new("setpriv");
    command
        .args(["--bounding-set", "-net_admin", "--inh-caps", "-net_admin"])
        .arg(whole.get_program())
        .args(whole.get_args())
        // Other daemons of this host may have rules for the users that all have by default.
        .args(["--vm-uids", "1999990000-1999990099"]);
    command
        .current_dir(whole.get_current_dir().unwrap())
        .env("QHERD_LOG", "qherd=debug")
        .stdin(std::process::Stdio::null());
    command
}

/// As where VMs have no users of their own: which connection is a guest's is seen by whose socket it is.
#[cfg(debug_assertions)]
#[tokio::test]
async fn a_guest_whose_qemu_runs_as_the_daemons_user_is_refused_as_well() {
    let mut daemon = guest::daemon();
    daemon.kill();
    let mut command = daemon.command();
    command.env("QHERD_TEST_WITHOUT_LAYERS", "user").args(["--user-network", "slirp"]);
    daemon.run_as(command);
    is_refused(daemon, "from a guest", Daemon::command).await;
}

async fn is_refused(mut daemon: Daemon, why: &str, again: fn(&Daemon) -> std::process::Command) {
    let mut wish = guest::wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    daemon.await_boot(&id, None).await;
    let get = "GET /vms HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nConnection: close\\r\\n\\r\\n";
    assert!(answer(&daemon, &id, get).await.starts_with("401"));
    // As it was done: one of the host's images cloned.
    let body = daemon.wish().to_string().replace('"', "\\042");
    let length = daemon.wish().to_string().len();
    let head = "POST /vms HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nConnection: close\\r\\nContent-Type: application/json";
    let post = format!("{head}\\r\\nContent-Length: {length}\\r\\n\\r\\n{body}");
    assert!(answer(&daemon, &id, &post).await.starts_with("401"));
    assert!(daemon.log_text().contains(why), "{}", daemon.log_text());
    // A token is good wherever it is shown.
    let token = callers::token(&daemon.state(), &["create", "--role", "viewer"]);
    let known = format!(
        "GET /vms HTTP/1.1\\r\\nHost: 10.0.2.2\\r\\nConnection: close\\r\\nAuthorization: Bearer {token}\\r\\n\\r\\n"
    );
    assert!(answer(&daemon, &id, &known).await.starts_with("200"));
    // Before its daemon has taken it over, too.
    daemon.kill();
    daemon.run_as(again(&daemon));
    assert!(answer(&daemon, &id, get).await.starts_with("401"));
    let vms = daemon.get("/vms").await.expect(200);
    assert_eq!(vms.as_array().unwrap().len(), 1, "{vms}");
}
