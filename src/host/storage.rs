//! Storage that may hang, as a file server that is gone: what waits for it holds a few threads and places of its own, and
//! nothing of any other.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
    time::timeout,
};

use super::mounts;

/// Threads that may wait for one storage: the runtime has some hundred for all.
const THREADS: usize = 16;
const MOUNTS: &str = "/proc/self/mountinfo";

/// Runs `work`, which touches `path`, on a thread of its own. When it is given up it still goes on there, so it must not
/// change anything that others rely on.
///
/// # Errors
/// Its own, or `TimedOut` after `patience`.
pub async fn on_storage<T: Send + 'static>(
    path: &Path,
    patience: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    on_storage_of(&[path], patience, work).await
}

/// The same of work that touches several paths.
///
/// # Errors
/// As [`on_storage`].
pub async fn on_storage_of<T: Send + 'static>(
    paths: &[&Path],
    patience: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    static THREADS_OF_ALL: OnceLock<Places> = OnceLock::new();
    let threads = THREADS_OF_ALL.get_or_init(|| Places::new(THREADS));
    let done = async {
        let place = threads.take(paths).await?;
        let work = move || {
            let done = work();
            // Not before: one that hangs keeps its place, and is not joined by ever more.
            drop(place);
            done
        };
        spawn_blocking(work).await.map_err(io::Error::other)?
    };
    timeout(patience, done).await.unwrap_or_else(|_| {
        let words = format!("the storage has not answered for {} s", patience.as_secs());
        Err(io::Error::new(io::ErrorKind::TimedOut, words))
    })
}

/// Places for what takes its time, so many for each storage.
#[derive(Debug)]
pub struct Places {
    each: usize,
    all: Mutex<HashMap<Whose, Arc<Semaphore>>>,
}

/// The storage, and the client where each has places of its own.
type Whose = (BTreeSet<PathBuf>, Option<String>);

impl Places {
    pub fn new(each: usize) -> Self {
        Self { each, all: Mutex::default() }
    }

    /// Waits for a place for something that touches these paths.
    ///
    /// # Errors
    /// None while the program lives.
    pub async fn take(&self, paths: &[&Path]) -> io::Result<OwnedSemaphorePermit> {
        self.take_for(None, paths).await
    }

    /// The same, of places that this client has for itself: what it brings may take as long as it likes, and keeps no other waiting.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub async fn take_for(&self, client: Option<&str>, paths: &[&Path]) -> io::Result<OwnedSemaphorePermit> {
        let mounted = mount_points();
        let storage = paths.iter().map(|path| storage_of(path, &mounted)).collect();
        let places = {
            let mut all = lock(&self.all);
            // Clients come and go: what nobody has or waits for is not kept.
            all.retain(|_, places| Arc::strong_count(places) > 1);
            let whose = (storage, client.map(str::to_owned));
            all.entry(whose).or_insert_with(|| Arc::new(Semaphore::new(self.each))).clone()
        };
        places.acquire_owned().await.map_err(io::Error::other)
    }
}

/// The mount point that a path lies below, as it is spelt: looking closer might hang.
fn storage_of(path: &Path, mounted: &BTreeSet<PathBuf>) -> PathBuf {
    path.ancestors().find(|part| mounted.contains(*part)).unwrap_or(Path::new("/")).to_owned()
}

/// The mount points of this moment, read anew where the kernel tells that there are others than before.
fn mount_points() -> Arc<BTreeSet<PathBuf>> {
    struct Known {
        /// By which the kernel tells of changes (proc_pid_mounts(5)).
        table: Option<OwnedFd>,
        points: Arc<BTreeSet<PathBuf>>,
    }
    static KNOWN: Mutex<Option<Known>> = Mutex::new(None);
    let mut known = lock(&KNOWN);
    match &*known {
        Some(Known { table: Some(table), points }) if !has_changed(table) => points.clone(),
        _ => {
            // Opened before the look: what changes after it is told.
            let table = known
                .take()
                .and_then(|known| known.table)
                .or_else(|| open(MOUNTS, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok());
            let points = Arc::new(mounts::points());
            *known = Some(Known { table, points: points.clone() });
            points
        }
    }
}

/// Since it was last asked.
fn has_changed(table: &OwnedFd) -> bool {
    let mut watched = [PollFd::new(table, PollFlags::PRI)];
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut watched, Some(&at_once)) != Ok(0)
}

// Every change under the lock is whole, so a panic leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storage_is_the_innermost_mount_point() {
        let mounted = ["/", "/srv", "/srv/vms"].map(PathBuf::from).into();
        let of = |path: &str| storage_of(Path::new(path), &mounted);
        assert_eq!(of("/srv/vms/a/b"), Path::new("/srv/vms"));
        assert_eq!(of("/srv/vmsx"), Path::new("/srv"));
        assert_eq!(of("/var/lib"), Path::new("/"));
        assert!(mount_points().contains(Path::new("/")));
    }

    #[tokio::test]
    async fn what_hangs_keeps_its_places_and_nobody_elses() {
        let places = Places::new(1);
        let held = places.take(&[Path::new("/proc/self")]).await.unwrap();
        let again = timeout(Duration::from_millis(20), places.take(&[Path::new("/proc/1")])).await;
        assert!(again.is_err(), "the same storage");
        drop(places.take(&[Path::new("/")]).await.unwrap());
        drop(held);
        drop(places.take(&[Path::new("/proc/1")]).await.unwrap());
    }

    #[tokio::test]
    async fn a_client_keeps_its_own_places_and_no_other_clients() {
        let (places, path) = (Places::new(1), &[Path::new("/")][..]);
        let held = places.take_for(Some("uid 1"), path).await.unwrap();
        let again = timeout(Duration::from_millis(20), places.take_for(Some("uid 1"), path)).await;
        assert!(again.is_err(), "the same client");
        drop(places.take_for(Some("uid 2"), path).await.unwrap());
        drop(places.take(path).await.unwrap());
        drop(held);
        drop(places.take_for(Some("uid 1"), path).await.unwrap());
        assert_eq!(lock(&places.all).len(), 1);
    }

    #[tokio::test]
    async fn what_hangs_is_given_up_in_words() {
        let (release, hold) = std::sync::mpsc::channel::<()>();
        let hung = on_storage(Path::new("/"), Duration::from_millis(20), move || hold.recv().map_err(io::Error::other));
        assert_eq!(hung.await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(release.send(()).is_ok(), "it goes on by itself");
        assert_eq!(on_storage(Path::new("/"), Duration::from_secs(30), || Ok(7)).await.unwrap(), 7);
    }
}
