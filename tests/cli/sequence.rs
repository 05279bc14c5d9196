//! A VM's whole life on a terminal, as a person sees it: tests/golden/cli.sequence.snap.

use std::fmt::Write;

use crate::{
    golden,
    screen::{done, run, shown},
    support::Daemon,
};

/// The life, as it is typed.
const LIFE: &[&str] = &[
    "ls",
    "create --image blank.raw --name web --memory 64M --disk 1G --iops 500 --start --wait-for running",
    "create --image blank.raw --name web2 --cpus 2 --memory 64M --disk 1G --pin 0-1 --nic none --restart-policy on-failure",
    "ls",
    "ls -l",
    "ls --status stopped",
    "start web web2",
    "suspend web web2",
    "ls --status paused",
    "resume web",
    "resume web",
    "stop web --timeout 1s",
    "stop web web2 --force",
    "stop web",
    "set web --cpus 2 --memory 128M --iops none --bps 10M --restart-policy always --max-restarts 3",
    "set web --disk 2G --pin 0",
    "set web --label env=prod --label tier=front --protected true --description mine",
    "set web --unlabel tier --name front",
    "ls -l --label env=prod",
    "rm web",
    "set front --name web --protected false",
    "disk add web --size 1G --iops 100",
    "disk ls web",
    "nic add web user,forward=24222:22",
    "nic ls web",
    "show web",
    "nic rm web net1",
    "disk rm web disk1",
    "disk rm web disk7",
    "set web --disk 1G",
    "set web",
    "show wbe webb",
    "events --vm web --type vm.goal,vm.created",
    "rm web web2",
    "rm web",
    "ls",
    "switch ls",
];

#[test]
fn the_life_of_a_vm_is_shown_as_it_is() {
    let daemon = Daemon::start();
    let mut text = String::new();
    for line in LIFE {
        let args: Vec<&str> = line.split(' ').collect();
        let (seen, code) = shown(&daemon, &args);
        let status = if code == 0 { String::new() } else { format!("[{code}]\n") };
        write!(text, "$ qherd {line}\n{}{status}", redacted(&seen, &daemon)).unwrap();
    }
    golden::compare("cli.sequence", &text);
}

#[test]
fn programs_are_told_the_same_in_their_own_words() {
    let daemon = Daemon::start();
    let create =
        ["create", "--image", "blank.raw", "--name", "web", "--memory", "64M", "--disk", "1G", "--nic", "none"];
    let made: serde_json::Value =
        serde_json::from_str(&done(&daemon, &[&create[..], &["-o", "json"]].concat())).unwrap();
    let id = made["id"].as_str().unwrap();
    // The API's own words, each.
    let one: serde_json::Value = serde_json::from_str(&done(&daemon, &["show", "web", "-o", "json"])).unwrap();
    assert_eq!((&one["id"], &one["memory"], &one["disks"][0]["name"]), (&id.into(), &64.into(), &"root".into()));
    let stopped: serde_json::Value = serde_json::from_str(&done(&daemon, &["stop", id, "-o", "json"])).unwrap();
    assert_eq!((&stopped["status"], &stopped["forced"]), (&"stopped".into(), &false.into()));
    let second = done(&daemon, &[&create[..], &["-q"]].concat());
    let both: serde_json::Value =
        serde_json::from_str(&done(&daemon, &["show", id, second.trim(), "-o", "json"])).unwrap();
    assert_eq!(both.as_array().unwrap().len(), 2);
    let yaml = done(&daemon, &["ls", "-o", "yaml"]);
    assert!(yaml.contains(&format!("  id: {id}\n")), "{yaml}");
    assert_eq!(done(&daemon, &["start", id, "-q"]), "");

    let host: serde_json::Value = serde_json::from_str(&done(&daemon, &["host", "-o", "json"])).unwrap();
    assert_eq!(host["accelerator"], "tcg");
    let events: Vec<serde_json::Value> =
        serde_json::from_str(&done(&daemon, &["events", "-o", "json", "--vm", id])).unwrap();
    assert_eq!(events[0]["type"], "vm.created");
    assert!(events.iter().all(|event| event["vm_id"] == id));
    // After the one that is known, nothing that was told before.
    let last = events[events.len() - 2]["id"].as_str().unwrap();
    assert_eq!(done(&daemon, &["events", "-q", "--vm", id, "--after", last]).lines().count(), 1);
}

