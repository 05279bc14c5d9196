//! Events, for those who follow: what is stored of them, and then what comes, without a gap and in the order of their numbers.
//! One that falls behind reads from the store what it has missed, and nobody waits for it (docs/adr/0035).

mod pieces;

use std::{fmt, str::FromStr, sync::Arc};

use tokio::{
    sync::broadcast,
    time::{Instant, timeout_at},
};
use uuid::Uuid;

use self::pieces::{Piece, Pieces};
use crate::{
    model::{Event, LabelFilter, VmId},
    store::{Kept, Store, StoreError},
};

/// Events that a follower may be behind before it reads the store.
const AHEAD: usize = 256;

/// An event, and its place.
#[derive(Clone, Debug)]
pub struct Entry {
    pub number: u64,
    pub event: Event,
}

/// The place after an event: what comes next is what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub log: Uuid,
    pub number: u64,
}

/// As clients have it: the first digits of the log, and the number.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}-{}", self.log.as_fields().0, self.number)
    }
}

/// Where a client wants to begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// All that are kept.
    Beginning,
    Event {
        log: u32,
        number: u64,
    },
}

impl FromStr for After {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "0" {
            return Ok(Self::Beginning);
        }
        let parts = text.split_once('-').filter(|(log, number)| {
            log.len() == 8 && number.bytes().all(|byte| byte.is_ascii_digit()) && !number.is_empty()
        });
        let read = parts.and_then(|(log, number)| {
            Some(Self::Event { log: u32::from_str_radix(log, 16).ok()?, number: number.parse().ok()? })
        });
        read.ok_or("be the id of an event, or 0 for all that are kept")
    }
}

/// Which events somebody wants; all where nothing is said.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub vm: Option<VmId>,
    /// Types, or what they begin with up to the point.
    pub types: Vec<String>,
    /// Of the VM, as they were then.
    pub labels: LabelFilter,
}

impl Filter {
    fn wants(&self, event: &Event) -> bool {
        let kind = event.kind();
        let is_wanted = |wanted: &String| {
            kind == wanted || kind.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.starts_with('.'))
        };
        self.vm.is_none_or(|vm| event.vm() == Some(vm))
            && (self.types.is_empty() || self.types.iter().any(is_wanted))
            && self.labels.wants_any(event.labels())
    }
}

/// Why somebody cannot follow, or not any more.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// What they know is not in the window any more, or of another log; from `begin` on all that are kept come.
    #[error("not kept")]
    Gone { begin: Place },
    #[error("the events cannot be read: {0}")]
    Store(#[from] StoreError),
    #[error("the daemon ends")]
    Closed,
}

/// Who hands out events as they come.
pub struct Events {
    store: Store,
    live: broadcast::Sender<Arc<Entry>>,
    pieces: Pieces,
}

impl Events {
    /// Hands out what the store tells of, for as long as it is open.
    pub fn of(store: Store) -> Arc<Self> {
        let mut follower = store.follow_events();
        let (live, _) = broadcast::channel(AHEAD);
        let hand_out = live.clone();
        tokio::spawn(async move {
            while let Some(event) = follower.recv().await {
                // What cannot be read is passed over by who reads the store as well.
                if let Some(entry) = pieces::read(&event) {
                    let _ = hand_out.send(Arc::new(entry));
                }
            }
        });
        let pieces = Pieces::of(store.clone());
        Arc::new(Self { store, live, pieces })
    }

    /// Follows from a place on; from now on where none is given.
    ///
    /// # Errors
    /// `Gone`.
    pub fn follow(self: &Arc<Self>, after: Option<After>, filter: Filter) -> Result<Follower, Lost> {
        // Before it is looked what there is: nothing falls between.
        let live = self.live.subscribe();
        let kept = self.store.kept_events();
        let last = match after {
            None => kept.newest,
            Some(After::Beginning) => kept.oldest - 1,
            Some(After::Event { log, number }) => {
                let is_known = log == kept.log.as_fields().0 && (kept.oldest - 1..=kept.newest).contains(&number);
                is_known.then_some(number).ok_or_else(|| gone(kept))?
            }
        };
        let behind = last < kept.newest;
        Ok(Follower { events: self.clone(), live, log: kept.log, last, behind, backlog: None, filter })
    }
}

fn gone(kept: Kept) -> Lost {
    Lost::Gone { begin: Place { log: kept.log, number: kept.oldest - 1 } }
}

/// Somebody who follows.
pub struct Follower {
    events: Arc<Events>,
    live: broadcast::Receiver<Arc<Entry>>,
    log: Uuid,
    /// The last that was looked at, wanted or not.
    last: u64,
    /// What comes next has to be read from the store.
    behind: bool,
    /// Of what it reads from the store, and the place in it of what comes next.
    backlog: Option<(Arc<Piece>, usize)>,
    filter: Filter,
}

impl Follower {
    /// Where it has come to.
    pub fn place(&self) -> Place {
        Place { log: self.log, number: self.last }
    }

    /// The place of an event.
    pub fn place_of(&self, entry: &Entry) -> Place {
        Place { log: self.log, number: entry.number }
    }

    /// The next event that is wanted; none where there is none by then. What is there already is found however late it is.
    /// May be dropped and called again.
    ///
    /// # Errors
    /// `Gone` for one that was so slow that the window has passed it.
    pub async fn next_until(&mut self, end: Instant) -> Result<Option<Arc<Entry>>, Lost> {
        loop {
            let entry = if let Some(entry) = self.next_of_backlog() {
                entry
            } else if self.behind {
                self.catch_up().await?;
                continue;
            } else {
                let Ok(next) = timeout_at(end, self.live.recv()).await else { return Ok(None) };
                match next {
                    Ok(entry) if entry.number <= self.last => continue,
                    Ok(entry) if entry.number == self.last + 1 => entry,
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {
                        self.behind = true;
                        continue;
                    }
                    Err(broadcast::error::RecvError::Closed) => return Err(Lost::Closed),
                }
            };
            self.last = entry.number;
            if self.filter.wants(&entry.event) {
                return Ok(Some(entry));
            }
        }
    }

