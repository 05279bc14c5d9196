//! A bound on what is kept in memory of answers that clients have not taken yet. Without it, clients that ask for much and
//! read nothing take all there is. Small answers are not counted: the number of connections bounds those.

use std::sync::Arc;

use hyper::body::Body as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warp::reply::Response;

use super::{HttpError, limits::PIECE};

/// Up to here an answer counts for nothing.
const SMALL: u64 = 64 * 1024;
const UNIT: u64 = 1024;

/// Room for answers, of all listeners together.
pub struct Answers(Arc<Semaphore>);

/// The room of one answer, until it is written or given up: an extension of its response.
#[derive(Clone)]
pub(super) struct Held(#[allow(dead_code, reason = "it is there to be dropped")] Arc<OwnedSemaphorePermit>);

impl Answers {
    /// Room for so many bytes.
    pub fn new(bytes: u64) -> Arc<Self> {
        let units = usize::try_from(bytes / UNIT).unwrap_or(Semaphore::MAX_PERMITS);
        Arc::new(Self(Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS)))))
    }

    /// Takes the room that an answer needs.
    ///
    /// # Errors
    /// [`HttpError::NoRoomForAnswer`] where others have it.
    pub(super) fn admit(&self, mut response: Response) -> Result<Response, HttpError> {
        let size = response.body().size_hint().lower();
        if size <= SMALL {
            return Ok(response);
        }
        let units = u32::try_from(size / UNIT).unwrap_or(u32::MAX);
        let permit = Arc::clone(&self.0).try_acquire_many_owned(units).map_err(|_| HttpError::NoRoomForAnswer)?;
        response.extensions_mut().insert(Held(Arc::new(permit)));
        Ok(response)
    }

    /// Waits for room for a piece of a stream, which is had from its making until the socket has taken it.
    pub(super) async fn piece(self: Arc<Self>) -> Option<Held> {
        let units = (PIECE as u64 / UNIT) as u32;
        // Never closed, so there is one.
        Some(Held(Arc::new(Arc::clone(&self.0).acquire_many_owned(units).await.ok()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::http::Reply;
    use warp::http::StatusCode;

    #[test]
    fn there_is_room_for_so_much_and_again_when_an_answer_is_gone() {
        let answers = Answers::new(1024 * 1024);
        let of = |kib: usize| answers.admit(Reply::text(StatusCode::OK, "x".repeat(kib * 1024)).build());
        let one = of(600);
        assert!(one.is_ok());
        assert_eq!(of(600).unwrap_err(), HttpError::NoRoomForAnswer);
        assert!(of(400).is_ok() && of(64).is_ok());
        drop(one);
        assert!(of(1000).is_ok());
        // One that is larger than all of it never fits.
        assert!(of(1100).is_err());
    }
}
