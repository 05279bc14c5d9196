//! The one way to the agent of a VM's guest: QEMU serves one client of it at a time, so whoever wants something of the agent
//! takes a turn, one after the other, and each turn is one exchange or a few. What decides over the VM's power goes first. The
//! other end is inside the guest: what it leaves unanswered costs those who wait for it their turn, and nobody else anything.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::{
    runtime::Handle,
    sync::{Mutex, OwnedMutexGuard, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use crate::qmp::{Agent, Bounds, QgaError};

/// A connection is kept for whoever comes next: an agent whose client has gone looks for another one ten times a second.
const KEPT: Duration = Duration::from_secs(1);
/// For an agent to take part at all: a live one answers in milliseconds.
const GREETING: Duration = Duration::from_secs(3);
/// Turns that may be waited for.
const MOST_WAITING: usize = 256;

/// Why an agent does not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::vm) enum AgentError {
    #[error(transparent)]
    Agent(#[from] QgaError),
    #[error("it was to power off or reboot its guest meanwhile, or to thaw its file systems")]
    Overtaken,
    #[error("it has not answered others that asked before")]
    Mute,
    #[error("others were before, and took all the time that there was")]
    Late,
    #[error("too many wait for it")]
    Crowded,
}

/// The way to one guest's agent.
#[derive(Debug)]
pub(in crate::vm) struct Channel {
    path: PathBuf,
    kept: Arc<Mutex<Kept>>,
    waiting: AtomicUsize,
    /// Exchanges that came to nothing because there was no answer.
    unanswered: AtomicU64,
    /// Of those who go first.
    urgent: watch::Sender<usize>,
}

/// The connection of the last turn.
#[derive(Debug, Default)]
struct Kept {
    agent: Option<Agent>,
    turns: u64,
}

/// The agent is this one's to ask, until it is dropped.
pub(in crate::vm) struct Turn {
    channel: Arc<Channel>,
    kept: OwnedMutexGuard<Kept>,
    end: Instant,
    /// Of an ordinary one: there is somebody who goes first.
    urgent: Option<watch::Receiver<usize>>,
    _first: Option<First>,
}

/// Somebody goes first.
struct First(Arc<Channel>);

impl Drop for First {
    fn drop(&mut self) {
        self.0.urgent.send_modify(|urgent| *urgent -= 1);
    }
}

struct Waiter<'a>(&'a AtomicUsize);

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Channel {
    pub fn new(path: PathBuf) -> Arc<Self> {
        let urgent = watch::Sender::new(0);
        Arc::new(Self {
            path,
            kept: Arc::default(),
            waiting: AtomicUsize::new(0),
            unanswered: AtomicU64::new(0),
            urgent,
        })
    }

    /// A turn, in the order in which they are asked for: it is waited for as long as `patience`, and may then take `time`.
    pub async fn turn(self: &Arc<Self>, patience: Duration, time: Duration) -> Result<Turn, AgentError> {
        let _waiter = match self.waiting.fetch_add(1, Ordering::Relaxed) {
            before if before >= MOST_WAITING => {
                drop(Waiter(&self.waiting));
                return Err(AgentError::Crowded);
            }
            _ => Waiter(&self.waiting),
        };
        let (mut urgent, before) = (self.urgent.subscribe(), self.unanswered.load(Ordering::SeqCst));
        let wait = async {
            tokio::select! {
                biased;
                _ = urgent.wait_for(|urgent| *urgent > 0) => Err(AgentError::Overtaken),
                kept = self.kept.clone().lock_owned() => Ok(kept),
            }
        };
        let kept = timeout(patience, wait).await.map_err(|_| AgentError::Late)??;
        if self.unanswered.load(Ordering::SeqCst) != before {
            return Err(AgentError::Mute);
        }
        let end = Instant::now() + time;
        self.begun(Turn { channel: self.clone(), kept, end, urgent: Some(urgent), _first: None }).await
    }

    /// A turn before all others: what is under way is cut short, and who waits is sent away.
    pub async fn first(self: &Arc<Self>, patience: Duration) -> Result<Turn, AgentError> {
        let end = Instant::now() + patience;
        self.urgent.send_modify(|urgent| *urgent += 1);
        let first = First(self.clone());
        let kept = timeout_at(end, self.kept.clone().lock_owned()).await.map_err(|_| AgentError::Late)?;
        self.begun(Turn { channel: self.clone(), kept, end, urgent: None, _first: Some(first) }).await
    }

    async fn begun(&self, mut turn: Turn) -> Result<Turn, AgentError> {
        turn.kept.turns += 1;
        if turn.kept.agent.as_ref().is_none_or(|agent| !agent.is_in_step()) {
            turn.kept.agent = None;
            let deadline = GREETING.min(turn.end.saturating_duration_since(Instant::now()));
            let agent = turn.in_time(Agent::connect(&self.path, deadline)).await?;
            turn.kept.agent = Some(agent);
        }
        Ok(turn)
    }

    /// The guest is gone: nobody waits for its agent.
    pub fn close(&self) {
        if let Ok(mut kept) = self.kept.try_lock() {
            kept.agent = None;
        }
    }
}

