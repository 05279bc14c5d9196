//! Takes back the steps of a launch that did not come to its end, last one first.

use futures_util::future::BoxFuture;

type UndoStep = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;

/// A stack of what is to be undone. Dropping it undoes nothing: undoing may take
/// its time, and a drop cannot.
#[derive(Default)]
pub struct Undo(Vec<UndoStep>);

impl Undo {
    /// Adds what takes back the step that has just been made.
    pub fn push<F>(&mut self, step: impl FnOnce() -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.0.push(Box::new(move || Box::pin(step())));
    }

    /// Takes everything back.
    pub async fn unwind(mut self) {
        while let Some(step) = self.0.pop() {
            step().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn steps_are_undone_last_one_first() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut undo = Undo::default();
        for name in ["folder", "socket", "process"] {
            let order = order.clone();
            undo.push(move || async move { order.lock().unwrap().push(name) });
        }
        undo.unwind().await;
        assert_eq!(*order.lock().unwrap(), ["process", "socket", "folder"]);
    }
}
