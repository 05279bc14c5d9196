//! `qmp::Agent` against a scripted guest agent.

use crate::scripted_peer::{LONG, Peer, SHORT};
use qapi::qga::guest_ping;
use qherd::qmp::{Agent, CloseReason, QgaError, ShutdownMode};
use serde_json::{Value, json};
use tokio::time::timeout;

/// Plays the agent's part of the first exchange, after sending `before`.
async fn answer_sync(peer: &mut Peer, before: &[u8]) {
    let command = peer.hear().await;
    assert_eq!(command["execute"], "guest-sync-delimited");
    let mut reply = before.to_vec();
    reply.push(0xFF);
    reply.extend(format!("{}\n", json!({ "return": command["arguments"]["id"] })).into_bytes());
    peer.say_bytes(&reply).await;
}

async fn open() -> (Agent, Peer) {
    let (mut peer, stream) = Peer::new();
    let (agent, ()) = tokio::join!(Agent::open(stream, LONG), answer_sync(&mut peer, b""));
    (agent.unwrap(), peer)
}

async fn say_after_command(peer: &mut Peer, reply: Value) -> Value {
    let command = peer.hear().await;
    peer.say(&reply.to_string()).await;
    command
}

#[tokio::test]
async fn whatever_stands_before_the_delimiter_is_skipped() {
    let (mut peer, stream) = Peer::new();
    let leftovers = b"{\"return\": \"of an earlier client\"}\nnoise\n\xFF{\"return\": 5}\n{\"return\": {\"half";
    let (agent, ()) = tokio::join!(Agent::open(stream, LONG), answer_sync(&mut peer, leftovers));
    let mut agent = agent.unwrap();
    let (pong, command) =
        tokio::join!(agent.execute(guest_ping {}, LONG), say_after_command(&mut peer, json!({"return": {}})));
    pong.unwrap();
    assert_eq!(command["execute"], "guest-ping");
}

#[tokio::test]
async fn an_absent_agent_is_a_timeout() {
    let (_peer, stream) = Peer::new();
    let error = Agent::open(stream, SHORT).await.unwrap_err();
    assert_eq!(error, QgaError::Timeout { command: "guest-sync-delimited".into(), after: SHORT });
}

#[tokio::test]
async fn a_guest_that_only_makes_noise_is_bounded() {
    let (mut peer, stream) = Peer::new();
    let noise = async {
        let megabyte = vec![b'x'; 1 << 20];
        for _ in 0..5 {
            peer.say_bytes(&megabyte).await;
        }
    };
    let (agent, ()) = tokio::join!(Agent::open(stream, LONG), noise);
    assert_eq!(agent.unwrap_err(), QgaError::Closed { reason: CloseReason::LineTooLong { limit: 4 << 20 } });
}

#[tokio::test]
async fn an_error_reply_carries_the_agents_words_and_the_agent_stays_usable() {
    let (mut agent, mut peer) = open().await;
    let refusal = json!({"error": {"class": "CommandNotFound", "desc": "disabled"}});
    let (reply, _) = tokio::join!(agent.execute_raw("guest-exec", None, LONG), say_after_command(&mut peer, refusal));
    let expected =
        QgaError::Refused { command: "guest-exec".into(), class: "CommandNotFound".into(), desc: "disabled".into() };
    assert_eq!(reply.unwrap_err(), expected);
    let (reply, _) =
        tokio::join!(agent.execute_raw("guest-info", None, LONG), say_after_command(&mut peer, json!({"return": 1})));
    assert_eq!(reply.unwrap(), json!(1));
}

#[tokio::test]
async fn after_a_call_without_an_answer_the_next_is_not_confused_with_it() {
    let (mut agent, mut peer) = open().await;
    let error = agent.execute(guest_ping {}, SHORT).await.unwrap_err();
    assert_eq!(error, QgaError::Timeout { command: "guest-ping".into(), after: SHORT });
    peer.hear().await;
    peer.say(r#"{"return": "late"}"#).await;
    assert!(matches!(agent.execute(guest_ping {}, LONG).await, Err(QgaError::OutOfSync)));

    let (mut agent, _peer) = open().await;
    assert!(timeout(SHORT, agent.execute(guest_ping {}, LONG)).await.is_err(), "cancelled");
    assert!(matches!(agent.execute(guest_ping {}, LONG).await, Err(QgaError::OutOfSync)));
}

#[tokio::test]
async fn silence_after_a_shutdown_is_success() {
    let (agent, mut peer) = open().await;
    let (outcome, command) = tokio::join!(agent.shutdown(ShutdownMode::Powerdown, LONG), peer.hear());
    outcome.unwrap();
    assert_eq!(command, json!({"execute": "guest-shutdown", "arguments": {"mode": "powerdown"}}));
}

#[tokio::test]
async fn a_shutdown_that_the_guest_refuses_is_an_error() {
    let (agent, mut peer) = open().await;
    let refusal = json!({"error": {"class": "GenericError", "desc": "child process has failed to shutdown"}});
    let (outcome, _) = tokio::join!(agent.shutdown(ShutdownMode::Reboot, LONG), say_after_command(&mut peer, refusal));
    assert!(matches!(outcome, Err(QgaError::Refused { .. })));
}

#[tokio::test]
async fn a_shutdown_that_takes_the_agent_with_it_is_success() {
    let (agent, mut peer) = open().await;
    let script = async {
        peer.hear().await;
        drop(peer);
    };
    let (outcome, ()) = tokio::join!(agent.shutdown(ShutdownMode::Powerdown, LONG), script);
    outcome.unwrap();
}

#[tokio::test]
async fn nobody_at_the_path_is_a_connection_error() {
    let directory = tempfile::tempdir().unwrap();
    let error = Agent::connect(&directory.path().join("agent.sock"), LONG).await.unwrap_err();
    assert!(matches!(error, QgaError::Connect(_)), "{error}");
}
