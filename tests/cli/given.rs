//! What a command reads here and sends, and disks that are there already.

use serde_json::Value;

use crate::{
    screen::{done, run},
    support::Daemon,
};

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHUcZvKtCd9SuHNJUJ8lwzZEfWrYqWpeSpkZxCJcTxXp me@example.com";

fn shown(daemon: &Daemon, name: &str) -> Value {
    serde_json::from_str(&done(daemon, &["show", name, "-o", "json"])).unwrap()
}

#[test]
fn keys_and_user_data_are_read_here_and_replaced_one_by_one() {
    let daemon = Daemon::start();
    let file = |name: &str, text: &str| std::fs::write(daemon.dir.path().join(name), text).unwrap();
    file("id.pub", &format!("{KEY}\n"));
    file("id", "-----BEGIN OPENSSH PRIVATE KEY-----\n");
    file("web.yaml", "#cloud-config\npackages: [nginx]\n");
    file("bad.yaml", "packages: [nginx]\n");
    let create = |more: &[&str]| {
        let args = ["create", "--image", "blank.raw", "--memory", "64M", "--disk", "1G", "-q"];
        run(&daemon, &[&args[..], more].concat())
    };
    create(&["--name", "web", "--ssh-key", "id.pub", "--user-data", "web.yaml"]).expect(0);
    let data = shown(&daemon, "web")["cloud_init"].clone();
    assert_eq!((&data["ssh_keys"][0], &data["user_data"]), (&KEY.into(), &"#cloud-config\npackages: [nginx]\n".into()));
    let refused = create(&["--ssh-key", "id"]).expect(2);
    assert!(refused.err.contains("id holds a private key") && refused.err.contains("give id.pub"), "{}", refused.err);
    let refused = create(&["--user-data", "bad.yaml"]).expect(2);
    assert!(refused.err.contains("begin with #cloud-config"), "{}", refused.err);
    create(&["--ssh-key", "nowhere"]).expect(2);

    let said = done(&daemon, &["set", "web", "--hostname", "w", "--user-data", "none"]);
    assert_eq!(said, "web: cloud_init hostname, ssh_keys\n");
    let data = shown(&daemon, "web")["cloud_init"].clone();
    assert_eq!(data, serde_json::json!({ "ssh_keys": [KEY], "hostname": "w" }));
    done(&daemon, &["set", "web", "--ssh-key", "none", "--hostname", "none"]);
    assert_eq!(shown(&daemon, "web")["cloud_init"], Value::Null);
}

#[test]
fn a_disk_that_is_there_already_is_attached_by_its_path() {
    let theirs = tempfile::Builder::new().prefix("qherd-theirs-").tempdir().unwrap();
    let folder = theirs.path().canonicalize().unwrap();
    let daemon = Daemon::start_with(&["--accel", "tcg", "--storage-dir", folder.to_str().unwrap()]);
    let path = |name: &str| {
        std::fs::write(folder.join(name), vec![7; 1 << 20]).unwrap();
        folder.join(name).display().to_string()
    };
    let (root, data, more) = (path("root.raw"), path("data.img"), path("more.raw"));
    let unclear = run(&daemon, &["create", "--attach", &data]).expect(2);
    assert!(unclear.err.contains(&format!("{data},format=raw")), "{}", unclear.err);
    run(&daemon, &["create"]).expect(2);
    let named = format!("{data},format=raw");
    done(
        &daemon,
        &["create", "--name", "old", "--memory", "64M", "--attach", &root, "--attach", &named, "--iops", "50"],
    );
    done(&daemon, &["disk", "add", "old", "--attach", &more]);
    let disks = shown(&daemon, "old")["disks"].clone();
    let paths: Vec<&str> = disks.as_array().unwrap().iter().map(|disk| disk["disk_file"].as_str().unwrap()).collect();
    assert_eq!(paths, [&root, &data, &more]);
    assert_eq!(disks[0]["io_limits"]["iops"], 50);
    run(&daemon, &["disk", "add", "old", "--attach", &more, "--size", "1G"]).expect(2);
    done(&daemon, &["rm", "old"]);
    assert!(folder.join("root.raw").exists() && folder.join("more.raw").exists());
}

#[test]
fn images_are_listed_by_their_labels() {
    let daemon = Daemon::start();
    let blank = daemon.bases().join("blank.raw").display().to_string();
    done(&daemon, &["image", "import", &blank, "--name", "aa", "--label", "os=a"]);
    done(&daemon, &["image", "import", &blank, "--name", "bb", "--label", "os=b"]);
    let names = |args: &[&str]| {
        let list: Value =
            serde_json::from_str(&done(&daemon, &[&["image", "ls", "-o", "json"], args].concat())).unwrap();
        list.as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(&[]), ["aa", "bb"]);
    assert_eq!(names(&["--label", "os=b"]), ["bb"]);
    assert_eq!(names(&["--label", "os=b", "--name", "aa"]), [] as [&str; 0]);

    // All that are named are there, or none goes; and one that is named twice goes once.
    run(&daemon, &["image", "rm", "aa", "nosuch"]).expect(3);
    assert_eq!(names(&[]), ["aa", "bb"]);
    assert_eq!(done(&daemon, &["image", "rm", "aa", "aa:latest", "bb"]), "aa:latest: deleted\nbb:latest: deleted\n");
    done(&daemon, &["switch", "create", "Yard", "--type", "private"]);
    run(&daemon, &["switch", "rm", "Yard", "nosuch"]).expect(3);
    assert_eq!(done(&daemon, &["switch", "rm", "Yard", "Yard"]), "Yard: deleted\n");
}

#[test]
fn what_is_noted_of_an_image_is_changed_and_who_is_refused_is_told_how() {
    let daemon = Daemon::start();
    let blank = daemon.bases().join("blank.raw").display().to_string();
    done(&daemon, &["image", "import", &blank, "--name", "aa", "--label", "os=a"]);
    let image = || -> Value { serde_json::from_str(&done(&daemon, &["image", "show", "aa", "-o", "json"])).unwrap() };
    let set =
        done(&daemon, &["image", "set", "aa", "--label", "tier=x", "--protected", "true", "--description", "mine"]);
    assert!(set.starts_with("aa:latest is set ("), "{set}");
    let shown = image();
    assert_eq!(shown["labels"], serde_json::json!({ "os": "a", "tier": "x" }));
    assert_eq!((&shown["description"], &shown["protected"]), (&"mine".into(), &true.into()));
    let kept = run(&daemon, &["image", "rm", "aa"]).expect(4);
    assert!(kept.err.ends_with("; qherd image set aa:latest --protected false permits it\n"), "{}", kept.err);
    done(&daemon, &["image", "set", "aa:latest", "--protected", "false", "--unlabel", "tier", "--description", ""]);
    let shown = image();
    assert_eq!(
        (&shown["labels"], &shown["description"]),
        (&serde_json::json!({ "os": "a" }), &serde_json::Value::Null)
    );
    run(&daemon, &["image", "set", "aa"]).expect(2);
    done(&daemon, &["image", "rm", "aa"]);
}
