//! The console of a guest that does to a terminal whatever it can: its bytes come as they are, and the terminal is as it was before,
//! however that ends. Everything else shows text.

use nix::sys::signal::{Signal, kill};

use crate::{
    hostile::{self, EVIL, HARMLESS},
    screen::{Screen, done, qherd, run, shown},
    support::Daemon,
};

fn open(daemon: &Daemon) -> Screen {
    let mut screen = Screen::open(qherd(daemon, &["console", "evil"]), 24, 100);
    let evil = |screen: &Screen| {
        let written = screen.written();
        written.windows(EVIL.len()).any(|part| part == EVIL.as_bytes())
    };
    screen.wait("the guest's bytes as they are", evil);
    let terminal = screen.terminal();
    assert!(terminal.screen().alternate_screen() && terminal.screen().hide_cursor(), "it has done its harm");
    screen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_guest_leaves_the_terminal_as_it_was_however_the_console_ends() {
    let mut daemon = Daemon::start();
    let id = hostile::start(&daemon, "evil").await;

    // Left by its key, after something was typed and echoed.
    let mut screen = open(&daemon);
    screen.type_text("\x07typed");
    screen.wait("the echo", |screen| String::from_utf8_lossy(&screen.written()).contains("\x07typed"));
    screen.type_text("\x1d");
    screen.ends(0);

    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGHUP, 129), (Signal::SIGINT, 130), (Signal::SIGQUIT, 131)]
    {
        let mut screen = open(&daemon);
        kill(screen.pid(), Signal::SIGTSTP).unwrap();
        kill(screen.pid(), signal).unwrap();
        screen.ends(code);
    }

    // Only one types; who watches is told, and shown the same.
    let mut first = open(&daemon);
    let mut second = Screen::open(qherd(&daemon, &["console", "evil", "--watch", "-n", "0"]), 24, 100);
    second.see("Ctrl-] leaves it");
    first.type_text("seen by both");
    second.see("seen by both");
    second.type_text("\x1d");
    second.ends(0);

    let mut closed = open(&daemon);
    closed.close_window();
    assert!(!closed.end().success(), "nobody is there any more");

    daemon.kill();
    first.ends(6);
    assert!(first.text().contains("qherd at"), "{}", first.text());
    daemon.run();

    let mut screen = open(&daemon);
    daemon.terminate();
    screen.ends(6);
    assert!(screen.text().contains("qherd ends; the guest goes on"), "{}", screen.text());
    daemon.run();

    // Deleted under who looks at it.
    let mut screen = open(&daemon);
    done(&daemon, &["rm", &id]);
    screen.ends(0);
    assert!(screen.text().contains("the VM is deleted"), "{}", screen.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_but_the_console_shows_text() {
    let daemon = Daemon::start();
    let id = hostile::start(&daemon, "evil").await;
    let acts = |text: &str| text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'));

    let (text, code) = shown(&daemon, &["logs", "evil"]);
    assert!(code == 0 && text.contains(HARMLESS), "{text}");
    let mut screen = Screen::open(qherd(&daemon, &["logs", "-f", "-t", "evil"]), 24, 100);
    screen.see(HARMLESS);
    let written = String::from_utf8(screen.written()).unwrap();
    assert!(!acts(&written), "{written:?}");
    screen.is_as_before();
    // It ends with its VM.
    let log = done(&daemon, &["logs", &id]);
    assert!(log.contains(HARMLESS) && !acts(&log), "{log:?}");

    for args in [
        &["ls", "-l"][..],
        &["show", "evil"],
        &["show", "evil", "-o", "json"],
        &["show", "evil", "-o", "yaml"],
        &["events"],
        &["nic", "ls", "evil", "-o", "wide"],
        &["logs", "--qemu", "evil"],
    ] {
        let text = run(&daemon, args).expect(0).out;
        assert!(!acts(&text), "{args:?}: {text:?}");
    }
    done(&daemon, &["rm", "evil"]);
    screen.ends(0);

    // What is typed is shown again, and may come from elsewhere.
    let wrong = run(&daemon, &["show", "\x1b[2Jevil"]).expect(3);
    assert!(!acts(&wrong.err), "{:?}", wrong.err);
}

#[test]
fn a_console_takes_a_terminal_and_says_what_does_not() {
    let daemon = Daemon::start();
    done(&daemon, &["create", "--image", "blank.raw", "--name", "web", "--memory", "64M", "--disk", "1G"]);
    let refused = run(&daemon, &["console", "web"]).expect(2);
    assert!(refused.err.contains("qherd logs -f"), "{}", refused.err);
}
