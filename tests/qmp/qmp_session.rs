//! `qmp::Session` against a scripted peer: which reply and which event reach whom.

use crate::scripted_peer::{GREETING, LONG, Peer, SHORT, closed, open};
use qherd::qmp::{CloseReason, Event, QmpError, Session};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::timeout;

#[tokio::test]
async fn the_greeting_tells_the_version() {
    let (session, _events, _peer) = open().await;
    assert_eq!(session.version().to_string(), "7.2.22");
    assert_eq!(session.version().package, "scripted");
}

#[tokio::test]
async fn a_missing_greeting_is_a_timeout_and_anything_else_in_its_place_an_error() {
    let (_peer, stream) = Peer::new();
    let error = Session::open(stream, SHORT).await.unwrap_err();
    assert_eq!(error, QmpError::Timeout { command: "greeting".into(), after: SHORT });

    // No end of answers to nobody is as bad as an event.
    let event = r#"{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 0}}"#;
    for (message, times) in [(event, 1), (r#"{"return": {}}"#, 17)] {
        let (mut peer, stream) = Peer::new();
        for _ in 0..times {
            peer.say(message).await;
        }
        let error = Session::open(stream, LONG).await.unwrap_err();
        assert_eq!(error, closed(CloseReason::Garbage("a message before the greeting".into())));
    }

    let (peer, stream) = Peer::new();
    drop(peer);
    assert_eq!(Session::open(stream, LONG).await.unwrap_err(), closed(CloseReason::Eof));
}

#[tokio::test]
async fn what_an_earlier_client_is_answered_before_the_greeting_is_passed_over() {
    let (mut peer, stream) = Peer::new();
    let script = async {
        peer.say(r#"{"return": {"status": "running"}, "id": "earlier-3"}"#).await;
        peer.say(r#"{"error": {"class": "GenericError", "desc": "no"}, "id": "earlier-4"}"#).await;
        peer.say(GREETING).await;
        let negotiation = peer.hear().await;
        peer.answer(&negotiation, json!({})).await;
    };
    let (opened, ()) = tokio::join!(Session::open(stream, LONG), script);
    opened.unwrap();
}

#[tokio::test]
async fn a_peer_that_greets_and_falls_silent_does_not_open() {
    let (mut peer, stream) = Peer::new();
    peer.say(GREETING).await;
    let error = Session::open(stream, SHORT).await.unwrap_err();
    assert_eq!(error, QmpError::Timeout { command: "qmp_capabilities".into(), after: SHORT });
    peer.hear().await;
    peer.hear_end().await;
}

#[tokio::test]
async fn every_command_has_an_id_and_replies_find_it_in_any_order() {
    let (session, _events, mut peer) = open().await;
    let script = async {
        let (first, second) = (peer.hear().await, peer.hear().await);
        assert_eq!(first["execute"], "first");
        assert_eq!(second["arguments"], json!({"n": 2}));
        assert_ne!(first["id"], second["id"]);
        peer.answer(&second, json!("two")).await;
        peer.answer(&first, json!("one")).await;
    };
    let (one, two, ()) =
        tokio::join!(session.execute_raw("first", None), session.execute_raw("second", Some(json!({"n": 2}))), script);
    assert_eq!((one.unwrap(), two.unwrap()), (json!("one"), json!("two")));
}

#[tokio::test]
async fn a_refusal_carries_the_words_of_qemu_and_the_session_goes_on() {
    let (session, _events, mut peer) = open().await;
    let script = async {
        let command = peer.hear().await;
        peer.say(&json!({"error": {"class": "DeviceNotFound", "desc": "no d9"}, "id": command["id"]}).to_string())
            .await;
        let command = peer.hear().await;
        peer.answer(&command, json!({})).await;
    };
    let commands = async {
        let refused = session.execute(qapi::qmp::device_del { id: "d9".into() }).await.unwrap_err();
        let expected =
            QmpError::Refused { command: "device_del".into(), class: "DeviceNotFound".into(), desc: "no d9".into() };
        assert_eq!(refused, expected);
        session.execute(qapi::qmp::stop {}).await.unwrap();
    };
    tokio::join!(commands, script);
}

#[tokio::test]
async fn a_reply_of_another_shape_is_an_error_of_that_command_alone() {
    let (session, _events, mut peer) = open().await;
    let script = async {
        for reply in [json!(["not a status"]), json!({"running": true, "status": "running"})] {
            let command = peer.hear().await;
            peer.answer(&command, reply).await;
        }
    };
    let commands = async {
        assert!(matches!(session.query_status().await, Err(QmpError::Decode { .. })));
        assert!(session.query_status().await.unwrap().running);
    };
    tokio::join!(commands, script);
}

#[tokio::test]
async fn events_between_replies_arrive_in_order_known_or_not() {
    let (session, mut events, mut peer) = open().await;
    let script = async {
        let command = peer.hear().await;
        peer.say(r#"{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 0}}"#).await;
        peer.say(r#"{"event": "FROM_THE_FUTURE", "data": {"x": [1]}}"#).await;
        peer.answer(&command, json!({})).await;
        peer.say(r#"{"event": "SHUTDOWN", "data": {"guest": "maybe"}}"#).await;
    };
    let (reply, ()) = tokio::join!(session.execute_raw("stop", None), script);
    reply.unwrap();
    let stop = events.next().await.unwrap();
    assert_eq!(stop.event, Event::Stop);
    assert_eq!(stop.at, std::time::UNIX_EPOCH + Duration::from_secs(1));
    let other = Event::Other { name: "FROM_THE_FUTURE".into(), data: json!({"x": [1]}) };
    assert_eq!(events.next().await.unwrap().event, other);
    let shutdown = Event::Shutdown { guest: false, reason: String::new() };
    assert_eq!(events.next().await.unwrap().event, shutdown);
}

#[tokio::test]
async fn the_data_of_a_monstrous_event_is_not_kept() {
    let (_session, mut events, mut peer) = open().await;
    let data = "x".repeat(20_000);
    peer.say(&json!({"event": "HUGE", "data": {"text": data}}).to_string()).await;
    assert_eq!(events.next().await.unwrap().event, Event::Other { name: "HUGE".into(), data: Value::Null });
}

#[tokio::test]
async fn a_cancelled_command_disturbs_no_other() {
    let (session, _events, mut peer) = open().await;
    let cancelled = timeout(SHORT, session.execute_raw("given-up", None)).await;
    assert!(cancelled.is_err());
    let script = async {
        let (given_up, next) = (peer.hear().await, peer.hear().await);
        peer.answer(&given_up, json!("nobody wants me")).await;
        peer.answer(&next, json!("next")).await;
    };
    let (reply, ()) = tokio::join!(session.execute_raw("next", None), script);
    assert_eq!(reply.unwrap(), json!("next"));
}

/// QEMU would forget the first one's when the second arrived before its command was carried out.
#[tokio::test]
async fn descriptors_go_one_at_a_time_and_keep_nothing_else_waiting() {
    let (session, _events, mut peer) = open().await;
    let descriptor = || std::os::unix::net::UnixStream::pair().unwrap().0.into();
    let send = |name| session.send_descriptor(name, descriptor());
    let given_up = timeout(SHORT, send("first")).await;
    assert!(given_up.is_err());
    let script = async {
        let first = peer.hear().await;
        assert_eq!(first["arguments"]["fdname"], "first");
        // What was sent behind all of them comes first.
        let query = peer.hear().await;
        assert_eq!(query["execute"], "query");
        peer.answer(&query, json!({})).await;
        peer.answer(&first, json!({})).await;
        for name in ["second", "third"] {
            let next = peer.hear().await;
            assert_eq!(next["arguments"]["fdname"], name);
            peer.answer(&next, json!({})).await;
        }
    };
    let query = async {
        // The others have been given to the driver by then.
        tokio::task::yield_now().await;
        session.execute_raw("query", None).await
    };
    let (second, third, query, ()) = tokio::join!(send("second"), send("third"), query, script);
    second.and(third).and(query.map(drop)).unwrap();
}

/// Far more than the socket holds, so that commands are cancelled with their line half written.
#[tokio::test]
async fn cancelled_commands_never_leave_half_a_line() {
    let (session, _events, mut peer) = open().await;
    let bulk = json!({"text": "x".repeat(100_000)});
    for _ in 0..20 {
        let _ = timeout(Duration::from_millis(5), session.execute_raw("bulk", Some(bulk.clone()))).await;
    }
    let script = async {
        loop {
            let command = peer.hear().await;
            peer.answer(&command, command["execute"].clone()).await;
            if command["execute"] == "last" {
                break;
            }
        }
    };
    let (reply, ()) = tokio::join!(session.execute_raw("last", None), script);
    assert_eq!(reply.unwrap(), json!("last"));
}

#[tokio::test]
async fn a_reply_to_nothing_closes_the_session_with_that_reason() {
    for reply in [json!({"return": 1}), json!({"return": 1, "id": 999}), json!({"return": 1, "id": "strange"})] {
        let (session, _events, mut peer) = open().await;
        let script = async {
            let command = peer.hear().await;
            peer.answer(&command, json!("mine")).await;
            peer.say(&reply.to_string()).await;
        };
        let (answer, ()) = tokio::join!(session.execute_raw("query", None), script);
        assert_eq!(answer.unwrap(), json!("mine"));
        assert_eq!(session.closed().await, CloseReason::Garbage("a reply to nothing".into()), "{reply}");
    }
}

/// QEMU 10 gives the next client the reply to a command that the client before sent, be it an earlier daemon's.
#[tokio::test]
async fn a_reply_to_a_command_of_another_session_is_passed_over() {
    let (other, _other_events, mut other_peer) = open().await;
    let (session, _events, mut peer) = open().await;
    let script = async {
        let (theirs, mine) = (other_peer.hear().await, peer.hear().await);
        peer.answer(&theirs, json!("theirs")).await;
        peer.say(&json!({"error": {"class": "GenericError", "desc": "theirs"}, "id": theirs["id"]}).to_string()).await;
        peer.answer(&mine, json!("mine")).await;
        other_peer.answer(&theirs, json!({})).await;
    };
    let (theirs, mine, ()) = tokio::join!(other.execute_raw("query", None), session.execute_raw("query", None), script);
    assert_eq!((theirs.unwrap(), mine.unwrap()), (json!({}), json!("mine")));
}

#[tokio::test]
async fn a_second_reply_to_one_command_is_a_reply_to_nothing() {
    let (session, _events, mut peer) = open().await;
    let script = async {
        let command = peer.hear().await;
        peer.answer(&command, json!("mine")).await;
        peer.answer(&command, json!("twice")).await;
    };
    let (answer, ()) = tokio::join!(session.execute_raw("query", None), script);
    assert_eq!(answer.unwrap(), json!("mine"));
    assert!(session.closed().await.is_misconduct());
}

#[tokio::test]
async fn unconsumed_events_do_not_delay_replies() {
    let (session, _events, mut peer) = open().await;
    let script = async {
        let command = peer.hear().await;
        for _ in 0..1000 {
            peer.say(r#"{"event": "RTC_CHANGE", "data": {"offset": 1}}"#).await;
        }
        peer.answer(&command, json!({})).await;
    };
    let (reply, ()) = tokio::join!(session.execute_raw("query", None), script);
    reply.unwrap();
}
