//! `qmp::Session` against a scripted peer: when a session ends, why, and who learns of it.

use crate::scripted_peer::{GREETING, LONG, SHORT, closed, open, open_with};
use qherd::qmp::{CloseReason, Event, Options, QmpError};
use serde_json::json;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// Opens a session, lets the peer send `bytes` and hang up, and returns why the session closed.
async fn reason_after(bytes: &[u8]) -> CloseReason {
    let (session, mut events, mut peer) = open_with(Options { line_limit: 4096, ..Options::default() }).await;
    peer.say_bytes(bytes).await;
    drop(peer);
    let reason = timeout(LONG, session.closed()).await.unwrap();
    while events.next().await.is_some() {}
    assert_eq!(session.close_reason(), Some(reason.clone()));
    assert_eq!(session.execute_raw("query-status", None).await, Err(closed(reason.clone())));
    reason
}

#[tokio::test]
async fn an_unanswered_command_times_out_and_takes_the_session_with_it() {
    let (session, mut events, mut peer) = open_with(Options { deadline: |_| SHORT, ..Options::default() }).await;
    let poisoned = CloseReason::Poisoned { command: "first".into() };
    let (first, second) = tokio::join!(session.execute_raw("first", None), session.execute_raw("second", None));
    assert_eq!(first, Err(QmpError::Timeout { command: "first".into(), after: SHORT }));
    assert_eq!(second, Err(closed(poisoned.clone())));
    assert_eq!(session.closed().await, poisoned);
    assert_eq!(events.next().await, None);
    peer.hear().await;
    peer.hear().await;
    peer.hear_end().await;
}

#[tokio::test]
async fn a_late_answer_does_no_harm_and_a_new_session_is_unaffected() {
    let (session, _events, mut peer) = open_with(Options { deadline: |_| SHORT, ..Options::default() }).await;
    let timeout = session.execute_raw("slow", None).await.unwrap_err();
    assert!(matches!(timeout, QmpError::Timeout { .. }));
    let command = peer.hear().await;
    peer.answer(&command, json!("late")).await;

    let (session, _events, mut peer) = open().await;
    let script = async {
        let command = peer.hear().await;
        peer.answer(&command, json!("in time")).await;
    };
    let (reply, ()) = tokio::join!(session.execute_raw("quick", None), script);
    assert_eq!(reply.unwrap(), json!("in time"));
}

#[tokio::test]
async fn a_command_behind_a_slow_one_is_not_late_before_it() {
    let by_name = |name: &str| if name == "device_add" { LONG } else { SHORT };
    let (session, _events, mut peer) = open_with(Options { deadline: by_name, ..Options::default() }).await;
    let script = async {
        let (slow, quick) = (peer.hear().await, peer.hear().await);
        sleep(SHORT * 4).await;
        peer.answer(&slow, json!({})).await;
        peer.answer(&quick, json!({})).await;
    };
    let (slow, quick, ()) =
        tokio::join!(session.execute_raw("device_add", None), session.execute_raw("query-status", None), script);
    slow.unwrap();
    quick.unwrap();
}

/// As when the daemon itself was stopped, or its machine was: the clock has run out and the reply
/// lies waiting.
#[tokio::test]
async fn a_reply_that_came_in_time_counts_even_if_it_is_read_too_late() {
    for _ in 0..5 {
        let (session, _events, mut peer) = open_with(Options { deadline: |_| SHORT, ..Options::default() }).await;
        let script = async {
            let command = peer.hear().await;
            peer.answer(&command, json!({})).await;
            std::thread::sleep(SHORT * 2);
        };
        let (reply, ()) = tokio::join!(session.execute_raw("query", None), script);
        reply.unwrap();
    }
}

#[tokio::test]
async fn more_events_than_are_consumed_close_the_session_within_bounds() {
    let (session, mut events, mut peer) = open_with(Options { event_capacity: 8, ..Options::default() }).await;
    for _ in 0..100 {
        peer.say(r#"{"event": "RTC_CHANGE", "data": {"offset": 1}}"#).await;
    }
    assert_eq!(session.closed().await, CloseReason::Flood);
    let mut kept = 0;
    while events.next().await.is_some() {
        kept += 1;
    }
    assert_eq!(kept, 8);
}

#[tokio::test]
async fn events_without_end_close_the_session_however_fast_they_are_consumed() {
    let (session, mut events, mut peer) = open_with(Options { event_rate: 100, ..Options::default() }).await;
    let flood = async {
        while session.close_reason().is_none() {
            peer.say(r#"{"event": "RTC_CHANGE", "data": {"offset": 1}}"#).await;
        }
    };
    let consume = async {
        let mut consumed = 0;
        while events.next().await.is_some() {
            consumed += 1;
        }
        consumed
    };
    let ((), consumed) = timeout(LONG, async { tokio::join!(flood, consume) }).await.unwrap();
    assert_eq!((consumed, session.close_reason()), (100, Some(CloseReason::Flood)));
}

#[tokio::test]
async fn each_way_to_end_has_its_reason() {
    assert_eq!(reason_after(b"").await, CloseReason::Eof);
    assert_eq!(reason_after(br#"{"return": {}, "i"#).await, CloseReason::HalfLine);
    assert_eq!(reason_after(&[b'x'; 5000]).await, CloseReason::LineTooLong { limit: 4096 });
    assert!(matches!(reason_after(b"Segmentation fault\n").await, CloseReason::Garbage(_)));
    assert!(matches!(reason_after(format!("{GREETING}\n").as_bytes()).await, CloseReason::Garbage(_)));
    let unparsed = br#"{"error": {"class": "GenericError", "desc": "JSON parse error"}}
"#;
    assert_eq!(reason_after(unparsed).await, CloseReason::Rejected("JSON parse error".into()));
}

#[tokio::test]
async fn the_last_words_of_a_dying_qemu_are_heard() {
    let (session, mut events, mut peer) = open().await;
    peer.say(r#"{"event": "SHUTDOWN", "data": {"guest": false, "reason": "host-signal"}}"#).await;
    drop(peer);
    assert_eq!(session.execute_raw("query-status", None).await, Err(closed(CloseReason::Eof)));
    assert!(matches!(events.next().await.unwrap().event, Event::Shutdown { .. }));
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn a_pending_command_learns_of_the_end() {
    let (session, _events, mut peer) = open().await;
    let script = async {
        peer.hear().await;
        drop(peer);
    };
    let (reply, ()) = tokio::join!(session.execute_raw("device_add", None), script);
    assert_eq!(reply, Err(closed(CloseReason::Eof)));
}

#[tokio::test]
async fn the_socket_closes_with_the_last_handle_and_not_before() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let (session, mut events, mut peer) = open().await;
    let clone = session.clone();
    drop(session);
    drop(clone);
    peer.say(r#"{"event": "STOP"}"#).await;
    assert_eq!(events.next().await.unwrap().event, Event::Stop, "events alone keep the session open");
    drop(events);
    peer.hear_end().await;

    let (session, events, mut peer) = open().await;
    drop(events);
    peer.say(r#"{"event": "STOP"}"#).await;
    let script = async {
        let command = peer.hear().await;
        peer.answer(&command, json!({})).await;
    };
    let (reply, ()) = tokio::join!(session.execute_raw("query", None), script);
    reply.expect("a session goes on when nobody listens to its events");
    drop(session);
    peer.hear_end().await;

    timeout(LONG, async {
        while tasks() > before {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("a driver outlived its session");
}
