//! Word of each write that another process makes to a file in memory, such as a `Spill`: nobody has to look for it, and whoever
//! writes is not held up. One thread hears for the whole program; the kernel allows one user few such ears.

#![allow(clippy::disallowed_methods, reason = "on a thread of its own, which waits for the kernel's word")]

use std::{
    collections::HashMap,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::Duration,
};

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init, remove_watch};
use tokio::sync::watch;

/// What a guest writes comes byte by byte; so much of it is told of at once.
const BATCH: Duration = Duration::from_millis(2);

/// Of one file, until it is dropped.
#[derive(Debug)]
pub struct Writes {
    ear: &'static Ear,
    watch: i32,
    heard: watch::Receiver<u64>,
}

#[derive(Debug)]
struct Ear {
    inotify: OwnedFd,
    watched: Mutex<HashMap<i32, Watched>>,
}

#[derive(Debug)]
struct Watched {
    tell: watch::Sender<u64>,
    /// How many want to know: the kernel has one watch for all of them.
    by: usize,
}

impl Ear {
    fn of_all() -> io::Result<&'static Self> {
        static EAR: OnceLock<Ear> = OnceLock::new();
        static MAKING: Mutex<()> = Mutex::new(());
        let _making = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ear) = EAR.get() {
            return Ok(ear);
        }
        let inotify = init(CreateFlags::CLOEXEC)?;
        let ear = EAR.get_or_init(|| Self { inotify, watched: Mutex::default() });
        thread::Builder::new().name("writes".to_owned()).spawn(|| ear.hear())?;
        Ok(ear)
    }

    // Every change under the lock is whole, so a panic leaves nothing half done.
    fn watched(&self) -> MutexGuard<'_, HashMap<i32, Watched>> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        loop {
            match reader.next() {
                Ok(event) => {
                    if let Some(watched) = self.watched().get(&event.wd()) {
                        watched.tell.send_modify(|count| *count += 1);
                    }
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return tracing::error!(%error, "writes are not heard of any more"),
            }
            if reader.is_buffer_empty() {
                thread::sleep(BATCH);
            }
        }
    }
}

impl Writes {
    /// # Errors
    /// The kernel's.
    pub fn of(file: impl AsFd) -> io::Result<Self> {
        let ear = Ear::of_all()?;
        // By the open file itself: one in memory has no other name.
        let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
        let mut watched = ear.watched();
        let watch = add_watch(&ear.inotify, path, WatchFlags::MODIFY)?;
        let entry = watched.entry(watch).or_insert_with(|| Watched { tell: watch::Sender::new(0), by: 0 });
        entry.by += 1;
        Ok(Self { ear, watch, heard: entry.tell.subscribe() })
    }

    /// Returns when something was written since the last call, or since it was made. May be dropped and called again.
    pub async fn next(&mut self) {
        if self.heard.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        let mut watched = self.ear.watched();
        let Some(entry) = watched.get_mut(&self.watch) else { return };
        entry.by -= 1;
        if entry.by == 0 {
            watched.remove(&self.watch);
            // One that the kernel has ended by itself is no more to be removed.
            let _ = remove_watch(&self.ear.inotify, self.watch);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, io::Write};

    use super::super::Spill;

    #[tokio::test]
    async fn each_of_those_who_ask_hears_of_each_write_and_nobody_else_does() {
        let (one, other) = (Spill::new("test", 4096).unwrap(), Spill::new("test", 4096).unwrap());
        let mut writer = File::from(one.descriptor().unwrap());
        let (mut first, mut second, mut of_other) =
            (one.writes().unwrap(), one.writes().unwrap(), other.writes().unwrap());
        for _ in 0..3 {
            writer.write_all(b"word").unwrap();
            first.next().await;
            second.next().await;
        }
        drop(second);
        writer.write_all(b"word").unwrap();
        first.next().await;
        let heard = tokio::time::timeout(std::time::Duration::from_millis(20), of_other.next()).await;
        assert!(heard.is_err(), "nothing was written to it");
    }
}
