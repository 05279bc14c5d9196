//! Agents that are mute, lie, flood, die and begin anew, on a socket in place of QEMU's.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
};

use super::*;
use crate::qmp::CloseReason;

const LONG: Duration = Duration::from_secs(60);

/// What an agent does about a command.
enum Deed {
    Say(String),
    Nothing,
    HangUp,
    /// Bytes without an end.
    Flood,
}

impl Deed {
    fn returns(value: &Value) -> Self {
        Self::Say(json!({ "return": value }).to_string())
    }

    fn refuses(class: &str, desc: &str) -> Self {
        Self::Say(json!({ "error": { "class": class, "desc": desc } }).to_string())
    }
}

struct StandIn {
    channel: Arc<Channel>,
    /// Commands that it was sent, with one of their arguments.
    heard: Arc<Mutex<Vec<String>>>,
    _dir: tempfile::TempDir,
}

impl StandIn {
    fn new(deed: impl Fn(&str, &Value) -> Deed + Send + Sync + 'static) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let (listener, deed) = (UnixListener::bind(&path).unwrap(), Arc::new(deed));
        let heard = Arc::<Mutex<Vec<String>>>::default();
        let hears = heard.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, deed.clone(), hears.clone()));
            }
        });
        Self { channel: Channel::new(path), heard, _dir: dir }
    }

    fn guest(&self) -> Guest {
        Guest(self.channel.clone())
    }

    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn has_heard(&self, count: usize) {
        while self.heard().len() < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

async fn serve(
    stream: UnixStream,
    deed: Arc<impl Fn(&str, &Value) -> Deed>,
    heard: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).split(b'\n');
    while let Some(line) = lines.next_segment().await? {
        let line = line.strip_prefix(b"\xff").unwrap_or(&line);
        let Ok(command) = serde_json::from_slice::<Value>(line) else { return Ok(()) };
        let (name, arguments) = (command["execute"].as_str().unwrap_or_default(), &command["arguments"]);
        if name == "guest-sync-delimited" {
            write.write_all(b"\xff").await?;
            write.write_all(format!("{}\n", json!({ "return": arguments["id"] })).as_bytes()).await?;
            continue;
        }
        let who = arguments.get("who").map(|who| format!(" {who}")).unwrap_or_default();
        heard.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{name}{who}"));
        match deed(name, arguments) {
            Deed::Say(text) => write.write_all(format!("{text}\n").as_bytes()).await?,
            Deed::Nothing => {}
            Deed::HangUp => return Ok(()),
            Deed::Flood => loop {
                write.write_all(&[b'"'; 4096]).await?;
            },
        }
    }
    Ok(())
}

#[tokio::test]
async fn who_asks_much_takes_turns_with_who_asks_little() {
    let agent = StandIn::new(|_, _| Deed::returns(&json!({})));
    let callers: Vec<_> = ["a", "b"]
        .map(|who| {
            let channel = agent.channel.clone();
            tokio::spawn(async move {
                for _ in 0..6 {
                    let mut turn = channel.turn(LONG, LONG).await.unwrap();
                    turn.execute("guest-ping", Some(json!({ "who": who }))).await.unwrap();
                }
            })
        })
        .into();
    for caller in callers {
        caller.await.unwrap();
    }
    let heard = agent.heard();
    assert_eq!(heard.len(), 12);
    let runs = heard.windows(3).any(|three| three[0] == three[1] && three[1] == three[2]);
    assert!(!runs, "{heard:?}");
}

#[tokio::test]
async fn what_an_agent_leaves_unanswered_is_waited_for_once() {
    let agent = StandIn::new(|name, _| match name {
        "guest-ping" => Deed::Nothing,
        _ => Deed::returns(&json!(1)),
    });
    let mut one = agent.channel.turn(LONG, Duration::from_millis(300)).await.unwrap();
    let others: Vec<_> = (0..20)
        .map(|_| {
            let channel = agent.channel.clone();
            tokio::spawn(async move { channel.turn(LONG, LONG).await.map(drop) })
        })
        .collect();
    tokio::task::yield_now().await;
    let late = one.execute("guest-ping", None).await.unwrap_err();
    assert!(matches!(late, AgentError::Agent(QgaError::Timeout { .. })), "{late}");
    drop(one);
    for other in others {
        assert_eq!(other.await.unwrap(), Err(AgentError::Mute));
    }
    // Who comes after that has a connection of its own, and no answer that was another's.
    let mut next = agent.channel.turn(LONG, LONG).await.unwrap();
    assert_eq!(next.execute("guest-get-time", None).await, Ok(json!(1)));
}