/// Colours are for people who want them, on a terminal.
#[test]
fn colours_are_for_a_terminal_alone() {
    use crate::screen::{Screen, qherd};
    let daemon = Daemon::start();
    done(&daemon, &["create", "--image", "blank.raw", "--name", "web", "--memory", "64M", "--disk", "1G"]);
    let written = |set: &[(&str, &str)]| {
        let mut command = qherd(&daemon, &["ls"]);
        command.envs(set.iter().copied());
        let mut screen = Screen::open(command, 10, 100);
        screen.ends(0);
        screen.written().contains(&0x1b)
    };
    assert!(written(&[]));
    assert!(!written(&[("NO_COLOR", "1")]));
    assert!(!written(&[("TERM", "dumb")]));
    assert!(!run(&daemon, &["ls"]).out.contains('\x1b'));
}

/// And so are signs of life, which leave nothing behind.
#[test]
fn progress_is_for_a_terminal_alone() {
    use crate::screen::{Screen, qherd};
    let daemon = Daemon::start();
    let create = ["create", "--image", "blank.raw", "--memory", "64M", "--disk", "1G", "--nic", "none", "--start"];
    for name in ["web", "web2"] {
        done(&daemon, &[&create[..], &["--name", name]].concat());
    }
    let stop = ["stop", "web", "--timeout", "2s"];
    let mut screen = Screen::open(qherd(&daemon, &stop), 10, 100);
    screen.see("stopping web");
    screen.ends(0);
    assert_eq!(screen.text().trim(), "web: stopped, by force");

    done(&daemon, &["start", "web"]);
    let mut screen = Screen::open(qherd(&daemon, &["stop", "web", "web2", "--timeout", "2s"]), 10, 100);
    screen.see("0 of 2 stopping");
    screen.ends(0);
    assert_eq!(screen.text().trim(), "web: stopped, by force\nweb2: stopped, by force");

    done(&daemon, &["start", "web"]);
    let mut screen = Screen::open(qherd(&daemon, &[&stop[..], &["-q"]].concat()), 10, 100);
    screen.ends(0);
    assert!(screen.written().is_empty());
    done(&daemon, &["start", "web"]);
    let ran = run(&daemon, &stop).expect(0);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), ("web: stopped, by force\n", ""));
}

/// Without what differs from run to run.
fn redacted(text: &str, daemon: &Daemon) -> String {
    let text = text.replace(&daemon.dir.path().display().to_string(), "DIR");
    let mut out = String::new();
    for line in text.lines() {
        let mut rest = line.trim_end();
        let mut begins = true;
        while let Some(c) = rest.chars().next() {
            let found = if begins { SHAPES.iter().find(|(shape, _)| fits(rest, shape)) } else { None };
            match found {
                Some((shape, instead)) => {
                    out.push_str(instead);
                    rest = &rest[shape.len()..];
                    begins = false;
                }
                None => {
                    out.push(c);
                    rest = &rest[c.len_utf8()..];
                    begins = !c.is_alphanumeric() && c != '-';
                }
            }
        }
        out.push('\n');
    }
    out
}

/// `h` is a hex digit, `d` a decimal one.
const SHAPES: &[(&str, &str)] = &[
    ("hhhhhhhh-hhhh-hhhh-hhhh-hhhhhhhhhhhh", "ID"),
    ("dddd-dd-ddTdd:dd:dd.dddZ", "TIME"),
    ("52:54:00:hh:hh:hh", "52:54:00:MAC"),
    ("pc-q35-d.d", "pc-q35-VERSION"),
    ("pc-q35-dd.d", "pc-q35-VERSION"),
    ("ds", "Ns"),
    ("dds", "Ns"),
];

fn fits(text: &str, shape: &str) -> bool {
    let fits = |(c, shape): (char, char)| match shape {
        'h' => c.is_ascii_hexdigit(),
        'd' => c.is_ascii_digit(),
        _ => c == shape,
    };
    let after = text.get(shape.len()..).map(|rest| rest.chars().next());
    after.is_some_and(|next| next.is_none_or(|c| !c.is_alphanumeric())) && text.chars().zip(shape.chars()).all(fits)
}
