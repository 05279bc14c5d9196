//! What is waited for and can never be is refused at once, with the reason; a port is one that accepts.

use crate::{
    screen::{done, run},
    support::Daemon,
};

const CREATE: [&str; 8] = ["create", "--image", "blank.raw", "--memory", "64M", "--disk", "1G", "--start"];

#[test]
fn what_can_never_be_is_refused_with_the_reason() {
    let daemon = Daemon::start();
    done(
        &daemon,
        &[&CREATE[..], &["--name", "user", "--nic", "user,forward=42122:22", "--wait-for", "running"]].concat(),
    );
    done(&daemon, &[&CREATE[..], &["--name", "alone", "--nic", "none"]].concat());
    let refused = run(&daemon, &["wait", "user", "--for", "port:22"]).expect(2);
    assert!(refused.err.contains("QEMU accepts connections itself"), "{}", refused.err);
    for goal in ["ip", "port:22"] {
        let refused = run(&daemon, &["wait", "alone", "--for", goal]).expect(2);
        assert!(refused.err.contains("alone has no NIC"), "{}", refused.err);
    }
    let stopped = [&CREATE[..7], &["--wait-for", "ip"]].concat();
    assert!(run(&daemon, &stopped).expect(2).err.contains("add --start"));
    let unknown = run(&daemon, &["wait", "user", "--for", "up"]).expect(2);
    assert!(unknown.err.contains("port:22"), "{}", unknown.err);
}
