//! Images by the command line: pulled and sent, interrupted and gone on with.

use std::{
    io::Read,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, UNIX_EPOCH},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{
    screen::{done, qherd, run},
    support::Daemon,
    web::{Web, send},
};

fn disk(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| if at % 7 == 0 { (at / 4096) as u8 } else { 0 }).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_interrupted_goes_on_and_is_joined_again() {
    let daemon = Daemon::start_with(&["--accel", "tcg", "--pull-from", "127.0.0.0/8"]);
    let goes_on = Arc::new(AtomicBool::new(false));
    let opened = goes_on.clone();
    let file = disk(1 << 20);
    let web = Web::serve(move |_, request, stream| {
        while !opened.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(10));
        }
        send(&file, request, file.len(), stream);
    });
    let url = web.url("small-1.raw.xz");
    let pull = ["image", "pull", &url, "--label", "env=prod"];
    let mut first = qherd(&daemon, &pull).stderr(Stdio::piped()).spawn().unwrap();
    while web.requests().is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    kill(Pid::from_raw(first.id() as i32), Signal::SIGINT).unwrap();
    let (mut said, status) = (String::new(), first.wait().unwrap());
    first.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(status.code() == Some(130) && said.contains("the same command joins it again"), "{status:?}: {said}");
    goes_on.store(true, Ordering::SeqCst);
    let again = done(&daemon, &pull);
    assert!(again.starts_with("small-1:latest is pulled"), "{again}");
    assert_eq!(web.requests().len(), 1, "it has come once");
    let shown = done(&daemon, &["image", "show", "small-1"]);
    assert!(shown.contains(&url) && shown.contains("env=prod"), "{shown}");

    let refused = run(&daemon, &["image", "pull", "https://10.1.2.3/"]).expect(2);
    assert!(refused.err.contains("--name"), "{refused:?}");
    let refused = run(&daemon, &["image", "pull", "https://10.1.2.3/x.raw", "--name", "x1"]).expect(2);
    assert!(refused.err.contains("--pull-from"), "{refused:?}");
    let refused = run(&daemon, &["image", "pull", "unheard-of"]).expect(2);
    assert!(refused.err.contains("debian:12"), "{refused:?}");
    let refused = run(&daemon, &["create", "--image", "debian:12", "--memory", "64M", "--disk", "1G"]).expect(3);
    assert!(refused.err.contains("qherd image pull debian:12"), "{refused:?}");
    assert!(done(&daemon, &["image", "ls", "--known"]).contains("debian:12"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_sent_in_part_is_gone_on_with_when_it_is_the_same() {
    let daemon = Daemon::start();
    let bytes = disk(3 << 20);
    let path = daemon.dir.path().join("own.raw");
    std::fs::write(&path, &bytes).unwrap();
    let modified = path.metadata().unwrap().modified().unwrap().duration_since(UNIX_EPOCH).unwrap();
    let name = format!("own.raw:{}:{}", bytes.len(), modified.as_nanos());
    let begun = async |part: Vec<u8>| -> Value {
        let upload = daemon.post("/uploads", json!({ "name": name })).await.expect(201);
        let at = format!("/uploads/{}?offset=0", upload["id"].as_str().unwrap());
        daemon.send(daemon.http().put(daemon.at(&at)).body(part)).await.expect(200)
    };
    begun(bytes[..1 << 20].to_vec()).await;
    let made = done(&daemon, &["image", "import", "own.raw", "--name", "own:1"]);
    assert!(made.starts_with("own:1 is imported"), "{made}");
    assert_eq!(daemon.get("/uploads").await.expect(200), json!([]), "the same upload is gone on with");
    // Of something else it is not.
    let other = begun(vec![9; 1000]).await;
    done(&daemon, &["image", "import", "own.raw", "--name", "own:2"]);
    assert_eq!(daemon.get("/uploads").await.expect(200), json!([other]));
    let images = daemon.get("/images").await.expect(200);
    assert_eq!(images[0]["sha256"], images[1]["sha256"]);
    done(&daemon, &["image", "rm", "own:1", "own:2"]);
}
