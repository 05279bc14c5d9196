//! The console of a guest over a WebSocket: several who watch and one who types, before and after the daemon's end, and nothing of it
//! holds up the guest.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::{
    support::{self, guest},
    terminal::Terminal,
};

#[tokio::test]
async fn a_guest_is_watched_by_several_and_typed_at_by_one_over_the_daemons_end() {
    let mut daemon = guest::daemon();
    let mut wish = guest::wish();
    wish["start"] = json!(true);
    let id = daemon.create(wish).await;
    // From its first byte on.
    let mut one = Terminal::open(&daemon, &id, "").await;
    one.see("qherd-guest: booted").await;
    daemon.await_boot(&id, None).await;
    one.type_text("\n").await;
    one.see("guest#").await;

    // Much more than the guest's port holds, while it writes itself.
    one.type_text(&format!("echo n=$(echo {} | wc -c)\n", "x".repeat(600))).await;
    one.see("n=601").await;

    // What was written before comes first.
    let mut other = Terminal::open(&daemon, &id, "?tail=100000").await;
    other.note("you only watch: uid 0 types").await;
    other.see("qherd-guest: booted").await;
    other.type_text("echo other\n").await;
    other.note("you only watch]").await;
    one.type_text("{\"resize\":{\"cols\":100,\"rows\":40}}").await;
    one.type_text("echo o''ne; printf '\\377\\001\\033[31m'; ").await;
    one.send(Message::binary(&b"echo e''nd\n"[..])).await;
    for terminal in [&mut one, &mut other] {
        terminal.see("one\r\n\u{fffd}\u{1}\u{1b}[31mend").await;
    }
    // Nobody's place: others may have it, and share it.
    drop(one);
    let mut shared = loop {
        let mut terminal = Terminal::open(&daemon, &id, "?shared=true&tail=0").await;
        terminal.type_text("echo s''hared\n").await;
        // Either the guest's word comes, or that somebody types still.
        while !terminal.seen.contains("shared") && !terminal.notes.contains("only watch") {
            terminal.next().await.unwrap();
        }
        if terminal.notes.is_empty() {
            break terminal;
        }
    };
    let mut too = Terminal::open(&daemon, &id, "?shared=true&tail=0").await;
    too.type_text("echo t''oo\n").await;
    too.see("too").await;
    shared.see("too").await;

    // The daemon ends in order, and is killed; the VM goes on, with its console.
    daemon.terminate();
    assert_eq!(shared.closed().await, "closed: 1001 qherd ends; the guest goes on");
    daemon.run();
    daemon.kill();
    daemon.run();
    let mut after = Terminal::open(&daemon, &id, "?tail=20").await;
    after.type_text("echo a''fter\n").await;
    after.see("after").await;

    // A daemon that is stopped while somebody types holds up nothing.
    after.type_text("(while :; do echo flood-$((n+=1)); done) &\n").await;
    after.see("flood-9").await;
    daemon.signal(nix::sys::signal::Signal::SIGSTOP);
    let held = daemon.held_console(&id).len();
    let begun = Instant::now();
    while daemon.held_console(&id).len() < held + 40_000 {
        assert!(begun.elapsed() < support::PATIENCE, "the guest waits for the daemon");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    daemon.signal(nix::sys::signal::Signal::SIGCONT);

    // One that takes nothing holds up neither the guest nor another one.
    let _sleeps = Terminal::open(&daemon, &id, "?watch=true").await;
    for _ in 0..20 {
        after.seen.clear();
        after.see("flood-").await;
    }
    daemon.delete(&format!("/vms/{id}")).await.expect(200);
    assert_eq!(after.closed().await, "closed: 1000 the VM is deleted");
}
