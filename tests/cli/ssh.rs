//! `ssh` becomes the program ssh, with the place, the user and a name for the key. The real one says what it was given (`-G`).

use crate::{
    screen::{done, run},
    support::Daemon,
};

fn create(daemon: &Daemon, name: &str, nic: &str) -> String {
    let args =
        ["create", "--image", "blank.raw", "--memory", "64M", "--disk", "1G", "-q", "--name", name, "--nic", nic];
    done(daemon, &args).trim().to_owned()
}

/// A line of what ssh makes of its arguments.
#[track_caller]
fn says(text: &str, line: &str) {
    assert!(text.lines().any(|found| found == line), "no {line:?} in:\n{text}");
}

#[test]
fn ssh_is_given_the_place_the_user_and_a_name_for_the_key() {
    let daemon = Daemon::start();
    let id = create(&daemon, "web", "user,forward=42022:22");
    create(&daemon, "me@home", "user,forward=127.0.0.5:42023:22");
    create(&daemon, "closed", "user,forward=42024:80");
    create(&daemon, "alone", "none");

    let text = done(&daemon, &["ssh", "admin@web", "--", "-G"]);
    says(&text, "hostname 127.0.0.1");
    says(&text, "port 42022");
    says(&text, "user admin");
    says(&text, &format!("hostkeyalias qherd-{id}"));
    // A name with an @ of its own is the VM's.
    let text = done(&daemon, &["ssh", "me@home", "--", "-G", "-4"]);
    says(&text, "hostname 127.0.0.5");
    says(&text, "addressfamily inet");
    let text = done(&daemon, &["ssh", "you@me@home", "--", "-G"]);
    says(&text, "user you");

    // Where an image is known, and its cloud-init lets somebody in, that user is asked for.
    std::fs::copy(daemon.bases().join("blank.raw"), daemon.bases().join("debian-12.raw")).unwrap();
    let cloud = ["create", "--image", "debian-12.raw", "--memory", "64M", "--disk", "1G", "-q"];
    let nic = ["--name", "cloud", "--nic", "user,forward=42025:22", "--hostname", "c"];
    done(&daemon, &[&cloud[..], &nic[..]].concat());
    says(&done(&daemon, &["ssh", "cloud", "--", "-G"]), "user debian");
    says(&done(&daemon, &["ssh", "me@cloud", "--", "-G"]), "user me");

    // Its end is ssh's own: nobody listens there while the VM is off.
    let refused = run(&daemon, &["ssh", "web", "--", "-o", "BatchMode=yes", "true"]).expect(255);
    assert!(refused.err.contains("port 42022"), "{}", refused.err);

    for name in ["closed", "alone"] {
        let refused = run(&daemon, &["ssh", name]).expect(4);
        assert!(refused.err.contains(&format!("qherd nic add {name}")), "{}", refused.err);
    }
    let nobody = run(&daemon, &["ssh", "@web"]).expect(2);
    assert!(nobody.err.contains("names no user"), "{}", nobody.err);
    let slip = run(&daemon, &["ssh", "admin@webb"]).expect(3);
    assert!(slip.err.contains("did you mean web?"), "{}", slip.err);
}