impl Turn {
    /// # Errors
    /// [`AgentError`]; after any but a refusal the turn is over.
    pub async fn execute(&mut self, name: &str, arguments: Option<Value>) -> Result<Value, AgentError> {
        let left = self.end.saturating_duration_since(Instant::now());
        let Some(mut agent) = self.kept.agent.take() else { return Err(QgaError::OutOfSync.into()) };
        let done = self.in_time(agent.execute_raw(name, arguments, left)).await;
        self.after(agent, done)
    }

    /// The same, of a command with a long answer, which may outlast the turn: see [`Agent::execute_cut`].
    ///
    /// # Errors
    /// As [`Self::execute`].
    pub async fn execute_cut(&mut self, name: &str, arguments: Value, bounds: Bounds) -> Result<Value, AgentError> {
        let left = self.end.saturating_duration_since(Instant::now());
        let Some(mut agent) = self.kept.agent.take() else { return Err(QgaError::OutOfSync.into()) };
        let done = self.in_time(agent.execute_cut(name, arguments, bounds, left)).await;
        self.after(agent, done)
    }

    /// The agent itself, for what ends with its guest. Nobody has the connection after it.
    pub fn take(&mut self) -> Option<Agent> {
        self.kept.agent.take()
    }

    async fn in_time<T>(&self, exchange: impl Future<Output = Result<T, QgaError>>) -> Result<T, AgentError> {
        let urgent = self.urgent.clone();
        let overtaken = async move {
            match urgent {
                Some(mut urgent) => drop(urgent.wait_for(|urgent| *urgent > 0).await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = overtaken => Err(AgentError::Overtaken),
            done = exchange => {
                if let Err(QgaError::Timeout { .. }) = &done {
                    self.channel.unanswered.fetch_add(1, Ordering::SeqCst);
                }
                Ok(done?)
            }
        }
    }

    fn after<T>(&mut self, agent: Agent, done: Result<T, AgentError>) -> Result<T, AgentError> {
        // One that was cut short, or has not answered, may answer yet: nobody else is to have that answer.
        if agent.is_in_step() {
            self.kept.agent = Some(agent);
        }
        done
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (Some(_), Ok(runtime)) = (&self.kept.agent, Handle::try_current()) else {
            self.kept.agent = None;
            return;
        };
        let (kept, turn) = (Arc::downgrade(&self.channel.kept), self.kept.turns);
        runtime.spawn(async move {
            sleep(KEPT).await;
            if let Some(kept) = kept.upgrade()
                && let Ok(mut kept) = kept.try_lock()
                && kept.turns == turn
            {
                kept.agent = None;
            }
        });
    }
}
