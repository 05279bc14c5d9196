//! A list of any size as one JSON array: what fits one page is a whole answer, and a longer one is made page by page as it is taken.
//! It is no snapshot: who is there all the time is in it once, and who comes or goes meanwhile may be.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use warp::http::StatusCode;

use super::Reply;

/// Rows of a page: some ten KiB.
pub const PAGE: usize = 32;

/// The rows after those that came before, and where the next ones begin, if there are any.
pub type Page<T, C> = (Vec<T>, Option<C>);

/// All pages, of which `page` gives the one at a cursor, beginning with none.
pub fn array<T, C, F>(mut page: F) -> Reply
where
    T: Serialize + Send + 'static,
    C: Send + 'static,
    F: FnMut(Option<C>) -> Page<T, C> + Send + 'static,
{
    let (first, next) = page(None);
    if next.is_none() {
        return Reply::json(StatusCode::OK, &first);
    }
    let begin = State { page, rows: Some(first), next, begun: false };
    Reply::stream(
        "application/json",
        stream::try_unfold(Some(begin), async |state| state.map_or(Ok(None), State::piece)),
    )
}

struct State<T, C, F> {
    page: F,
    /// Those of the first page, which have been looked up.
    rows: Option<Vec<T>>,
    next: Option<C>,
    begun: bool,
}

impl<T: Serialize, C, F: FnMut(Option<C>) -> Page<T, C>> State<T, C, F> {
    fn piece(mut self) -> io::Result<Option<(Bytes, Option<Self>)>> {
        let rows = match self.rows.take() {
            Some(rows) => rows,
            None => {
                let (rows, next) = (self.page)(self.next.take());
                self.next = next;
                rows
            }
        };
        let mut text = Vec::new();
        for row in rows {
            text.push(if std::mem::replace(&mut self.begun, true) { b',' } else { b'[' });
            serde_json::to_writer(&mut text, &row)?;
        }
        let more = self.next.is_some();
        if !more {
            text.push(b']');
        }
        Ok(Some((Bytes::from(text), more.then_some(self))))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn listed(count: usize, of_a_page: usize) -> String {
        let reply = array(move |at: Option<usize>| {
            let at = at.unwrap_or(0);
            let end = (at + of_a_page).min(count);
            ((at..end).collect(), (end < count).then_some(end))
        });
        String::from_utf8(reply.build().into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn in_however_many_pages_it_is_the_same_array() {
        for count in [0, 1, 2, 9, 10] {
            let whole = serde_json::to_string(&(0..count).collect::<Vec<_>>()).unwrap();
            for of_a_page in [1, 2, 3, 100] {
                assert_eq!(listed(count, of_a_page).await, whole, "{count} by {of_a_page}");
            }
        }
    }

    #[tokio::test]
    async fn the_last_page_may_have_nothing_left() {
        let reply = array(|at: Option<()>| match at {
            None => (vec![1], Some(())),
            Some(()) => (Vec::new(), None),
        });
        assert_eq!(reply.build().into_body().collect().await.unwrap().to_bytes(), "[1]");
    }
}
