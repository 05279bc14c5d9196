//! Tells when the DHCP of a switch has written something: whoever waits for an address looks then, and not before. What it has given
//! out is for `dhcp` to read.

#![expect(unsafe_code, reason = "tokio's AsyncFd::register wants the descriptor kept open")]

use std::{io, os::fd::OwnedFd, path::Path, sync::OnceLock};

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use tokio::{io::unix::AsyncFd, sync::watch};

/// One for all switches: a user has few of the kernel's.
#[derive(Default)]
pub(super) struct LeaseNews(OnceLock<Option<Watch>>);

struct Watch {
    kernel: OwnedFd,
    heard: watch::Sender<u64>,
}

impl LeaseNews {
    /// What changes each time that a list of leases may have. Where the kernel has no more watches, or there is no such
    /// folder, nothing is heard.
    pub fn of(&self, folder: &Path) -> watch::Receiver<u64> {
        let watch = self.0.get_or_init(|| match Watch::open() {
            Ok(watch) => Some(watch),
            Err(error) => {
                tracing::warn!(%error, "nobody hears of leases");
                None
            }
        });
        let Some(watch) = watch else { return watch::Sender::new(0).subscribe() };
        // Of one that is watched already the kernel makes no second watch.
        let written = WatchFlags::MODIFY | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        if let Err(error) = add_watch(&watch.kernel, folder, written) {
            tracing::debug!(folder = %folder.display(), %error, "nobody hears of its leases");
        }
        watch.heard.subscribe()
    }
}

impl Watch {
    fn open() -> io::Result<Self> {
        let kernel = init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let heard = watch::Sender::new(0);
        // SAFETY: the task below keeps the descriptor open for as long as it is registered.
        let watched = unsafe { AsyncFd::register(kernel.try_clone()?) }?;
        let tells = heard.clone();
        tokio::spawn(async move {
            let mut said = [0; 4096];
            while let Ok(mut ready) = watched.readable().await {
                match ready.try_io(|watched| Ok(rustix::io::read(watched.get_ref(), &mut said)?)) {
                    // What it says in detail is no matter: whoever waits looks.
                    Ok(Ok(_)) => tells.send_modify(|times| *times += 1),
                    Ok(Err(error)) => return tracing::warn!(%error, "nobody hears of leases any more"),
                    Err(_) => {}
                }
            }
        });
        Ok(Self { kernel, heard })
    }
}