#[tokio::test]
async fn what_decides_over_the_power_goes_before_what_is_under_way_and_what_waits() {
    let agent = StandIn::new(|name, _| match name {
        "guest-exec" => Deed::Nothing,
        _ => Deed::returns(&json!({})),
    });
    let ask = |name: &'static str| {
        let channel = agent.channel.clone();
        tokio::spawn(async move { channel.turn(LONG, LONG).await?.execute(name, None).await })
    };
    let under_way = ask("guest-exec");
    agent.has_heard(1).await;
    let waits = ask("guest-ping");
    tokio::task::yield_now().await;
    let mut first = agent.channel.first(LONG).await.unwrap();
    assert_eq!(first.execute("guest-fsfreeze-thaw", None).await, Ok(json!({})));
    assert_eq!(under_way.await.unwrap(), Err(AgentError::Overtaken));
    assert_eq!(waits.await.unwrap(), Err(AgentError::Overtaken));
    drop(first);
    assert_eq!(ask("guest-ping").await.unwrap(), Ok(json!({})));
}

#[tokio::test]
async fn no_more_wait_than_there_is_room_for() {
    let agent = StandIn::new(|_, _| Deed::Nothing);
    let held = agent.channel.turn(LONG, LONG).await.unwrap();
    let wait = || {
        let channel = agent.channel.clone();
        tokio::spawn(async move { channel.turn(LONG, LONG).await.map(drop) })
    };
    let waiting: Vec<_> = (0..256).map(|_| wait()).collect();
    tokio::task::yield_now().await;
    assert_eq!(wait().await.unwrap(), Err(AgentError::Crowded));
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
    for one in waiting {
        assert!(one.await.unwrap_err().is_cancelled());
    }
    drop(held);
    assert!(agent.channel.turn(LONG, LONG).await.is_ok());
}

#[tokio::test]
async fn an_agent_that_floods_lies_or_dies_costs_an_answer_and_nothing_else() {
    let agent = StandIn::new(|name, _| match name {
        "guest-get-osinfo" => Deed::Flood,
        "guest-get-users" => Deed::HangUp,
        "guest-get-fsinfo" => Deed::Say("no JSON".to_owned()),
        _ => Deed::returns(&json!({ "version": "1", "supported_commands": [7] })),
    });
    let ask = async |name: &str| agent.channel.turn(LONG, LONG).await?.execute(name, None).await;
    let closed = async |name: &str| match ask(name).await {
        Err(AgentError::Agent(QgaError::Closed { reason })) => reason,
        other => panic!("{name}: {other:?}"),
    };
    assert!(matches!(closed("guest-get-osinfo").await, CloseReason::LineTooLong { .. }));
    assert_eq!(closed("guest-get-users").await, CloseReason::Eof);
    assert!(matches!(closed("guest-get-fsinfo").await, CloseReason::Garbage(_)));
    assert_eq!(ask("guest-ping").await.unwrap()["version"], "1");
    let lied = agent.guest().info().await.unwrap_err();
    assert!(matches!(&lied, Error::AgentFails { why } if why.contains("guest-info")), "{lied}");
}

/// What becomes of a command, where the agent does `status` about its status.
async fn run(status: impl Fn(&Value) -> Deed + Send + Sync + 'static, timeout: Duration) -> Result<Executed> {
    let agent = StandIn::new(move |name, arguments| match name {
        "guest-exec" => Deed::returns(&json!({ "pid": 7 })),
        "guest-exec-status" => status(arguments),
        _ => Deed::returns(&json!({ "version": "7.2.22" })),
    });
    agent.guest().run(&Command { argv: vec!["true".to_owned()], timeout, ..Command::default() }).await
}