    fn next_of_backlog(&mut self) -> Option<Arc<Entry>> {
        let (piece, next) = self.backlog.as_mut()?;
        let Some(entry) = piece.entries.get(*next).cloned() else {
            // The end of it may be some that cannot be read.
            self.last = self.last.max(piece.until);
            self.backlog = None;
            return None;
        };
        *next += 1;
        Some(entry)
    }

    /// Goes on with the next piece from the store.
    async fn catch_up(&mut self) -> Result<(), Lost> {
        let kept = self.events.store.kept_events();
        if self.last + 1 < kept.oldest {
            return Err(gone(kept));
        }
        let piece = self.events.pieces.after(self.last).await?;
        let next = piece.entries.partition_point(|entry| entry.number <= self.last);
        // The window may have passed it meanwhile.
        let kept = self.events.store.kept_events();
        if piece.entries.get(next).is_none_or(|entry| entry.number != self.last + 1) && self.last + 1 < kept.oldest {
            return Err(gone(kept));
        }
        self.behind = piece.until < kept.newest;
        self.backlog = Some((piece, next));
        Ok(())
    }
}

/// One that the window has passed, and what keeps its store; for the tests of those who tell it so.
#[cfg(test)]
pub(crate) async fn passed_by() -> (tempfile::TempDir, Follower) {
    use crate::{
        model::{About, SwitchId, What},
        store::{Batch, Window},
    };
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("db")).unwrap();
    store.keep_events(Window { events: 5, ..Window::default() });
    let follower = Events::of(store.clone()).follow(Some(After::Beginning), Filter::default()).unwrap();
    for at in 0..AHEAD as u64 + 10 {
        let about = About::Switch { id: SwitchId::random(), name: "lan".to_owned() };
        let event = Event { at, about, what: What::Created, by: Vec::new() };
        store.commit(Batch::new().tell(&event).unwrap()).await.unwrap();
    }
    (dir, follower)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{About, SwitchId, What, now_ms},
        store::{Batch, Window},
    };

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("db")).unwrap();
        (dir, store)
    }

    async fn tell(store: &Store, what: What) {
        let about = About::Switch { id: SwitchId::random(), name: "lan".to_owned() };
        let event = Event { at: now_ms(), about, what, by: Vec::new() };
        store.commit(Batch::new().tell(&event).unwrap()).await.unwrap();
    }

    async fn next(follower: &mut Follower) -> Result<Option<u64>, Lost> {
        Ok(follower.next_until(Instant::now()).await?.map(|entry| entry.number))
    }

    #[tokio::test]
    async fn one_that_falls_behind_misses_nothing_and_hears_nothing_twice() {
        let (_dir, store) = store();
        let events = Events::of(store.clone());
        let mut quick = events.follow(None, Filter::default()).unwrap();
        let mut slow = events.follow(Some(After::Beginning), Filter::default()).unwrap();
        let mut created =
            events.follow(None, Filter { types: vec!["switch.created".to_owned()], ..Filter::default() }).unwrap();
        let count = 3 * AHEAD as u64;
        for number in 1..=count {
            tell(&store, if number % 100 == 0 { What::Created } else { What::Deleted }).await;
            if number % 10 == 0 {
                // As far as the hand-out has come by now.
                while quick.place().number < number {
                    next(&mut quick).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        }
        for follower in [&mut slow, &mut created] {
            let mut heard = Vec::new();
            while follower.place().number < count {
                heard.extend(next(follower).await.unwrap());
                tokio::task::yield_now().await;
            }
            let wanted: Vec<u64> = match follower.filter.types.is_empty() {
                true => (1..=count).collect(),
                false => (1..=count).filter(|number| number % 100 == 0).collect(),
            };
            assert_eq!(heard, wanted);
        }
        // And from there on what comes.
        tell(&store, What::Created).await;
        let entry = slow.next_until(Instant::now() + std::time::Duration::from_secs(60)).await.unwrap().unwrap();
        assert_eq!(entry.number, count + 1);
    }

    #[tokio::test]
    async fn one_that_the_window_has_passed_is_told_where_to_begin() {
        let (_dir, store) = store();
        store.keep_events(Window { events: 5, ..Window::default() });
        let events = Events::of(store.clone());
        let mut follower = events.follow(Some(After::Beginning), Filter::default()).unwrap();
        let first = follower.place();
        for _ in 0..AHEAD + 10 {
            tell(&store, What::Created).await;
        }
        let lost = loop {
            match next(&mut follower).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(lost) => break lost,
            }
        };
        let Lost::Gone { begin } = lost else { panic!("{lost}") };
        assert_eq!(begin.number, AHEAD as u64 + 5);
        let after = |place: Place| Some(place.to_string().parse::<After>().unwrap());
        assert!(matches!(events.follow(after(first), Filter::default()), Err(Lost::Gone { .. })));
        let mut again = events.follow(after(begin), Filter::default()).unwrap();
        assert_eq!(next(&mut again).await.unwrap(), Some(begin.number + 1));
        for bad in ["", "x", "1", "0-1", "0123456g-1", "01234567-", "01234567--1", "01234567-99999999999999999999"] {
            assert!(bad.parse::<After>().is_err(), "{bad}");
        }
    }
}
