//! Runs `nft`: changes that wait together go in one transaction, so that a hundred cards at once cost a handful of
//! processes. What the changes mean, it does not know.

use std::{env, process::Stdio, time::Duration};

use tokio::{
    io::AsyncWriteExt,
    process::Command,
    sync::{mpsc, oneshot},
    time::timeout,
};

use super::NetError;

const PROGRAM: &str = "nft";
const MISSING: NetError = NetError::Program { feature: "A switch", program: PROGRAM, package: "nftables" };
const PATIENCE: Duration = Duration::from_secs(20);
/// Changes in one transaction.
const MOST: usize = 64;

type Answer = oneshot::Sender<Result<(), NetError>>;

/// The way to `nft`. Cheap to share.
#[derive(Clone)]
pub struct Nft(mpsc::Sender<(String, Answer)>);

impl Nft {
    pub fn start() -> Self {
        let (queue, mut waiting) = mpsc::channel::<(String, Answer)>(1024);
        tokio::spawn(async move {
            let mut together = Vec::new();
            while waiting.recv_many(&mut together, MOST).await > 0 {
                let all: String = together.iter().map(|(text, _)| text.as_str()).collect();
                let done = run(&["-f", "-"], &all).await.map(drop);
                let alone = together.len() == 1;
                for (text, answer) in together.drain(..) {
                    // One that fails takes the others of its transaction down; each gets its own then.
                    let done =
                        if done.is_err() && !alone { run(&["-f", "-"], &text).await.map(drop) } else { done.clone() };
                    let _ = answer.send(done);
                }
            }
        });
        Self(queue)
    }

    /// Makes a change, all of it or nothing.
    pub async fn apply(&self, text: String) -> Result<(), NetError> {
        if text.is_empty() {
            return Ok(());
        }
        let gone = || NetError::failed("change the firewall", "qherd is shutting down");
        let (answer, done) = oneshot::channel();
        self.0.send((text, answer)).await.map_err(|_| gone())?;
        done.await.map_err(|_| gone())?
    }

    /// What `nft -j` says of something; `None` where it is not there.
    pub async fn list(&self, what: &[&str]) -> Option<serde_json::Value> {
        let text = run(&[&["-j", "list"], what].concat(), "").await.ok()?;
        serde_json::from_str(&text).ok()
    }
}

/// # Errors
/// [`NetError::Program`].
pub fn installed() -> Result<(), NetError> {
    let path = env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    if env::split_paths(&path).any(|folder| folder.join(PROGRAM).is_file()) { Ok(()) } else { Err(MISSING) }
}

async fn run(args: &[&str], input: &str) -> Result<String, NetError> {
    let failed = |why: &dyn ToString| NetError::failed("change the firewall", why.to_string());
    let mut command = Command::new(PROGRAM);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => MISSING,
        _ => failed(&error),
    })?;
    let mut stdin = child.stdin.take();
    let talk = async {
        if let Some(mut stdin) = stdin.take() {
            // One that ends early says why on its standard error.
            let _ = stdin.write_all(input.as_bytes()).await;
        }
        child.wait_with_output().await
    };
    let output = match timeout(PATIENCE, talk).await {
        Ok(output) => output.map_err(|error| failed(&error))?,
        Err(_) => return Err(failed(&format!("nft has not answered for {} s", PATIENCE.as_secs()))),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(failed(&why.lines().find(|line| line.contains("Error")).unwrap_or("nft failed").trim()))
}
