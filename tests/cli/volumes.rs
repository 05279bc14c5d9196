//! Volumes by the command line: out of one VM, into another, to a file here.

use crate::{
    screen::{done, run},
    support::Daemon,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_goes_from_one_vm_to_another_and_to_a_file() {
    let daemon = Daemon::start();
    let folder = tempfile::tempdir().unwrap();
    for vm in ["web", "db"] {
        done(&daemon, &["create", "--image", "blank.raw", "--memory", "64M", "--disk", "1G", "--name", vm]);
    }
    done(&daemon, &["disk", "add", "web", "--size", "1G"]);
    let kept = done(&daemon, &["volume", "detach", "web", "disk1", "--name", "data"]);
    assert!(kept.contains("web: removed disk1") && kept.contains("are in the volume"), "{kept}");
    done(&daemon, &["volume", "create", "empty", "--size", "2G"]);
    let listed = done(&daemon, &["volume", "ls"]);
    assert!(listed.contains("data") && listed.contains("empty") && listed.contains("2G"), "{listed}");

    let file = folder.path().join("data.qcow2");
    let at = file.to_str().unwrap();
    let written = done(&daemon, &["volume", "export", "data", at]);
    assert!(written.starts_with("data is in "), "{written}");
    assert!(std::fs::read(&file).unwrap().starts_with(b"QFI\xfb"));
    // What is there already is nobody's to write over.
    let refused = run(&daemon, &["volume", "export", "data", at]).expect(2);
    assert!(refused.err.contains("cannot write"), "{refused:?}");

    let attached = done(&daemon, &["volume", "attach", "db", "data"]);
    assert!(attached.contains("db: data is disk1"), "{attached}");
    let listed = done(&daemon, &["volume", "ls"]);
    assert!(
        listed.lines().any(|line| line.starts_with("data") && line.contains("db") && line.contains("disk1")),
        "{listed}"
    );
    let refused = run(&daemon, &["volume", "rm", "data"]);
    assert!(refused.err.contains("is the disk disk1 of the VM db"), "{refused:?}");
    let refused = run(&daemon, &["volume", "attach", "web", "dta"]);
    assert!(refused.err.contains("did you mean data?"), "{refused:?}");
    done(&daemon, &["rm", "db"]);
    let gone = done(&daemon, &["volume", "rm", "data", "empty"]);
    assert!(gone.contains("data: deleted") && gone.contains("empty: deleted"), "{gone}");
}
