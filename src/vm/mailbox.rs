//! What a VM's task is told from outside, in its order: a queue without bound, of one reader. A channel of tokio's does the
//! same, and takes more than a KiB while it is empty; there is one of these for each VM, and nearly all are empty.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::Notify;

struct Shared<T> {
    queue: Mutex<Queue<T>>,
    senders: AtomicUsize,
    /// Something has come, or nothing can come any more.
    news: Notify,
}

struct Queue<T> {
    messages: VecDeque<T>,
    closed: bool,
}

impl<T> Shared<T> {
    // Every change under the lock is whole, so a panic leaves nothing half done.
    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts messages in.
pub(super) struct Sender<T>(Arc<Shared<T>>);

/// Takes them out. What is left in it when it goes is dropped.
pub(super) struct Mailbox<T>(Arc<Shared<T>>);

pub(super) fn mailbox<T>() -> (Sender<T>, Mailbox<T>) {
    let queue = Queue { messages: VecDeque::new(), closed: false };
    let shared = Arc::new(Shared { queue: queue.into(), senders: AtomicUsize::new(1), news: Notify::new() });
    (Sender(shared.clone()), Mailbox(shared))
}

impl<T> Sender<T> {
    /// One step, which cannot be given up half-way.
    ///
    /// # Errors
    /// The message, when nobody takes any more.
    pub fn send(&self, message: T) -> Result<(), T> {
        let mut queue = self.0.queue();
        if queue.closed {
            return Err(message);
        }
        queue.messages.push_back(message);
        drop(queue);
        self.0.news.notify_one();
        Ok(())
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").finish_non_exhaustive()
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.senders.fetch_add(1, Ordering::Relaxed);
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.0.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.news.notify_one();
        }
    }
}

impl<T> Mailbox<T> {
    /// The next message; `None` when none can come any more. May be dropped and called again.
    pub async fn recv(&mut self) -> Option<T> {
        loop {
            {
                let mut queue = self.0.queue();
                if let Some(message) = queue.messages.pop_front() {
                    if queue.messages.is_empty() {
                        queue.messages = VecDeque::new();
                    }
                    return Some(message);
                }
                if queue.closed || self.0.senders.load(Ordering::Acquire) == 0 {
                    return None;
                }
            }
            self.0.news.notified().await;
        }
    }

    /// Takes no more; what is in it can still be taken out.
    pub fn close(&mut self) {
        self.0.queue().closed = true;
    }
}

impl<T> Drop for Mailbox<T> {
    fn drop(&mut self) {
        let mut queue = self.0.queue();
        queue.closed = true;
        // Outside of the lock: what a message holds may itself send.
        let left = std::mem::take(&mut queue.messages);
        drop(queue);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn messages_come_in_their_order_and_an_end_after_the_last() {
        let (sender, mut inbox) = mailbox();
        let other = sender.clone();
        assert_eq!((sender.send(1), other.send(2)), (Ok(()), Ok(())));
        drop((sender, other));
        assert_eq!((inbox.recv().await, inbox.recv().await, inbox.recv().await), (Some(1), Some(2), None));
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_a_message_and_by_the_end_of_the_last_sender() {
        let (sender, mut inbox) = mailbox();
        let reader = tokio::spawn(async move { (inbox.recv().await, inbox.recv().await) });
        tokio::task::yield_now().await;
        sender.send("here").unwrap();
        tokio::task::yield_now().await;
        drop(sender);
        assert_eq!(reader.await.unwrap(), (Some("here"), None));
    }

    #[tokio::test]
    async fn a_closed_one_gives_out_what_it_has_and_takes_no_more() {
        let (sender, mut inbox) = mailbox();
        sender.send(1).unwrap();
        inbox.close();
        assert_eq!(sender.send(2), Err(2));
        assert_eq!((inbox.recv().await, inbox.recv().await), (Some(1), None));
    }

    #[tokio::test]
    async fn what_is_left_when_nobody_reads_any_more_is_dropped() {
        let (sender, inbox) = mailbox();
        let (reply, answer) = tokio::sync::oneshot::channel::<()>();
        assert!(sender.send(reply).is_ok());
        drop(inbox);
        assert!(answer.await.is_err(), "whoever waits for an answer is told");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn none_of_many_messages_from_many_threads_is_lost() {
        let (sender, mut inbox) = mailbox();
        let senders: Vec<_> = (0..8)
            .map(|from| {
                let sender = sender.clone();
                tokio::spawn(async move { (0..1000).for_each(|number| sender.send((from, number)).unwrap()) })
            })
            .collect();
        drop(sender);
        let mut next = [0; 8];
        while let Some((from, number)) = inbox.recv().await {
            assert_eq!(number, next[from]);
            next[from] += 1;
        }
        assert_eq!(next, [1000; 8]);
        for sender in senders {
            sender.await.unwrap();
        }
    }
}
