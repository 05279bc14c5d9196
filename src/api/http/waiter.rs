//! An operation that only waits: for a guest to do what it was asked for, which goes on by itself. When its client hangs up
//! nobody waits for it any more, and it goes; else ten thousand who ask for a stop and hang up would hold as many handlers for
//! as long as a guest may take.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
};

use tokio::task::AbortHandle;

/// Whether an operation has come to its first wait: by then the guest's VM has been asked.
#[derive(Clone, Default)]
pub(super) struct Entered(Arc<AtomicBool>);

impl Entered {
    /// The same operation, which says so.
    pub async fn by<T>(self, operation: impl Future<Output = T>) -> T {
        let mut operation = pin!(operation);
        let first = poll_fn(|context| Poll::Ready(operation.as_mut().poll(context))).await;
        self.0.store(true, Ordering::Release);
        match first {
            Poll::Ready(done) => done,
            Poll::Pending => operation.await,
        }
    }

    /// Who waits for its end.
    pub fn waiter(self, operation: AbortHandle) -> Waiter {
        Waiter { entered: self, operation }
    }
}

/// Ends the operation when it is dropped, unless nothing was asked yet.
pub(super) struct Waiter {
    entered: Entered,
    operation: AbortHandle,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        if self.entered.0.load(Ordering::Acquire) {
            self.operation.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::{sync::oneshot, task::yield_now};

    use super::*;

    #[tokio::test]
    async fn what_only_waits_goes_with_its_waiter_and_what_has_not_begun_is_done() {
        let entered = Entered::default();
        let (held, gone) = oneshot::channel::<()>();
        let task = tokio::spawn(entered.clone().by(async move {
            let _held = held;
            pending::<()>().await;
        }));
        while !entered.0.load(Ordering::Acquire) {
            yield_now().await;
        }
        drop(entered.waiter(task.abort_handle()));
        assert!(gone.await.is_err(), "it is dropped");
        assert!(task.await.unwrap_err().is_cancelled());

        let entered = Entered::default();
        let (done, is_done) = oneshot::channel();
        let task = tokio::spawn(entered.clone().by(async move { done.send(()).unwrap() }));
        // The only thread is this one's: nothing of it has run.
        drop(entered.waiter(task.abort_handle()));
        is_done.await.unwrap();
        task.await.unwrap();
    }
}
