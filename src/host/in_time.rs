//! File operations that may hang in the kernel, as on a file server that is gone: apart from the few threads that carry
//! every VM, and waited for only so long.

use std::{io, time::Duration};

use tokio::{task::spawn_blocking, time::timeout};

/// What storage may take over a look at a file: a sleeping disk wakes up within it.
pub const STORAGE: Duration = Duration::from_secs(30);

/// Runs `work` on a thread of its own. When it is given up it still goes on there, so it must not change anything that
/// others rely on.
///
/// # Errors
/// Its own, or `TimedOut` after `patience`.
pub async fn in_time<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match timeout(patience, spawn_blocking(work)).await {
        Ok(done) => done.map_err(io::Error::other)?,
        Err(_) => {
            let words = format!("the storage has not answered for {} s", patience.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, words))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_hangs_is_given_up_in_words() {
        let (release, hold) = std::sync::mpsc::channel::<()>();
        let hung = in_time(Duration::from_millis(20), move || hold.recv().map_err(io::Error::other)).await;
        assert_eq!(hung.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(release.send(()).is_ok(), "it goes on by itself");
        assert_eq!(in_time(STORAGE, || Ok(7)).await.unwrap(), 7);
    }
}