#[tokio::test]
async fn of_what_a_command_writes_as_much_is_held_as_there_is_room_for() {
    let (small, large) = ("aGk=".to_owned(), "QUFB".repeat(1 << 20));
    let status = json!({ "exited": true, "exitcode": 3, "out-data": large, "err-data": small });
    let done = run(move |_| Deed::returns(&status), LONG).await.unwrap();
    assert_eq!((done.exit_code, done.stderr.as_slice(), done.stderr_truncated), (Some(3), &b"hi"[..], false));
    assert!(done.stdout.iter().all(|byte| *byte == b'A'));
    assert_eq!((done.stdout.len(), done.stdout_truncated), (MOST_OUTPUT, true));
}

#[tokio::test]
async fn a_command_that_never_ends_is_killed_and_told_of() {
    let goes_on = |_: &Value| Deed::returns(&json!({ "exited": false }));
    let done = run(goes_on, Duration::from_millis(20)).await.unwrap();
    assert_eq!(done, Executed { timed_out: true, ..Executed::default() });
}

#[tokio::test]
async fn what_became_of_a_command_that_its_agent_has_forgotten_is_not_known() {
    let unknown = |_: &Value| Deed::refuses("GenericError", "Invalid parameter 'pid'");
    let error = run(unknown, LONG).await.unwrap_err();
    assert!(matches!(&error, Error::AgentFails { why } if why.contains("does not know any more")), "{error}");
    for odd in ["{\"return\": {}}", "{\"return\": {\"exited\": true, \"out-data\": \"*\"}}"] {
        let error = run(move |_| Deed::Say(odd.to_owned()), LONG).await.unwrap_err();
        assert!(matches!(error, Error::AgentFails { .. }), "{odd}: {error}");
    }
    assert!(matches!(run(|_| Deed::HangUp, LONG).await, Err(Error::AgentFails { .. })));
}

#[tokio::test]
async fn what_an_agent_has_not_is_told_by_name_and_version() {
    let agent = StandIn::new(|name, _| match name {
        "guest-info" => Deed::returns(&json!({ "version": "2.1.0" })),
        "guest-set-time" => {
            Deed::refuses("CommandNotFound", "Command guest-set-time has been disabled: the agent is in frozen state")
        }
        "guest-file-open" => {
            Deed::refuses("GenericError", "failed to open file '/x' (mode: 'r'): No such file or directory")
        }
        _ => Deed::refuses("CommandNotFound", "The command guest-exec has not been found"),
    });
    let command = Command { argv: vec!["true".to_owned()], timeout: LONG, ..Command::default() };
    let lacks = Error::AgentLacks { command: "guest-exec".to_owned(), version: "2.1.0".to_owned() };
    assert_eq!(agent.guest().run(&command).await, Err(lacks));
    assert_eq!(agent.guest().set_time(0).await, Err(crate::model::Conflict::Frozen.into()));
    let missing = agent.guest().open("/x", 0).await.map(drop);
    assert_eq!(missing, Err(Error::GuestFileNotFound { path: "/x".to_owned() }));
}

#[tokio::test]
async fn a_piece_of_a_file_is_what_it_says_that_it_is() {
    let agent = StandIn::new(|name, arguments| match name {
        "guest-file-open" => Deed::returns(&json!(1000)),
        "guest-file-read" => Deed::returns(&json!({ "count": 5, "buf-b64": "aGk=", "eof": false })),
        "guest-file-write" if arguments["buf-b64"] == "aGk=" => Deed::returns(&json!({ "count": 3, "eof": false })),
        _ => Deed::returns(&json!({})),
    });
    let mut file = agent.guest().open("/x", 0).await.unwrap();
    assert!(matches!(file.read().await, Err(Error::AgentFails { .. })));
    assert!(matches!(file.write(b"hi").await, Err(Error::AgentFails { .. })));
    drop(file);
    // Nobody has it any more: it is closed.
    while !agent.heard().contains(&"guest-file-close".to_owned()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
