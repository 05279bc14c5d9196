//! Names where ids do: one alone is enough, several are told apart, and a slip is told of.

use crate::{
    screen::{done, run},
    support::Daemon,
};

fn create(daemon: &Daemon, name: &str) -> String {
    let args =
        ["create", "--image", "blank.raw", "--memory", "64M", "--disk", "1G", "--nic", "none", "-q", "--name", name];
    done(daemon, &args).trim().to_owned()
}

#[test]
fn a_name_is_as_good_as_an_id_while_one_vm_alone_has_it() {
    let daemon = Daemon::start();
    let first = create(&daemon, "web");
    let odd = create(&daemon, "ümläut (x) +@:");
    assert_eq!(done(&daemon, &["show", "web", "-q"]).trim(), first);
    assert_eq!(done(&daemon, &["show", &first.to_uppercase(), "-q"]).trim(), first);
    assert_eq!(done(&daemon, &["show", "ümläut (x) +@:", "-q"]).trim(), odd);

    let second = create(&daemon, "web");
    let ambiguous = run(&daemon, &["start", "web"]).expect(3);
    assert!(ambiguous.err.contains(&first) && ambiguous.err.contains(&second), "{}", ambiguous.err);
    assert!(ambiguous.err.contains("2 VMs are called web"), "{}", ambiguous.err);
    assert_eq!(done(&daemon, &["show", &second, "-q"]).trim(), second);

    let slip = run(&daemon, &["show", "webb"]).expect(3);
    assert!(slip.err.contains("there is no VM webb; did you mean web?"), "{}", slip.err);
    let nobody = run(&daemon, &["show", "database"]).expect(3);
    assert!(nobody.err.contains("qherd ls lists them"), "{}", nobody.err);
    let gone = run(&daemon, &["show", "00000000-0000-4000-8000-000000000000"]).expect(3);
    assert!(gone.err.contains("not found"), "{}", gone.err);

    // One that is not there, and nothing is done to the others.
    run(&daemon, &["rm", &first, "nobody"]).expect(3);
    assert_eq!(done(&daemon, &["ls", "-q"]).lines().count(), 3);
    // Named twice is meant once.
    let removed = done(&daemon, &["rm", &first, &first, &second]);
    assert_eq!(removed, format!("{first}: deleted\n{second}: deleted\n"));
    assert_eq!(done(&daemon, &["ls", "-q"]).trim(), odd);
}
