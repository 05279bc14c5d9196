//! A file as the body of a request, a piece at a time.

use std::{io, time::Duration};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Method, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde::de::DeserializeOwned;
use tokio::{fs::File, io::AsyncReadExt};

use super::{Client, Failure};

/// Bytes that are read at a time.
const PIECE: usize = 256 << 10;

impl Client {
    /// Sends `length` bytes of a file; `hear` is called with how many have been.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        file: File,
        length: u64,
        hear: impl Fn(u64) + Send + 'static,
        time: Duration,
    ) -> Result<T, Failure> {
        self.send_file(Method::POST, path, file, length, hear, time).await
    }

    /// The same, in the place of what is there.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn put_file<T: DeserializeOwned>(
        &self,
        path: &str,
        file: File,
        length: u64,
        hear: impl Fn(u64) + Send + 'static,
        time: Duration,
    ) -> Result<T, Failure> {
        self.send_file(Method::PUT, path, file, length, hear, time).await
    }

    async fn send_file<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        file: File,
        length: u64,
        hear: impl Fn(u64) + Send + 'static,
        time: Duration,
    ) -> Result<T, Failure> {
        let pieces = stream::try_unfold((file, 0, hear), async |(mut file, sent, hear)| {
            let mut piece = vec![0; PIECE];
            let read = file.read(&mut piece).await?;
            if read == 0 {
                return io::Result::Ok(None);
            }
            piece.truncate(read);
            let sent = sent + read as u64;
            hear(sent);
            Ok(Some((Frame::data(Bytes::from(piece)), (file, sent, hear))))
        });
        let (parts, _) = self.request(method, path, None)?.into_parts();
        let mut request = http::Request::from_parts(parts, StreamBody::new(pieces).boxed_unsync());
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        Ok(self.answered(request, time).await?.1)
    }
}
